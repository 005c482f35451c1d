"""A small image with this machine's Python and the small server: no registry, no network."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from assay.adapters.docker.oci_archive import ImageConfig, write_archive

SERVER_IMAGE = "assay/test-server:1"
PREFIX = f"usr/lib/{Path(sysconfig.get_path('stdlib')).resolve().name}"
"""Of the standard library inside."""
_LEFT_OUT = {
    "lib2to3",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "site-packages",
    "__pycache__",
    "turtledemo",
}


def write_server_image(folder: Path, *, version: str) -> Path:
    """Write the archive; the image says that it has sglang of `version`, and starts the small server for it."""
    support = Path(__file__).parent
    # `python3 -m sglang.launch_server` is the small server, as it would be the real one in a real image.
    module = b"import runpy\nrunpy.run_path('/srv/openai_server.py', run_name='__main__')\n"
    packages = f"{PREFIX}/site-packages"
    files = {
        "srv/openai_server.py": (support / "openai_server.py").read_bytes(),
        "srv/help.txt": (support.parent / "assets" / "serve" / f"help-sglang-{version}.txt").read_bytes(),
        f"{packages}/sglang/__init__.py": b"",
        f"{packages}/sglang/launch_server.py": module,
        f"{packages}/sglang-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n".encode()
        ),
    }
    return write_python_image(folder, SERVER_IMAGE, files)


def write_python_image(
    folder: Path, name: str, more: Mapping[str, bytes], *, labels: Mapping[str, str] | None = None
) -> Path:
    """Write the archive of an image with this machine's Python and some files more."""
    executable = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        seen: set[str] = set()
        for top in ("tmp", "proc", "dev", "sys"):
            _folder(tar, top, seen)
        _file(tar, "usr/bin/python3", executable, seen)
        files = [executable]
        for path in sorted(library.rglob("*")):
            parts = path.relative_to(library).parts
            if path.is_file() and not _LEFT_OUT & set(parts):
                _file(tar, f"{PREFIX}/{'/'.join(parts)}", path, seen)
                files += [path] if ".so" in path.name else []
        for needed in sorted(_libraries(files)):
            _file(tar, needed.lstrip("/"), Path(needed).resolve(), seen)
        for inside, data in more.items():
            _bytes(tar, inside, data, seen)
    archive = folder / "server.tar"
    config = ImageConfig(
        command=("/usr/bin/python3",),
        env=("PATH=/usr/bin", "PYTHONHOME=/usr", "PYTHONDONTWRITEBYTECODE=1"),
        labels=dict(labels or {}),
        made_by="tests/support/python_image.py",
    )
    write_archive(archive, layer, name, config)
    return archive


def _libraries(files: Iterable[Path]) -> set[str]:
    said = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(?:=> |^\s+)(/\S+)", said, re.MULTILINE))


def _folder(tar: tarfile.TarFile, name: str, seen: set[str]) -> None:
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        if path not in seen:
            seen.add(path)
            member = tarfile.TarInfo(path)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(member)


def _file(tar: tarfile.TarFile, name: str, source: Path, seen: set[str]) -> None:
    _bytes(tar, name, source.read_bytes(), seen)


def _bytes(tar: tarfile.TarFile, name: str, data: bytes, seen: set[str]) -> None:
    if name in seen:
        return
    _folder(tar, name.rpartition("/")[0], seen)
    seen.add(name)
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o755
    tar.addfile(member, io.BytesIO(data))

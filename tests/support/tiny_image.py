"""A small image made of this machine's shell and a few programs: no registry, no network, the same every time."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from assay.adapters.docker.oci_archive import ImageConfig, write_archive

TINY = "assay/test-tiny:1"
PROGRAMS = ("sh", "cat", "sleep", "head", "tail", "id", "ls", "mkdir", "env", "kill", "touch", "rm", "tr", "wc", "grep")


def write_tiny(folder: Path) -> Path:
    """Write the image's archive into a folder and return its path."""
    found = {name: shutil.which(name) for name in PROGRAMS}
    needed = {path: f"bin/{name}" for name, path in found.items() if path is not None}
    for path in list(needed):
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+)", said):
            needed[library] = library.lstrip("/")
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        for name in ("bin", "etc", "tmp", "proc", "dev", "sys"):
            _entry(tar, name, mode=0o1777 if name == "tmp" else 0o755, kind=tarfile.DIRTYPE)
        for source, name in sorted(needed.items()):
            data = Path(source).resolve().read_bytes()
            _entry(tar, name, data=data)
        _entry(
            tar, "etc/passwd", data=b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", mode=0o644
        )
        _entry(tar, "etc/.hidden", data=b"hidden\n", mode=0o600)
        _entry(tar, "etc/link", kind=tarfile.SYMTYPE, target="passwd")
        _entry(tar, "etc/hard", kind=tarfile.LNKTYPE, target="etc/passwd")
    archive = folder / "tiny.tar"
    config = ImageConfig(
        command=("/bin/sh", "-c", "echo hello"),
        env=("PATH=/bin", "GREETING=hello=you"),
        labels={"org.example.size": "tiny"},
        made_by="tests/support/tiny_image.py",
    )
    write_archive(archive, layer, TINY, config)
    return archive


def _entry(
    tar: tarfile.TarFile,
    name: str,
    *,
    data: bytes = b"",
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, target, len(data)
    tar.addfile(member, io.BytesIO(data))

"""For tests: an assembled image held against the same image built by BuildKit, file by file and import by import."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
from typing import Final, NamedTuple

ROOTS: Final = ("opt", "etc", "home", "usr", "var/lib/dpkg")
"""Folders that are compared; an engine and a running system write into the others."""
ONLY_BUILT: Final = re.compile(
    r"opt/venv/(?:\.gitignore|\.lock|CACHEDIR\.TAG|bin/(?:activate|deactivate|pydoc).*)"
    r"|.*\.dist-info/(?:REQUESTED|uv_(?:build|cache)\.json)"
    r"|etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-|var/lib/dpkg/status-old"
)
"""What a build leaves beside: scripts that activate an environment, the installer's own notes, copies by useradd."""
OTHER_BYTES: Final = re.compile(
    r".*\.pyc|.*\.dist-info/INSTALLER|opt/venv/pyvenv\.cfg|etc/shadow"
    r"|var/lib/dpkg/available|opt/cuda/lib64/stubs/libcuda\.so"
)
"""Bytecode, who installed it, the day on which an account was made, dpkg's cache, and the driver's stub for linking."""
RECORD: Final = re.compile(r".*\.dist-info/RECORD")
"""Written anew by each installer; uv keeps the mode that the wheel gives it."""
SCRIPT: Final = re.compile(r"opt/venv/bin/[^/]+")
"""Scripts of entry points: each installer has a text of its own."""
SCRIPT_BYTES: Final = 2048
IMPORTS: Final = """\
import concurrent.futures, json, os, pkgutil, subprocess, sys, sysconfig
def imports(name):
    try:
        done = subprocess.run([sys.executable, "-c", "import " + name], capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        return name, "time"
    return name, "yes" if done.returncode == 0 else "no"
names = sorted({one.name for one in pkgutil.iter_modules([sysconfig.get_path("purelib")]) if one.name.isidentifier()})
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    print(json.dumps(dict(pool.map(imports, names))))
"""


class TwinFile(NamedTuple):
    """A file of an image, as far as it is compared."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    content: str
    """sha256, or the target of a link."""


def exported(image: str) -> dict[str, TwinFile]:
    """Return path -> file of an image that the engine holds."""
    made = subprocess.run(["docker", "create", image, "none"], check=True, text=True, capture_output=True)
    container = made.stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as tar:
                files = {member.name.rstrip("/"): _file(tar, member) for member in tar}
        assert process.returncode == 0
    finally:
        subprocess.run(["docker", "rm", "--volumes", container], check=True, capture_output=True)
    return {path: file for path, file in files.items() if path.startswith(ROOTS)}


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo) -> TwinFile:
    content = member.linkname
    if member.isfile():
        file = tar.extractfile(member)
        assert file is not None
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        content = digest.hexdigest()
    return TwinFile(member.type, member.mode, member.uid, member.gid, member.size, content)


def differences(assembled: dict[str, TwinFile], built: dict[str, TwinFile]) -> list[str]:
    """Return what differs beyond the written lists above, a line each."""
    found = [f"only assembled: {path}" for path in sorted(assembled.keys() - built.keys())]
    filled = {path.rpartition("/")[0] for path in built}
    for path in sorted(built.keys() - assembled.keys()):
        empty = built[path].kind == tarfile.DIRTYPE and path not in filled
        if not empty and not ONLY_BUILT.fullmatch(path):
            found.append(f"only built: {path}")
    for path in sorted(assembled.keys() & built.keys()):
        ours, theirs = assembled[path], built[path]
        if ours == theirs or RECORD.fullmatch(path):
            continue
        script = SCRIPT.fullmatch(path) is not None and max(ours.size, theirs.size) <= SCRIPT_BYTES
        if ours[:4] != theirs[:4] or not (script or OTHER_BYTES.fullmatch(path)):
            found.append(f"differs: {path}: {ours} {theirs}")
    return found


def imports(image: str) -> dict[str, str]:
    """Return each top-level module of an image's environment -> whether it can be imported: `yes`, `no`, `time`."""
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=python", image, "-c", IMPORTS]
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return dict(json.loads(done.stdout))


def config(image: str) -> dict[str, object]:
    """Return the configuration of an image, without what differs by nature."""
    said = subprocess.run(["docker", "image", "inspect", image], check=True, text=True, capture_output=True).stdout
    found = dict(json.loads(said)[0]["Config"])
    # BuildKit's own mark for a command that is not a shell's; Docker reads it on Windows alone.
    found.pop("ArgsEscaped", None)
    own = {"dev.assay.content-key", "assay.base", "org.opencontainers.image.revision"}
    found["Labels"] = {
        name: value
        for name, value in found["Labels"].items()
        if name not in own and not name.startswith("dev.assay.built.")
    }
    return {key: value for key, value in found.items() if value}

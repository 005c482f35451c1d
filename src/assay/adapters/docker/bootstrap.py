"""Bases bootstrapped with debootstrap, packed so that the same packages give the same digest."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from platform import machine
from typing import Final

from assay.adapters.docker.oci_archive import ImageConfig, write_archive
from assay.adapters.files.locks import locked
from assay.adapters.host import process
from assay.errors import ToolError
from assay.foundation.platforms import Platform
from assay.matrix.model import BootstrapBase
from assay.ports.base import BaseImage
from assay.ports.engine import Engine
from assay.wheels import debian
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf

__all__ = [
    "KEYRING",
    "LABEL_FACTS",
    "DebootstrapBases",
    "check_base",
    "host_mirror",
    "missing_tools",
    "release_date",
    "sources",
]

LABEL_FACTS: Final = "assay.base"
"""Label of a base: JSON with its Python, glibc, symbol versions and packages."""
_NEEDED_BYTES: Final = 3 << 30
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""What Debian signs its archive with."""
_HINT: Final = "`./quickstart engine` installs it, or as root: apt-get install debootstrap debian-archive-keyring"
# What debootstrap leaves behind that names this machine or this moment, or that nobody needs. The compiled files of
# debpython are written while it is imported, and were seen to differ between machines.
_CLEAN: Final = r"""
set -eu
cd "$1"
rm -rf var/cache/apt/archives/* var/cache/apt/*.bin var/lib/apt/lists/* var/log/* debootstrap
rm -rf usr/share/python3/debpython/__pycache__
rm -f var/cache/ldconfig/aux-cache
rm -f etc/hostname etc/resolv.conf etc/*- var/cache/debconf/*-old var/lib/dpkg/*-old var/lib/systemd/random-seed
rm -f var/lib/dbus/machine-id etc/apt/apt.conf.d/*proxy* etc/ssl/private/*
: > etc/machine-id
mkdir -p var/log/apt var/lib/apt/lists/partial var/cache/apt/archives/partial
cat > etc/apt/sources.list
"""


class DebootstrapBases:
    """Makes bases with debootstrap, as root or through sudo, and loads them into an engine."""

    def __init__(self, engine: Engine, *, mirror: str | None = None, scratch: Path | None = None) -> None:
        """Make a builder.

        Args:
            engine: takes the image.
            mirror: where packages come from; without it what this machine's apt uses, else debootstrap's default.
            scratch: where the file system is put together (3 GB); the system's temporary folder without it.
        """
        self._engine = engine
        self._mirror = mirror or os.environ.get("ASSAY_DEBIAN_MIRROR")
        self._scratch = scratch or Path(tempfile.gettempdir())

    def ensure(
        self,
        base: BootstrapBase,
        reference: str,
        *,
        progress: Callable[[str], None] | None = None,
        platform: Platform = Platform.AMD64,
    ) -> BaseImage:
        """Return the base, making it if need be; see the port."""
        say = progress or (lambda _: None)
        if (found := self._found(reference)) is not None:
            return found
        with _one_at_a_time(self._scratch, reference):
            # Another run may have made it while this one waited.
            if (found := self._found(reference)) is not None:
                return found
            self._make(base, reference, say, platform)
        made = self._found(reference)
        if made is None:
            raise ToolError(f"the base {reference} was loaded, yet the engine does not hold it")
        return BaseImage(**{**vars(made), "built": True})

    def _found(self, reference: str) -> BaseImage | None:
        image = self._engine.image(reference)
        if image is None or LABEL_FACTS not in image.labels:
            return None
        facts = json.loads(image.labels[LABEL_FACTS])
        return BaseImage(reference=reference, digest=image.digest or image.id, built=False, **facts)

    def _make(self, base: BootstrapBase, reference: str, say: Callable[[str], None], platform: Platform) -> None:
        with tempfile.TemporaryDirectory(prefix="assay-archive-", dir=self._scratch) as folder:
            archive = Path(folder) / "base.tar"
            self.write(base, reference, archive, say, platform)
            say("loading into the engine")
            self._engine.load(archive)

    def write(
        self,
        base: BootstrapBase,
        reference: str,
        archive: Path,
        say: Callable[[str], None],
        platform: Platform = Platform.AMD64,
    ) -> None:
        """Make a base and write it as an archive, without an engine.

        Raises:
            ToolError: a tool is missing or failed, there is no room, or what came out is not what the recipe says.
        """
        if platform.machine != machine():
            raise ToolError(
                f"the base {reference} is for {platform}, whose programs this machine ({machine()}) cannot run",
                hint=f"build on a machine of {platform}, or make the image here with `assay assemble`",
            )
        if missing := missing_tools():
            raise ToolError(f"the base {reference} cannot be made: {', '.join(missing)} missing", hint=_HINT)
        if shutil.disk_usage(self._scratch).free < _NEEDED_BYTES:
            raise ToolError(
                f"the base {reference} needs {_NEEDED_BYTES >> 30} GB in {self._scratch}",
                hint="set TMPDIR to another disk",
            )
        root = _root(reference)
        folder = Path(tempfile.mkdtemp(prefix=f"assay-base-{os.getpid()}-", dir=self._scratch))
        try:
            target = folder / "root"
            epoch = self._bootstrap(base, target, root, say)
            say("reading what was installed")
            facts = _facts(target)
            check_base(base, reference, facts)
            say("packing")
            layer = folder / "layer.tar"
            process.run(
                [*root, "tar", "--sort=name", "--clamp-mtime", f"--mtime=@{epoch}", "--numeric-owner", "--format=gnu",
                 "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "-C", target, "-cf", layer, "."]
            )  # fmt: skip
            config = ImageConfig(
                architecture=platform.architecture,
                created=epoch,
                command=("/bin/bash",),
                labels={LABEL_FACTS: json.dumps(facts, sort_keys=True)},
                made_by=f"debootstrap --variant=minbase {base.suite} {' '.join(base.packages)}",
            )
            write_archive(archive, layer, reference, config)
        finally:
            _remove(folder, root)

    def _bootstrap(self, base: BootstrapBase, target: Path, root: list[str], say: Callable[[str], None]) -> int:
        """Install the packages, clean up, and return the moment the archive was made, in seconds since 1970."""
        mirror = self._mirror or host_mirror()
        say(f"installing Debian {base.suite} and {len(base.packages)} packages")
        # shadow writes today into /etc/shadow, and Python orders sets by its hash seed: both are fixed here. A file
        # system that is thrown away when the power fails need not be synced package by package.
        fixed = [
            "SOURCE_DATE_EPOCH=0",
            "PYTHONHASHSEED=0",
            "DPKG_FORCE=unsafe-io",
            "DEBIAN_FRONTEND=noninteractive",
            "LC_ALL=C",
        ]
        include = [f"--include={','.join(sorted(base.packages))}"] if base.packages else []
        done = process.run(
            [*root, "env", *fixed, "debootstrap", "--variant=minbase", "--merged-usr", f"--keyring={KEYRING}",
             *include, base.suite, target, *([mirror] if mirror else [])],
            check=False,
            merge=True,
            sink=_steps(say),
            timeout=1800,
        )  # fmt: skip
        if done.returncode != 0:
            raise ToolError(
                f"debootstrap of {base.suite} failed:\n"
                + "\n".join(f"  {line}" for line in done.text.splitlines()[-8:]),
                hint="is the mirror that apt uses reachable? ASSAY_DEBIAN_MIRROR names another one",
            )
        released = next(iter((target / "var/lib/apt/lists").glob("*_Release")), None)
        epoch = release_date(released.read_text()) if released else 0
        process.run([*root, "sh", "-c", _CLEAN, "sh", target], stdin=sources(base.suite).encode())
        return epoch


def missing_tools() -> list[str]:
    """Return what a bootstrap needs and this machine lacks."""
    missing = [
        tool for tool in ("debootstrap", "tar") if process.find(tool) is None and not Path("/usr/sbin", tool).exists()
    ]
    return missing if KEYRING.exists() else [*missing, "debian-archive-keyring"]


def host_mirror() -> str | None:
    """Return the archive that this machine's apt takes Debian's main component from, if it is one of http(s)."""
    if process.find("apt-get") is None:
        return None
    line = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    said = process.run(["apt-get", "indextargets", "--format", line, "Created-By: Packages"], check=False)
    for entry in said.text.splitlines():
        origin, label, component, uri = [*entry.split("|", 3), "", "", ""][:4]
        if (origin, label, component) == ("Debian", "Debian", "main") and uri.startswith(("http://", "https://")):
            return uri
    return None


def _root(reference: str) -> list[str]:
    """Return how to run something as root."""
    # Plain users' PATH lacks the folders where debootstrap and chroot live.
    path = f"PATH={os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    # Some files of the base get their modes from the umask of whoever makes it.
    plain = ["env", path, "sh", "-c", 'umask 022; exec "$@"', "sh"]
    if os.geteuid() == 0:
        return plain
    if process.find("sudo") and process.run(["sudo", "-n", "true"], check=False).returncode == 0:
        return ["sudo", "-n", *plain]
    raise ToolError(
        f"making the base {reference} needs root (debootstrap), and sudo asks for a password or is missing",
        hint="`sudo -v` first, run this step once as root, or use a base from a registry",
    )


def _steps(say: Callable[[str], None]) -> Callable[[bytes], None]:
    """Return a sink that passes on debootstrap's phases, not its hundreds of packages."""
    seen: set[str] = set()

    def sink(data: bytes) -> None:
        for word in re.findall(r"^I: (\w+)", data.decode(errors="replace"), re.MULTILINE):
            if word not in seen:
                seen.add(word)
                say(f"debootstrap: {word.lower()}")

    return sink


def release_date(release: str) -> int:
    """Return when an archive was made, seconds since 1970, by its Release file; 0 if that does not say."""
    match = re.search(r"^Date: (.+)$", release, re.MULTILINE)
    return int(parsedate_to_datetime(match[1]).timestamp()) if match else 0


def sources(suite: str) -> str:
    """Return apt's sources as the distribution would have them; the mirror used here is nobody else's business."""
    script = Path(process.find("debootstrap") or "/usr/sbin/debootstrap").read_text()
    match = re.search(r'^\s*DEF_MIRROR="?([^"\s]+)"?', script, re.MULTILINE)
    if match is None:
        return "# no source is known; give one to builds as the secret apt-sources\n"
    main = match[1].rstrip("/")
    return (
        f"deb {main} {suite} main\n"
        f"deb {main} {suite}-updates main\n"
        f"deb {main.removesuffix('/debian')}/debian-security {suite}-security main\n"
    )


def _facts(target: Path) -> dict[str, object]:
    packages = debian.installed((target / "var/lib/dpkg/status").read_text())
    python = next((name for name in packages if re.fullmatch(r"python3\.[0-9]+", name)), None)
    versions: list[str] = []
    for library in ("libc.so.6", "libstdc++.so.6"):
        for path in sorted((target / "usr/lib").glob(f"*-linux-gnu/{library}")):
            versions += read_elf(FileImage(path.read_bytes())).defined_versions
    return {
        "python": debian.upstream_version(packages[python]) if python else "",
        "glibc": debian.upstream_version(packages["libc6"]),
        "symbols": dict(debian.newest_symbols(versions)),
        "packages": packages,
    }


def check_base(base: BootstrapBase, reference: str, facts: Mapping[str, object]) -> None:
    """Refuse a base that is not what locks were made for."""
    for name, wanted in (("python", base.python), ("glibc", base.glibc)):
        have = str(facts[name])
        if have != wanted and not have.startswith(f"{wanted}."):
            raise ToolError(
                f"the base {reference} came out with {name} {have or '(none)'}, its recipe says {wanted}",
                hint=f"correct `{name}` of this base in matrix.yaml, or its suite {base.suite}",
            )


@contextmanager
def _one_at_a_time(scratch: Path, reference: str) -> Iterator[None]:
    """Hold a lock on a base, and clear away what killed builds left."""
    name = re.sub(r"[^A-Za-z0-9.-]", "_", reference)
    with locked(scratch / f"assay-lock-{os.getuid()}-{name}", wait=True):
        for folder in scratch.glob("assay-base-*"):
            pid = folder.name.split("-")[2]
            if folder.stat().st_uid == os.getuid() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with suppress(ToolError):
                    _remove(folder, _root(reference))
        yield


def _remove(folder: Path, root: list[str]) -> None:
    """Remove a file system that was put together; a bootstrap that was killed leaves /proc mounted in it."""
    inside = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {folder}/" in line]
    for mounted in reversed(inside):
        process.run([*root, "umount", "-l", mounted], check=False)
    process.run([*root, "rm", "-rf", "--one-file-system", folder], check=False)

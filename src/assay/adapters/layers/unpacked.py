"""Bases for another platform, made of Debian's packages without running a program of that platform.

debootstrap runs the maintainer scripts of what it installs, and so needs the platform, or an emulator that the kernel
knows. Here packages are resolved and checked by apt, and unpacked; of what their scripts do, the part is written that
programs in an image need: accounts, name services, certificates, and the links of alternatives. Packages are marked as
unpacked, not as installed. Nothing needs root, and the same packages give the same bytes on every machine.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from assay.adapters.docker.bootstrap import KEYRING, LABEL_FACTS, check_base, host_mirror, release_date, sources
from assay.adapters.docker.oci_archive import ImageConfig, write_archive
from assay.adapters.host import process
from assay.errors import ToolError
from assay.foundation.platforms import Platform
from assay.matrix.model import BootstrapBase
from assay.wheels import debian
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf

__all__ = ["UnpackedBases"]

_MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links into usr."""
_MINIMAL: Final = ("?essential", "?priority(required)", "apt")
"""What debootstrap's minbase has."""
_COPIES: Final = {
    "etc/passwd": "usr/share/base-passwd/passwd.master",
    "etc/group": "usr/share/base-passwd/group.master",
    "etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
    "etc/profile": "usr/share/base-files/profile",
    "etc/shells": "usr/share/debianutils/shells",
    "root/.bashrc": "usr/share/base-files/dot.bashrc",
    "root/.profile": "usr/share/base-files/dot.profile",
}
"""Files that maintainer scripts copy."""
_LINKS: Final = {
    "etc/alternatives/awk": "/usr/bin/mawk",
    "etc/alternatives/c++": "/usr/bin/g++",
    "etc/alternatives/cc": "/usr/bin/gcc",
    "etc/alternatives/which": "/usr/bin/which.debianutils",
    "etc/os-release": "../usr/lib/os-release",
    "usr/bin/awk": "/etc/alternatives/awk",
    "usr/bin/c++": "/etc/alternatives/c++",
    "usr/bin/cc": "/etc/alternatives/cc",
    "usr/bin/which": "/etc/alternatives/which",
}
"""Links that maintainer scripts make, as `update-alternatives` does."""
_CERTIFICATES: Final = "usr/share/ca-certificates/"
_BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"
_KEPT: Final = 16 << 20
"""Bytes of a file that is looked at; libc and libstdc++ have some two million."""
_NAME: Final = re.compile(r"^([^:\s]+)", re.MULTILINE)


class UnpackedBases:
    """Makes bases of a platform by unpacking packages.

    Args:
        mirror: where packages come from; without it what this machine's apt uses.
    """

    def __init__(self, mirror: str | None = None) -> None:
        self._mirror = mirror or os.environ.get("ASSAY_DEBIAN_MIRROR")

    def write(
        self, base: BootstrapBase, reference: str, archive: Path, say: Callable[[str], None], platform: Platform
    ) -> None:
        """Make a base and write it as an archive.

        Raises:
            ToolError: a tool is missing or failed, or what came out is not what the recipe says.
        """
        missing = [tool for tool in ("apt-get", "dpkg-deb") if process.find(tool) is None]
        if missing or not KEYRING.exists():
            raise ToolError(
                f"the base {reference} for {platform} cannot be made: {', '.join(missing) or KEYRING.name} is missing",
                hint="assemble on Debian or Ubuntu with debian-archive-keyring",
            )
        with tempfile.TemporaryDirectory(prefix="assay-unpacked-", dir=archive.parent) as scratch:
            apt = _Apt(Path(scratch), base, platform, self._mirror or host_mirror())
            say(f"fetching Debian {base.suite} and {len(base.packages)} packages for {platform}")
            packages = apt.fetch()
            say(f"unpacking {len(packages)} packages")
            layer = Path(scratch) / "layer.tar"
            with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as out:
                root = _Root(out, Path(scratch) / "package.tar", platform, epoch=apt.epoch)
                for package in packages:
                    root.unpack(package)
                root.finish(base)
            facts = root.facts()
            check_base(base, reference, facts)
            config = ImageConfig(
                architecture=platform.architecture,
                created=apt.epoch,
                command=("/bin/bash",),
                labels={LABEL_FACTS: json.dumps(facts, sort_keys=True)},
                made_by=f"unpacked, not configured: {base.suite} minbase {' '.join(base.packages)}",
            )
            say("packing")
            write_archive(archive, layer, reference, config)


class _Apt:
    """An apt of its own, for one platform, that touches nothing of this machine."""

    def __init__(self, scratch: Path, base: BootstrapBase, platform: Platform, mirror: str | None) -> None:
        if mirror is None:
            raise ToolError("no mirror of Debian is known", hint="ASSAY_DEBIAN_MIRROR names one")
        self._folder = scratch / "apt"
        self._base = base
        for name in ("lists/partial", "archives/partial"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "status").touch()
        (self._folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {base.suite} main\n")
        settings = {
            "Dir::State::Lists": self._folder / "lists",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder,
            "Dir::Etc::SourceList": self._folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Architecture": platform.architecture,
            "APT::Architectures": platform.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]
        self.epoch = 0
        """When the archive was made, seconds since 1970."""

    def fetch(self) -> list[Path]:
        """Return the packages, checked by apt, in the order of their names.

        Raises:
            ToolError: the mirror cannot be reached, or a package is missing.
        """
        hint = "is the mirror that apt uses reachable? ASSAY_DEBIAN_MIRROR names another one"
        process.run(["apt-get", *self._options, "--error-on=any", "update"], timeout=600, hint=hint)
        released = next(iter((self._folder / "lists").glob("*Release")), None)
        self.epoch = release_date(released.read_text()) if released else 0
        wanted = [*_MINIMAL, *self._base.packages]
        process.run(
            ["apt-get", *self._options, "install", "--yes", "--download-only", *wanted], timeout=1800, hint=hint
        )
        return sorted((self._folder / "archives").glob("*.deb"), key=lambda path: path.name)


class _Root:
    """A file system that is written as a tar, each path once."""

    def __init__(self, out: tarfile.TarFile, scratch: Path, platform: Platform, *, epoch: int) -> None:
        self._out = out
        self._scratch = scratch
        self._platform = platform
        self._epoch = epoch
        self._names: set[str] = set()
        self._kept: dict[str, bytes] = {}
        self._status: list[str] = []
        self._packages: dict[str, str] = {}
        for name in _MERGED if platform is Platform.AMD64 else ("bin", "lib", "sbin"):
            self._link(name, f"usr/{name}")

    def unpack(self, package: Path) -> None:
        """Write the files of a package, and what dpkg keeps of it."""
        control = process.run(["dpkg-deb", "--field", package]).text
        fields = dict(re.findall(r"^(Package|Version|Multi-Arch|Architecture): (.*)$", control, re.MULTILINE))
        name = fields["Package"]
        own = f"{name}:{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else name
        self._packages[name] = fields["Version"]
        self._status.append(control.replace("\n", "\nStatus: install ok unpacked\n", 1).rstrip("\n") + "\n")
        listed: list[str] = []
        for member, data in self._members("--fsys-tarfile", package):
            listed.append("/" + member.name)
            self._add(member, data)
        self._file(f"var/lib/dpkg/info/{own}.list", "\n".join(["/.", *listed, ""]).encode())
        for member, data in self._members("--ctrl-tarfile", package):
            if member.isfile() and member.name != "control" and data is not None:
                self._file(f"var/lib/dpkg/info/{own}.{member.name}", data.read(), mode=member.mode)

    def _members(self, form: str, package: Path) -> Iterator[tuple[tarfile.TarInfo, io.BufferedIOBase | None]]:
        with self._scratch.open("wb") as file:

            def keep(chunk: bytes) -> None:
                file.write(chunk)

            process.run(["dpkg-deb", form, package], sink=keep, limit=1 << 16)
        with tarfile.open(self._scratch) as packed:
            for member in packed:
                member.name = posixpath.normpath(member.name)
                if member.name != ".":
                    yield member, packed.extractfile(member) if member.isreg() else None  # type: ignore[misc]

    def _add(self, member: tarfile.TarInfo, data: io.BufferedIOBase | None) -> None:
        member.name = _merged(member.name)
        member.linkname = _merged(posixpath.normpath(member.linkname)) if member.islnk() else member.linkname
        member.uname = member.gname = ""
        if member.name in self._names or member.name in _MERGED:
            return
        self._names.add(member.name)
        if data is not None and self._is_looked_at(member):
            self._kept[member.name] = data.read()
            data = io.BytesIO(self._kept[member.name])
        self._out.addfile(member, data)

    @staticmethod
    def _is_looked_at(member: tarfile.TarInfo) -> bool:
        known = member.name in _COPIES.values() or member.name.startswith(_CERTIFICATES)
        runtime = re.fullmatch(r"usr/lib/[^/]+/(?:libc\.so\.6|libstdc\+\+\.so\.6[.\d]*)", member.name)
        return (known or runtime is not None) and member.size <= _KEPT

    def _file(self, name: str, data: bytes, *, mode: int = 0o644, gid: int = 0) -> None:
        if name in self._names:
            return
        self._names.add(name)
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.gid, member.mtime = len(data), mode, gid, self._epoch
        self._out.addfile(member, io.BytesIO(data))

    def _link(self, name: str, target: str) -> None:
        self._names.add(name)
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode, member.mtime = tarfile.SYMTYPE, target, 0o777, self._epoch
        self._out.addfile(member)

    def finish(self, base: BootstrapBase) -> None:
        """Write what maintainer scripts would, as far as programs in an image need it."""
        for name, source in _COPIES.items():
            if source in self._kept:
                # Passwords, of which there are none, are in the shadow files.
                self._file(name, self._kept[source].replace(b":*:", b":x:"))
        for name, target in _LINKS.items():
            there = posixpath.normpath(posixpath.join(posixpath.dirname(name), target)).lstrip("/")
            if there in self._names and name not in self._names:
                self._link(name, target)
        accounts = _NAME.findall(self._kept["usr/share/base-passwd/passwd.master"].decode())
        groups = _NAME.findall(self._kept["usr/share/base-passwd/group.master"].decode())
        # No password and no date: `*` admits nobody, and a date would be another one every day.
        self._file("etc/shadow", "".join(f"{one}:*::0:99999:7:::\n" for one in accounts).encode(), mode=0o640, gid=42)
        self._file("etc/gshadow", "".join(f"{one}:*::\n" for one in groups).encode(), mode=0o640, gid=42)
        for name in ("etc/subuid", "etc/subgid", "etc/machine-id"):
            self._file(name, b"")
        trusted = [data for name, data in sorted(self._kept.items()) if name.startswith(_CERTIFICATES)]
        if trusted:
            self._file(_BUNDLE, b"".join(trusted))
            self._link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
        self._file("etc/apt/sources.list", sources(base.suite).encode())
        self._file("var/lib/dpkg/arch", f"{self._platform.architecture}\n".encode())
        self._file("var/lib/dpkg/status", "\n".join(self._status).encode())

    def facts(self) -> dict[str, object]:
        """Return what the label of a base says; see `DebootstrapBases`."""
        python = next((name for name in self._packages if re.fullmatch(r"python3\.[0-9]+", name)), None)
        versions: list[str] = []
        for name, data in self._kept.items():
            if ".so" in name:
                versions += read_elf(FileImage(data)).defined_versions
        return {
            "python": debian.upstream_version(self._packages[python]) if python else "",
            "glibc": debian.upstream_version(self._packages["libc6"]),
            "symbols": dict(debian.newest_symbols(versions)),
            "packages": dict(sorted(self._packages.items())),
        }


def _merged(name: str) -> str:
    top, slash, rest = name.partition("/")
    return f"usr/{top}/{rest}" if slash and top in _MERGED else name

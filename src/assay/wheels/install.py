"""What installing a wheel writes: every path, mode and content below a prefix. Pure.

The rules are those of the binary distribution format (packaging.python.org, "Installing a wheel"): data schemes,
`#!python` scripts, entry points, RECORD. Entry points, scripts and RECORD are parsed and made by PyPA's `installer`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from installer.records import InvalidRecordEntry, parse_record_file
from installer.scripts import Script
from installer.utils import parse_entrypoints, parse_metadata_file

from assay.errors import WheelError
from assay.wheels.archive import Member

__all__ = ["InstalledFile", "Packed", "Prefix", "installed_files", "parents"]

INSTALLER: Final = b"assay\n"
_FILE: Final = 0o644
_PROGRAM: Final = 0o755
_DROPPED: Final = ("RECORD.jws", "RECORD.p7s")
"""Signatures of a RECORD that is written anew."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_SHEBANG: Final = re.compile(rb"#!pythonw?(?=\s)")
_HASH: Final = re.compile(r"sha256=[A-Za-z0-9_-]{43}")
_WHITEOUT: Final = ".wh."
"""In a layer such a name removes a file below it (image-spec, layer.md)."""
_MAX_NAME: Final = 255
"""Bytes of a file's name that file systems hold."""
_MAX_PATH: Final = 3072
"""Bytes of a path below the prefix: Linux holds 4096 of the whole."""
_MAX_TEXT: Final = 256 << 10
"""Bytes of WHEEL and entry_points.txt; each line of the latter becomes a script."""
_MAX_RECORD: Final = 32 << 20
_MAX_ROWS: Final = 250_000


class Packed(NamedTuple):
    """A file of the wheel, with the bits of its mode that the archive keeps."""

    member: Member
    attributes: int
    """`external_attr >> 16`: the Unix mode, 0 where the archive was made elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Where a wheel is installed: an environment laid out as Python's `posix_prefix` scheme has it."""

    path: str
    """Absolute, `/opt/venv`."""
    python: str
    """`3.11`."""

    @property
    def site_packages(self) -> str:
        """Below the prefix."""
        return f"lib/python{self.python}/site-packages"

    @property
    def interpreter(self) -> str:
        """What scripts are run by."""
        return f"{self.path}/bin/python"

    def scheme(self, name: str, distribution: str) -> str | None:
        """Return the folder of a data scheme below the prefix; None for a scheme that there is not."""
        return {
            "purelib": self.site_packages,
            "platlib": self.site_packages,
            "scripts": "bin",
            "headers": f"include/site/python{self.python}/{distribution}",
            "data": "",
        }.get(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledFile:
    """One file as it is installed."""

    path: str
    """Below the prefix."""
    mode: int
    content: bytes | Member
    """Bytes, or the file of the wheel that holds them unchanged."""
    digest: str = ""
    """Base64 of its sha256, as RECORD has it; empty for RECORD itself."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.size if isinstance(self.content, Member) else len(self.content)


def installed_files(
    files: Sequence[Packed], read: Callable[[Member], bytes], prefix: Prefix, *, wheel: str
) -> list[InstalledFile]:
    """Return what installing a wheel writes, sorted by path.

    Args:
        files: all files of the archive; folders are left out.
        read: gives the content of one, for those few that are parsed or changed.
        prefix: where it is installed.
        wheel: name of the file, for messages.

    Raises:
        WheelError: a name or link leads out of the prefix, the metadata is missing or damaged, or two files of the
            wheel would be installed to one path; names the wheel and the file.
    """
    return _Installation(files, read, prefix, wheel).run()


class _Installation:
    def __init__(self, files: Sequence[Packed], read: Callable[[Member], bytes], prefix: Prefix, wheel: str) -> None:
        self._files = {packed.member.name: packed for packed in files if not packed.member.is_directory}
        self._read = read
        self._prefix = prefix
        self._wheel = wheel
        for name, packed in self._files.items():
            self._check(name, packed.attributes)
        self._info = self._dist_info()
        self._distribution = self._info.removesuffix(".dist-info").rpartition("-")[0]
        self._data = f"{self._info.removesuffix('.dist-info')}.data/"

    def run(self) -> list[InstalledFile]:
        record = f"{self._info}/RECORD"
        hashes = self._hashes(record)
        placed: dict[str, InstalledFile] = {}
        folders = {"bin", *parents(f"{self._prefix.site_packages}/x")}
        rows: list[tuple[str, str, str]] = []
        for file, source in self._placed(record):
            if file.path in placed:
                raise self._error(file.path, "would be installed twice")
            row = self._row(file, hashes.get(source) if isinstance(file.content, Member) else None)
            placed[file.path] = replace(file, digest=row[1].removeprefix("sha256="))
            folders.update(parents(file.path))
            rows.append(row)
        for path in folders & placed.keys():
            raise self._error(path, "would be installed as a file and as a folder")
        site = self._prefix.site_packages
        rows.append((f"{self._info}/RECORD", "", ""))
        text = "".join(f"{_quoted(path)},{digest},{size}\n" for path, digest, size in sorted(rows))
        path = f"{site}/{self._info}/RECORD"
        placed[path] = InstalledFile(path=path, mode=_FILE, content=text.encode())
        return sorted(placed.values(), key=lambda file: file.path.encode())

    def _placed(self, record: str) -> Iterator[tuple[InstalledFile, str]]:
        """Yield every file but RECORD, with its name in the archive."""
        root = self._root()
        for name, packed in self._files.items():
            folder, _, rest = name.rpartition("/")
            if name == record or (folder == self._info and rest in _DROPPED):
                continue
            if "__pycache__" in folder.split("/"):
                # Bytecode in a wheel need not be that of its sources; installers leave it out.
                continue
            yield self._one(name, packed, root), name
        site = f"{self._prefix.site_packages}/{self._info}"
        if f"{self._info}/INSTALLER" not in self._files:
            yield InstalledFile(path=f"{site}/INSTALLER", mode=_FILE, content=INSTALLER), ""
        yield from ((script, "") for script in self._scripts())

    def _one(self, name: str, packed: Packed, root: str) -> InstalledFile:
        scheme, path = root, name
        if name.startswith(self._data):
            scheme, _, path = name.removeprefix(self._data).partition("/")
        folder = self._prefix.scheme(scheme, self._distribution)
        if folder is None or not path:
            raise self._error(name, f"belongs to no known scheme ({scheme!r})")
        mode = _PROGRAM if packed.attributes & 0o111 else _FILE
        content: bytes | Member = packed.member
        if scheme == "scripts":
            mode, content = _PROGRAM, self._script(packed.member)
        elif path == f"{self._info}/INSTALLER":
            content = INSTALLER
        path = posixpath.join(folder, path)
        if path.startswith("lib64/"):
            # In an environment that is a link to lib.
            path = f"lib/{path.removeprefix('lib64/')}"
        return InstalledFile(path=path, mode=mode, content=content)

    def _script(self, member: Member) -> bytes | Member:
        start = self._read(member)
        found = _SHEBANG.match(start)
        if found is None:
            return member
        return b"#!" + self._prefix.interpreter.encode() + start[found.end() :]

    def _scripts(self) -> Iterator[InstalledFile]:
        name = f"{self._info}/entry_points.txt"
        if name not in self._files:
            return
        try:
            points = list(parse_entrypoints(_plain(self._text(name))))
            made = [
                Script(one, module, attr, section).generate(self._prefix.interpreter, "posix")
                for one, module, attr, section in points
            ]
        except (ValueError, KeyError, AssertionError, SyntaxError) as error:
            raise self._error(name, f"cannot be read: {error}") from error
        except Exception as error:
            if type(error).__module__ != "configparser":
                raise
            raise self._error(name, f"cannot be read: {error}") from error
        for script, content in made:
            self._check(script, 0)
            if "/" in script:
                raise self._error(name, f"names a script {script!r}")
            yield InstalledFile(path=f"bin/{script}", mode=_PROGRAM, content=content)

    def _root(self) -> str:
        name = f"{self._info}/WHEEL"
        said = parse_metadata_file(self._text(name))
        version = str(said.get("Wheel-Version", ""))
        if not version.startswith("1."):
            raise self._error(name, f"is of the version {version or 'none'}; 1 is known")
        return "purelib" if str(said.get("Root-Is-Purelib", "")).strip().lower() == "true" else "platlib"

    def _hashes(self, record: str) -> dict[str, tuple[str, str]]:
        text = self._text(record, most=_MAX_RECORD)
        if text.count("\n") + text.count("\r") > _MAX_ROWS:
            raise self._error(record, f"has more than {_MAX_ROWS} lines")
        try:
            rows = parse_record_file(text.splitlines())
            return {path: (digest, size) for path, digest, size in rows if _HASH.fullmatch(digest)}
        except (InvalidRecordEntry, csv.Error) as error:
            raise self._error(record, f"cannot be read: {error}") from error

    def _row(self, file: InstalledFile, known: tuple[str, str] | None) -> tuple[str, str, str]:
        path = posixpath.relpath(file.path, self._prefix.site_packages)
        if known is None:
            data = self._read(file.content) if isinstance(file.content, Member) else file.content
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            return path, f"sha256={digest}", str(len(data))
        return path, known[0], str(file.size)

    def _dist_info(self) -> str:
        found = {name.partition("/")[0] for name in self._files if name.count("/") == 1 and name.endswith("/WHEEL")}
        found = {folder for folder in found if folder.endswith(".dist-info")}
        if len(found) != 1:
            raise WheelError(f"{self._wheel}: {len(found)} folders *.dist-info with a WHEEL file; a wheel has one")
        return found.pop()

    def _text(self, name: str, *, most: int = _MAX_TEXT) -> str:
        packed = self._files.get(name)
        if packed is None:
            raise self._error(name, "is missing")
        if packed.member.size > most:
            raise self._error(name, f"has {packed.member.size} bytes, more than {most}")
        try:
            return self._read(packed.member).decode()
        except UnicodeDecodeError as error:
            raise self._error(name, "is not UTF-8") from error

    def _check(self, name: str, attributes: int) -> None:
        if name.startswith("/") or ".." in name.split("/") or "" in name.split("/") or "." in name.split("/"):
            raise self._error(name, "leads out of the folder it is installed to")
        if _CONTROL.search(name):
            raise self._error(name, "has a name with control characters or backslashes")
        parts = name.split("/")
        if len(name.encode()) > _MAX_PATH or any(len(part.encode()) > _MAX_NAME for part in parts):
            raise self._error(f"{name[:60]}...", "has a name that is too long for a file system")
        if any(part.startswith(_WHITEOUT) for part in parts):
            raise self._error(name, "has a name that removes files in a layer of an image")
        if attributes and stat.S_IFMT(attributes) not in (0, stat.S_IFREG):
            raise self._error(name, "is not a plain file (a link or a device)")

    def _error(self, name: str, why: str) -> WheelError:
        return WheelError(f"{self._wheel}: {name!r} {why}")


def parents(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _plain(text: str) -> str:
    """Return entry points as the format has them: without values put into others, and without runs of white space,
    for which the parser's pattern takes time that grows with their square."""
    text = re.sub(r"[^\S\n]+", " ", text.replace("%", "%%"))
    return re.sub(r"\n(?: ?\n)+", "\n", text)


def _quoted(path: str) -> str:
    return '"' + path.replace('"', '""') + '"' if any(mark in path for mark in ',"\n') else path

# ruff: noqa: INP001
"""Looks for the guards of knowledge/guards.yaml in real wheels: `python tools/check_guards.py [NAME==VERSION ...]`.

Prints for each guard and release whether its line stands in the file that the guard names. Only these files are read.
Without arguments the releases on the package index within each guard's versions are looked at. Exit code 1: one is
missing.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections import defaultdict

from packaging.version import Version

from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.audit.guards import Guard
from assay.errors import PackageIndexError
from assay.foundation.versions import fits
from assay.pipeline.wheel_choice import choose_wheel
from assay.ports.wheel_source import ByteSource


class Opened(io.RawIOBase):
    """A wheel on the index as a file."""

    def __init__(self, source: ByteSource) -> None:
        self._source, self._at = source, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        length = min(len(buffer), self._source.size - self._at)
        if length > 0:
            buffer[:length] = self._source.read(self._at, length)
            self._at += length
        return max(length, 0)


def releases(guards: list[Guard], index: SimpleIndex) -> list[str]:
    """Return the final releases on the index that the guards are about."""
    versions = {Version(file.filename.split("-")[1]) for file in index.files(guards[0].package)
                if file.filename.endswith(".whl")}  # fmt: skip
    wanted = (one for one in sorted(versions) if not one.is_prerelease)
    return [str(one) for one in wanted if any(fits(str(one), guard.versions) for guard in guards)]


def places(word: str, guards: list[Guard], index: SimpleIndex) -> dict[str, list[int]]:
    """Return guard -> lines of the wheel's file on which its quote stands."""
    found: dict[str, list[int]] = {}
    with WebWheels().open(choose_wheel(word, None, index)) as source:
        archive = zipfile.ZipFile(io.BufferedReader(Opened(source), 1 << 18))
        for guard in guards:
            try:
                lines = archive.read(guard.file).decode().split("\n")
            except KeyError:
                lines = []
            found[guard.what] = [number for number, line in enumerate(lines, 1) if guard.quote in line]
    return found


def main() -> int:
    """Print the table; return the exit code."""
    index, missing = SimpleIndex({}), 0
    by_package: dict[str, list[Guard]] = defaultdict(list)
    for guard in load_knowledge().guards.guards:
        by_package[guard.package].append(guard)
    for package, guards in by_package.items():
        named = [word.partition("==")[2] for word in sys.argv[1:] if word.partition("==")[0] == package]
        for version in named if sys.argv[1:] else releases(guards, index):
            try:
                found = places(f"{package}=={version}", guards, index)
            except PackageIndexError as error:
                print(f"{package} {version}: {error.message}")
                continue
            for guard in guards:
                if fits(version, guard.versions):
                    lines = found[guard.what]
                    missing += not lines
                    said = f"lines {', '.join(map(str, lines[:6]))}" if lines else "NOT FOUND"
                    print(f"{package} {version} {guard.file}: {guard.what}: {said}")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())

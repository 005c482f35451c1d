"""A package index and the facts of all that is on it; nothing is read."""

from __future__ import annotations

from collections.abc import Container, Iterator

from assay.ports.index import IndexFile
from assay.wheels.facts import WheelFacts

__all__ = ["Shelf"]


class Shelf:
    """Satisfies the ports of index, facts and wheels at once."""

    def __init__(self, *wheels: WheelFacts) -> None:
        self._wheels = {wheel.sha256: wheel for wheel in wheels}

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        return tuple(
            IndexFile(project=one.name, filename=one.filename, url=f"https://x.example/{one.filename}", sha256=sha,
                      requires_python=one.requires_python)
            for sha, one in self._wheels.items() if one.name == project
        )  # fmt: skip

    def origins(self, index: str | None = None) -> frozenset[str]:
        return frozenset({"https://x.example"})

    def get(self, sha256: str, *, origins: Container[str] = ()) -> WheelFacts | None:
        return self._wheels.get(sha256)

    def put(self, facts: WheelFacts) -> None:
        self._wheels[facts.sha256] = facts

    def named(self, name: str, version: str | None = None, *, origins: Container[str] = ()) -> Iterator[WheelFacts]:
        return (one for one in self._wheels.values() if one.name == name and version in {None, one.version})

    def open(self, file: IndexFile) -> object:
        raise AssertionError(f"{file.filename} was read")

"""What a library exports: lines of text, one symbol each, or a table of hashes that stands for many of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Final

from pydantic import Field

from assay.foundation.derived import Deriving

__all__ = ["ExportTable", "bindable", "hash_of", "plain_lines", "versioned_lines"]

_BINDABLE: Final = frozenset({"global", "weak", "unique"})


def bindable(key: str) -> bool:
    """Whether other objects can bind to symbols of a binding and visibility."""
    binding, _, visibility = key.partition("/")
    return binding in _BINDABLE and visibility in {"", "protected"}


def plain_lines(lines: str) -> list[str]:
    """Return those of the lines that have no `@`: of nearly all libraries, all."""
    if "@" not in lines:
        return lines.split("\n")
    return [line for line in lines.split("\n") if "@" not in line]


def versioned_lines(lines: str) -> Iterator[tuple[str, str]]:
    """Yield the others: name and version."""
    if "@" in lines:
        for line in lines.split("\n"):
            if "@" in line:
                name, _, version = line.partition("@")
                yield name, version.removeprefix("@")


@lru_cache(maxsize=1 << 17)
def hash_of(name: str) -> int:
    """Return 64 bits of a hash of a symbol's name: two of a million share them once in 40 million."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class ExportTable(Deriving):
    """What a library exports, as hashes of the names: enough to say whether it has one, and a tenth of their size."""

    count: int = Field(ge=0)
    """Symbols without version."""
    cxx11: bool
    """Whether any has strings of C++11 in its name."""
    hashes: bytes = Field(default=b"", exclude=True, repr=False)
    """64 bits of a hash of each, sorted, in this machine's order of bytes; they stand behind the JSON."""

    @cached_property
    def _hashes(self) -> array[int]:
        return array("Q", self.hashes)

    @cached_property
    def _known(self) -> tuple[set[str], set[str]]:
        """Names that were asked for, and those of them that are here."""
        return set(), set()

    def having(self, names: AbstractSet[str]) -> set[str]:
        """Return those of the names that are here.

        Of what torch exports little is ever asked for: to look that up takes a fraction of the time a set of all does.
        """
        asked, here = self._known
        fresh = names - asked
        if fresh:
            hashes, last = self._hashes, len(self._hashes) - 1
            # In this order: cells are audited in several threads, and what was asked for must be known.
            for name in fresh if hashes else ():
                key = hash_of(name)
                if hashes[min(bisect_left(hashes, key), last)] == key:
                    here.add(name)
            asked.update(fresh)
        return here & names

"""Which torch release exports which symbol: a small table in place of gigabytes of wheels.

Names are kept as the first 40 bits of their SHA-256, so a name that no release exports is mistaken for one that
does with a chance of one in some millions. The table answers "for which torch was this built" and "which torch
would it load with"; the verdict for a torch whose facts are at hand rests on the full names.

File: magic, a line of JSON with the releases, then for each distinct symbol 5 bytes of hash and a little-endian
bit mask of releases, sorted by hash; the whole compressed with zlib.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from assay.errors import WheelError

__all__ = ["TorchHistory"]

_MAGIC: Final = b"assay torch exports 1\n"
_BYTES: Final = 5
_MAX: Final = 64 << 20


def _key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:_BYTES]


class TorchHistory:
    """Exports of torch releases.

    Args:
        releases: version -> CUDA version its wheel was built with, oldest first.
        keys: sorted hashes, `_BYTES` each, joined.
        masks: for each hash the releases that have it, as a bit mask.
    """

    def __init__(self, releases: Mapping[str, str], keys: bytes = b"", masks: bytes = b"") -> None:
        self.releases = dict(releases)
        self._keys = keys
        self._masks = masks
        self._width = (len(self.releases) + 7) // 8 or 1
        self._cache: dict[str, int] = {}
        self._spelled: dict[int, tuple[str, ...]] = {}

    @property
    def content(self) -> str:
        """Digest of all of it."""
        parts = json.dumps(self.releases).encode(), self._keys, self._masks
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def _find(self, key: bytes) -> int:
        """Return the place of a hash in the table, or -1."""
        low, high = 0, len(self._keys) // _BYTES
        while low < high:
            middle = (low + high) // 2
            here = self._keys[middle * _BYTES : middle * _BYTES + _BYTES]
            if here == key:
                return middle
            if here < key:
                low = middle + 1
            else:
                high = middle
        return -1

    def mask(self, name: str) -> int:
        """Return a bit mask of the releases that export a symbol."""
        if name not in self._cache:
            at, width = self._find(_key(name)), self._width
            found = self._masks[at * width : at * width + width] if at >= 0 else b""
            self._cache[name] = int.from_bytes(found, "little")
        return self._cache[name]

    def knows(self, version: str) -> bool:
        """Whether a release is in the table."""
        return version in self.releases

    def having(self, name: str) -> tuple[str, ...]:
        """Return the releases that export a symbol, oldest first."""
        return self._releases(self.mask(name))

    def _releases(self, mask: int) -> tuple[str, ...]:
        if mask not in self._spelled:
            self._spelled[mask] = tuple(version for bit, version in enumerate(self.releases) if mask >> bit & 1)
        return self._spelled[mask]

    def having_all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the releases that export all of these symbols; names no release exports are left out."""
        mask = (1 << len(self.releases)) - 1
        for name in names:
            found = self.mask(name)
            if found:
                mask &= found
        return self._releases(mask)

    def lacks(self, version: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the symbols that other releases export and this one does not."""
        bit = 1 << list(self.releases).index(version)
        return tuple(name for name in names if (mask := self.mask(name)) and not mask & bit)

    def dump(self) -> bytes:
        """Return the bytes the table is kept as."""
        head = json.dumps(self.releases, separators=(",", ":")).encode() + b"\n"
        return _MAGIC + zlib.compress(head + self._keys + self._masks, 9)

    @classmethod
    def load(cls, data: bytes) -> TorchHistory:
        """Read a table back.

        Raises:
            WheelError: the bytes are no such table.
        """
        if not data.startswith(_MAGIC):
            raise WheelError("not a table of torch's exports")
        try:
            raw = zlib.decompressobj().decompress(data[len(_MAGIC) :], _MAX)
            end = raw.index(b"\n")
            releases = dict(json.loads(raw[:end]))
        except (zlib.error, ValueError) as error:
            raise WheelError("the table of torch's exports is damaged") from error
        width = (len(releases) + 7) // 8 or 1
        count = (len(raw) - end - 1) // (_BYTES + width)
        keys = raw[end + 1 : end + 1 + count * _BYTES]
        return cls(releases, keys, raw[end + 1 + count * _BYTES :])

    @classmethod
    def build(cls, exports: Mapping[str, tuple[str, Iterable[str]]]) -> TorchHistory:
        """Make a table from version -> (CUDA version, exported names), oldest release first."""
        masks: dict[bytes, int] = {}
        for bit, (_, names) in enumerate(exports.values()):
            for name in names:
                key = _key(name)
                masks[key] = masks.get(key, 0) | 1 << bit
        width = (len(exports) + 7) // 8 or 1
        ordered = sorted(masks)
        return cls(
            {version: cuda for version, (cuda, _) in exports.items()},
            b"".join(ordered),
            b"".join(masks[key].to_bytes(width, "little") for key in ordered),
        )

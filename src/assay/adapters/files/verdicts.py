"""Verdicts of the audit as files, named by the digest of all they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

import assay
from assay.adapters.files.records import write_whole
from assay.errors import StoreError

__all__ = ["VerdictFiles"]

KEPT: Final = 4000
"""Verdicts in the folder from which on the oldest half goes."""
MAX_BYTES: Final = 32 << 20
"""Of one verdict; a server's has 100 kB."""
_ROOMS: Final = ("audit", "wheels", "foundation", "matrix")


@cache
def _rules() -> str:
    """Return the digest of the sources that decide what a verdict says."""
    root = Path(assay.__file__).parent
    hashed = blake2b(digest_size=10)
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


class VerdictFiles:
    """A folder of verdicts; each is written whole or not at all, so several processes can share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counted = False

    def _place(self, key: str) -> Path:
        return self.folder / f"{_rules()}-{key}.json"

    def get(self, key: str) -> bytes | None:
        """Return the verdict that was kept under a key; see the port."""
        place = self._place(key)
        try:
            return place.read_bytes() if place.stat().st_size <= MAX_BYTES else None
        except OSError:
            return None

    def put(self, key: str, verdict: bytes) -> None:
        """Keep a verdict; see the port."""
        with suppress(OSError, StoreError):
            if not self._counted:
                self._counted = True
                for old in self._surplus():
                    old.unlink(missing_ok=True)
            write_whole(self._place(key), verdict)

    def _surplus(self) -> Iterator[Path]:
        """Yield the oldest half of the verdicts, where there are too many."""
        places = [(path.stat().st_mtime, path) for path in self.folder.glob("*.json")]
        if len(places) >= KEPT:
            yield from (path for _, path in sorted(places)[: len(places) // 2])

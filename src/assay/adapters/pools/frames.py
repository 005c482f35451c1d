"""Reads results out of logs: frames between other lines, cut off, doubled, or out of order."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Final

from assay.errors import StoreError
from assay.evidence.statements import count_values
from assay.foundation.digest import sha256_of
from assay.foundation.foreign import ITEMS
from assay.ports.jobs import MAX_BYTES, JobResult, unseal

__all__ = ["Found", "results_in", "without_frames"]

_FRAME: Final = re.compile(rb"assay-result ([0-9a-f]{32}) ([0-9]{1,5})/([0-9]{1,5}) ([A-Za-z0-9+/=]+)")
_MAX_PIECES: Final = 1 << 14
_MAX_VALUES: Final = 2 * ITEMS
"""Values of all results in one log together."""
_DAMAGED: Final = 1 << 18
"""Bytes that a damaged result counts for."""

Found = tuple[bytes, JobResult]
"""The exact bytes of a sealed result, and what they say."""


def results_in(log: bytes) -> list[Found]:
    """Return every intact result in a log; what is incomplete or changed is left out, and what is too much together.

    Whoever wrote the image that was probed may write into the log.
    """
    pieces: dict[bytes, dict[int, bytes]] = {}
    totals: dict[bytes, int] = {}
    for found in _FRAME.finditer(log):
        mark, number, total = found[1], int(found[2]), int(found[3])
        if 0 < number <= total <= _MAX_PIECES:
            pieces.setdefault(mark, {})[number] = found[4]
            totals[mark] = total
    results: list[Found] = []
    size, values = MAX_BYTES, _MAX_VALUES
    for mark, parts in pieces.items():
        if len(parts) != totals[mark]:
            continue
        if size <= 0:
            break
        data = _unpacked(b"".join(parts[number] for number in sorted(parts)), size)
        if data is None or sha256_of(data)[7:39] != mark.decode():
            # It took as much to find that out.
            size -= _DAMAGED
            continue
        size -= len(data)
        values -= count_values(data)
        if values < 0:
            break
        try:
            results.append((data, unseal(data, JobResult, source="a result in a log")))
        except StoreError:
            continue
    return results


def _unpacked(text: bytes, size: int) -> bytes | None:
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, size)
    except (binascii.Error, zlib.error, ValueError):
        return None
    return data if unpacker.eof else None


def without_frames(log: bytes) -> bytes:
    """Return the log's other lines."""
    return b"".join(line for line in log.splitlines(keepends=True) if not line.lstrip().startswith(b"assay-result "))

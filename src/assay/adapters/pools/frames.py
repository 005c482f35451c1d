"""Reads results out of logs: frames between other lines, cut off, doubled, or out of order."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Final

from assay.errors import StoreError
from assay.foundation.digest import sha256_of
from assay.ports.jobs import MAX_BYTES, JobResult, unseal

__all__ = ["Found", "results_in", "without_frames"]

_FRAME: Final = re.compile(rb"assay-result ([0-9a-f]{32}) ([0-9]{1,5})/([0-9]{1,5}) ([A-Za-z0-9+/=]+)")
_MAX_PIECES: Final = 1 << 14

Found = tuple[bytes, JobResult]
"""The exact bytes of a sealed result, and what they say."""


def results_in(log: bytes) -> list[Found]:
    """Return every intact result in a log; what is incomplete or changed is left out."""
    pieces: dict[bytes, dict[int, bytes]] = {}
    totals: dict[bytes, int] = {}
    for found in _FRAME.finditer(log):
        mark, number, total = found[1], int(found[2]), int(found[3])
        if 0 < number <= total <= _MAX_PIECES:
            pieces.setdefault(mark, {})[number] = found[4]
            totals[mark] = total
    results: list[Found] = []
    for mark, parts in pieces.items():
        if len(parts) != totals[mark]:
            continue
        data = _unpacked(b"".join(parts[number] for number in sorted(parts)))
        if data is None or sha256_of(data)[7:39] != mark.decode():
            continue
        try:
            results.append((data, unseal(data, JobResult, source="a result in a log")))
        except StoreError:
            continue
    return results


def _unpacked(text: bytes) -> bytes | None:
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, MAX_BYTES)
    except (binascii.Error, zlib.error, ValueError):
        return None
    return data if unpacker.eof else None


def without_frames(log: bytes) -> bytes:
    """Return the log's other lines."""
    return b"".join(line for line in log.splitlines(keepends=True) if not line.lstrip().startswith(b"assay-result "))

"""Names the kernels in one cubin or PTX text of a fatbin container."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from typing import Final

import lz4.block  # type: ignore[import-untyped]
import zstandard

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf_header import section_name_table
from assay.wheels.fatbin import FatbinEntry

__all__ = ["MAX_KERNELS", "kernel_names"]

MAX_KERNELS: Final = 256
"""Names kept of one container."""
MAX_NAME: Final = 400
MAX_UNPACKED: Final = 96 << 20
MAX_WINDOW: Final = 128 << 20
"""Bytes that a zstd stream may look back: the most that the format's own tools take."""
MAX_SEEN: Final = 20_000
"""Names looked at in one container; torch's largest has some hundreds."""
_CODE: Final = re.compile(rb"\.text\.([^\0]+)\0")
_ENTRY_POINT: Final = re.compile(rb"\.entry\s+([A-Za-z_$][\w$]*)")


def _unpack(entry: FatbinEntry, data: bytes, budget: Budget) -> bytes | None:
    """Return the entry unpacked; None where it is too large or has no size."""
    if entry.compression is None:
        return data
    if not 0 < entry.uncompressed <= MAX_UNPACKED or entry.compressed > len(data):
        return None
    packed = data[: entry.compressed or len(data)]
    try:
        if entry.compression == "zstd":
            budget.take(unpacked=entry.uncompressed)
            return _unzstd(packed, entry.uncompressed)
        # Some compilers leave out the exact size; then only the size padded to eight bytes is known.
        ends = [len(packed)] if entry.compressed else _ends(packed)
        for end in ends:
            budget.take(unpacked=entry.uncompressed)
            try:
                return bytes(lz4.block.decompress(packed[:end], uncompressed_size=entry.uncompressed))
            except lz4.block.LZ4BlockError:
                if end == ends[-1]:
                    raise
    except (zstandard.ZstdError, lz4.block.LZ4BlockError, ValueError) as error:
        raise WheelError(f"an entry for {entry.target} does not unpack: {error}") from error
    return None


def _unzstd(packed: bytes, size: int) -> bytes:
    """Return a stream of `size` bytes, or what there is of it; never unpack more than one byte beyond them."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with decompressor.stream_reader(io.BytesIO(packed)) as stream:
        # read() may give less than it is asked for before the end.
        parts: list[bytes] = []
        left = size
        while left and (part := stream.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
        # Behind the stream stands padding, which is not a stream.
        with suppress(zstandard.ZstdError):
            if stream.read(1):
                raise ValueError(f"it unpacks to more than the {size} bytes it claims")
    return b"".join(parts)


def _ends(packed: bytes) -> list[int]:
    """Return where an LZ4 block may end before up to seven zeros of padding, the likeliest place first.

    A wrong place is known for one only after everything was unpacked. The last sequence of a block has no match: a
    token that says nothing but how many literals follow, at least five, and these (LZ4 block format, "End of block
    conditions").
    """

    def unlikely(end: int) -> bool:
        return all(packed[end - 1 - count : end - count] != bytes([count << 4]) for count in range(5, 15))

    size = len(packed)
    return sorted((end for end in range(size, max(size - 8, -1), -1) if not any(packed[end:])), key=unlikely)


def kernel_names(entry: FatbinEntry, data: bytes, *, budget: Budget | None = None) -> tuple[str, ...]:
    """Return the mangled names of the kernels, sorted, at most `MAX_KERNELS`, each cut to 400 characters.

    A cubin has one section `.text.<name>` for each kernel; PTX says `.entry <name>`.

    Raises:
        WheelError: the code does not unpack, is not a cubin, or costs more than the budget.
    """
    budget = budget or Budget("the container", LIBRARY)
    code = _unpack(entry, data, budget)
    if code is None:
        return ()
    if entry.kind == "ptx":
        text, expression = code, _ENTRY_POINT
    else:
        # A name may stand inside the longer one of the section of its relocations, `.rela.text.<name>`.
        text, expression = section_name_table(FileImage(code), budget=budget), _CODE
        # Each name then ends: what has no end would be looked through once for each beginning in it.
        text = text[: text.rfind(b"\0") + 1]
    names: set[str] = set()
    for count, match in enumerate(expression.finditer(text)):
        if count >= MAX_SEEN:
            raise WheelError(f"an entry for {entry.target} has more than {MAX_SEEN} kernels")
        names.add(match[1][:MAX_NAME].decode("utf-8", "backslashreplace")[:MAX_NAME])
    return tuple(sorted(names)[:MAX_KERNELS])

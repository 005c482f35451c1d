"""Names the kernels in one cubin or PTX text of a fatbin container."""

from __future__ import annotations

import re
from typing import Final

import lz4.block  # type: ignore[import-untyped]
import zstandard

from assay.audit.elf import section_name_table
from assay.audit.fatbin import Entry
from assay.audit.image import FileImage
from assay.errors import WheelError

__all__ = ["MAX_KERNELS", "kernel_names"]

MAX_KERNELS: Final = 256
"""Names kept of one container."""
MAX_NAME: Final = 400
MAX_UNPACKED: Final = 96 << 20
_CODE: Final = re.compile(rb"\.text\.([^\0]+)\0")
_ENTRY_POINT: Final = re.compile(rb"\.entry\s+([A-Za-z_$][\w$]*)")


def _unpack(entry: Entry, data: bytes) -> bytes | None:
    """Return the entry unpacked; None where it is too large or has no size."""
    if entry.compression is None:
        return data
    if not 0 < entry.uncompressed <= MAX_UNPACKED or entry.compressed > len(data):
        return None
    packed = data[: entry.compressed or len(data)]
    try:
        if entry.compression == "zstd":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(packed))[: entry.uncompressed]
        # Some compilers leave out the exact size; then only the size padded to eight bytes is known.
        ends = [len(packed)] if entry.compressed else _ends(packed)
        for end in ends:
            try:
                return bytes(lz4.block.decompress(packed[:end], uncompressed_size=entry.uncompressed))
            except lz4.block.LZ4BlockError:
                if end == ends[-1]:
                    raise
    except Exception as error:
        raise WheelError(f"an entry for {entry.target} does not unpack: {error}") from error
    return None


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


def kernel_names(entry: Entry, data: bytes) -> tuple[str, ...]:
    """Return the mangled names of the kernels, sorted, at most `MAX_KERNELS`, each cut to 400 characters.

    A cubin has one section `.text.<name>` for each kernel; PTX says `.entry <name>`.

    Raises:
        WheelError: the code does not unpack or is no cubin.
    """
    code = _unpack(entry, data)
    if code is None:
        return ()
    if entry.kind == "ptx":
        names = {match.decode() for match in _ENTRY_POINT.findall(code)}
    else:
        # A name may stand inside the longer one of the section of its relocations, `.rela.text.<name>`.
        names = {
            match.decode("utf-8", "backslashreplace") for match in _CODE.findall(section_name_table(FileImage(code)))
        }
    return tuple(sorted(name[:MAX_NAME] for name in names)[:MAX_KERNELS])

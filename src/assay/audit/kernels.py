"""Names the kernels in one cubin or PTX text of a fatbin container."""

from __future__ import annotations

import re
import struct
from typing import Final

import lz4.block  # type: ignore[import-untyped]
import zstandard

from assay.audit.elf import read_elf
from assay.audit.fatbin import Entry
from assay.audit.image import FileImage
from assay.errors import WheelError

__all__ = ["MAX_KERNELS", "kernel_names"]

MAX_KERNELS: Final = 256
"""Names kept of one container."""
MAX_NAME: Final = 400
MAX_UNPACKED: Final = 96 << 20
_ENTRY_POINT: Final = re.compile(rb"\.entry\s+([A-Za-z_$][\w$]*)")


def _unpack(entry: Entry, data: bytes) -> bytes | None:
    """Return the entry unpacked; None where it is too large or has no size."""
    if entry.compression is None:
        return data
    if not 0 < entry.uncompressed <= MAX_UNPACKED or entry.compressed > len(data):
        return None
    # Some compilers leave out the exact size; then only the size padded to eight bytes is known.
    packed = data[: entry.compressed or len(data)]
    try:
        if entry.compression == "zstd":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(packed))[: entry.uncompressed]
        for padding in range(1 if entry.compressed else 8):
            end = len(packed) - padding
            try:
                return bytes(lz4.block.decompress(packed[:end], uncompressed_size=entry.uncompressed))
            except lz4.block.LZ4BlockError:
                if padding == 7 or entry.compressed or packed[end - 1 : end] != b"\0":
                    raise
    except Exception as error:
        raise WheelError(f"an entry for {entry.target} does not unpack: {error}") from error
    return None


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
        try:
            sections = read_elf(FileImage(code)).sections
        except struct.error as error:
            raise WheelError(f"a cubin for {entry.target} is damaged") from error
        names = {section.name[6:] for section in sections if section.name.startswith(".text.")}
    return tuple(sorted(name[:MAX_NAME] for name in names)[:MAX_KERNELS])

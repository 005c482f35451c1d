"""How facts are written and read, and the brief form of them that an audit needs."""

from __future__ import annotations

import gzip
from array import array
from typing import Final, cast

from pydantic import ValidationError
from zlib_ng import zlib_ng

from assay.errors import WheelError
from assay.foundation.budget import FACTS, Budget
from assay.wheels.exports import ExportTable, bindable, hash_of
from assay.wheels.facts import READER, Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup

__all__ = [
    "NAMED",
    "brief_facts",
    "brief_library",
    "dump_brief",
    "dump_facts",
    "filled",
    "load_brief",
    "load_facts",
]

_DAMAGED: Final = cast("type[Exception]", zlib_ng.error)
MAX_FACTS: Final = FACTS.unpacked
"""Bytes of text of one wheel's facts; torch has 17 MB."""
_LINES: Final = 4
"""Lines of symbols that take as much memory as one of the budget's items."""
BRIEF_FROM: Final = 64 << 10
"""Characters of exported names from which on hashes stand for them."""


NAMED: Final = 24
"""Names of kernels that are left in facts made brief, of each group: more are never told of."""


def brief_facts(facts: WheelFacts) -> WheelFacts:
    """Return facts with hashes in place of the names of exported symbols, and one text of those of kernels.

    An audit asks whether a library has a symbol or a kernel, never which it has: torch's facts are read in less than
    half the time.
    """
    return facts.model_copy(update={"libraries": tuple(brief_library(library) for library in facts.libraries)})


def brief_library(library: Library, *, least: int = BRIEF_FROM, named: int = NAMED) -> Library:
    """Return a library with hashes in place of names if these have at least so many characters.

    Args:
        named: kernels of each group whose names are left.
    """
    if library.is_brief:
        return library
    update: dict[str, object] = {}
    if library.gpu is not None and any(len(group.kernels) > named for group in library.gpu.groups):
        groups = tuple(_brief_group(group, named) for group in library.gpu.groups)
        update["gpu"] = library.gpu.model_copy(update={"groups": groups})
    if sum(map(len, library.exported_lines())) >= least:
        # What Python looks for by name stays; so do names with versions, which are few.
        update["defined"] = {
            key: "\n".join(
                line for line in lines.split("\n") if "@" in line or line.startswith("PyInit_") or not bindable(key)
            )
            for key, lines in library.defined.items()
        }
        keys = array("Q", sorted(map(hash_of.__wrapped__, library.plain)))
        update["table"] = ExportTable(count=len(keys), cxx11=library.exports_cxx11, hashes=keys.tobytes())
    return library.model_copy(update=update) if update else library


def _brief_group(group: CodeGroup, named: int) -> CodeGroup:
    text = group.searched
    if text is None or len(group.kernels) <= named:
        return group
    return group.model_copy(update={"kernels": group.kernels[:named], "size": len(text), "text": text})


def filled(brief: WheelFacts, whole: WheelFacts) -> WheelFacts:
    """Return brief facts, of which more may have been learnt since, with the names that were left out.

    Args:
        whole: the facts that were made brief.
    """
    known = {library.path: library for library in whole.libraries}
    libraries = tuple(known.get(library.path, library) if library.is_brief else library for library in brief.libraries)
    return brief.model_copy(update={"libraries": libraries})


def dump_facts(facts: WheelFacts) -> bytes:
    """Return the bytes facts are kept and shared as: gzipped JSON, the same for the same facts."""
    assert not facts.is_brief, "brief facts do not say all that is known"
    return gzip.compress(facts.model_dump_json(exclude_defaults=True).encode(), compresslevel=6, mtime=0)


def dump_brief(facts: WheelFacts) -> bytes:
    """Return the bytes brief facts are kept as, beside the whole ones: JSON, then hashes and texts as they are.

    Neither is packed, nor are hashes spelled or texts quoted: all that would have to be undone at each reading.
    """
    return b"\n".join((facts.model_dump_json(exclude_defaults=True).encode(), b"".join(facts.left_out())))


def load_facts(data: bytes, *, source: str, budget: Budget | None = None) -> WheelFacts:
    """Read facts back.

    Raises:
        WheelError: the bytes are no facts of this schema, or too many; facts of a newer reader are refused as well.
    """
    budget = budget or Budget(source, FACTS)
    try:
        unpacker = zlib_ng.decompressobj(31)
        text = unpacker.decompress(data, MAX_FACTS)
        if not unpacker.eof:
            raise WheelError(f"{source} does not unpack to facts of less than {MAX_FACTS} bytes")
    except _DAMAGED as error:
        raise WheelError(f"{source} has no wheel facts: {error}") from error
    # Each text, list and object becomes a Python object some fifty times its size; each line of a text is a symbol.
    objects = text.count(b'"') // 2 + text.count(b"[") + text.count(b"{")
    lines = text.count(b"\\n") + text.count(b"\\u000")
    # One wide character makes four bytes of each character of its text.
    width = 1 if text.isascii() and b"\\u" not in text else 4
    budget.take(unpacked=len(text), kept=len(text) * width, items=objects + lines // _LINES)
    facts = _parsed(text, source=source)
    if facts.is_brief:
        raise WheelError(f"{source} holds facts that leave out names")
    return facts


def load_brief(data: bytes, *, source: str) -> WheelFacts:
    """Read brief facts back; raises as `load_facts` does."""
    end = data.find(b"\n")
    facts = _parsed(data[: max(end, 0)], source=source)
    at, libraries = end + 1, list[Library]()

    def taken(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    for library in facts.libraries:
        update: dict[str, object] = {}
        if library.table is not None:
            update["table"] = library.table.model_copy(update={"hashes": taken(8 * library.table.count)})
        if library.gpu is not None and any(group.size for group in library.gpu.groups):
            groups = tuple(
                group.model_copy(update={"text": taken(group.size)}) if group.size else group
                for group in library.gpu.groups
            )
            update["gpu"] = library.gpu.model_copy(update={"groups": groups})
        libraries.append(library.model_copy(update=update) if update else library)
    if at != len(data):
        raise WheelError(f"{source} has {len(data)} bytes where {at} were announced")
    return facts.model_copy(update={"libraries": tuple(libraries)})


def _parsed(text: bytes, *, source: str) -> WheelFacts:
    try:
        facts = WheelFacts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        if where in {"name", "version"}:
            raise WheelError(f"{source} holds facts of something that is not a distribution: {where}") from error
        raise WheelError(f"{source} has no wheel facts: {where}: {first['msg'][:200]}") from error
    if facts.reader > READER:
        raise WheelError(f"{source} was written by a newer assay", hint="upgrade assay")
    return facts

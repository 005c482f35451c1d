"""Format what `assay update` proposes as text or Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from assay.audit.found import Search
from assay.foundation.printable import wrapped

__all__ = ["proposal_lines"]


def proposal_lines(
    name: str,
    *,
    cell: str | None,
    changes: Sequence[tuple[str, str, str]],
    search: Search | None,
    held: Sequence[str],
    refused: str,
    width: int | None = None,
) -> Iterator[str]:
    """Yield the lines about one image on one platform.

    Args:
        name: `server on linux/arm64`.
        cell: id of the cell that is proposed; None without one.
        changes: (axis, version before, version after).
        search: the releases that were tried.
        held: newer releases that something holds back.
        refused: why nothing is proposed although something newer was looked for.
        width: of the terminal; None: each line is whole.
    """
    state = cell or ("nothing is proposed" if refused else "up to date")
    yield from wrapped(f"{name}: {state}", width)
    for axis, before, after in changes if cell else ():
        yield from wrapped(f"{axis} {before or 'none'} -> {after}", width, first="  ", hang="    ")
    found = search.found if search is not None else None
    for one in search.attempts if search is not None else ():
        if one is not found:
            words = f"not {one.version}: {'; '.join(one.reasons[:2]) or one.outcome}"
            yield from wrapped(words, width, first="  ", hang="    ")
    if refused:
        yield from wrapped(refused, width, first="  ", hang="    ")
    for line in held:
        yield from wrapped(line, width, first="  held back: ", hang="    ")

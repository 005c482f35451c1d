"""Names of tags: which are aliases, and which name a cell."""

from __future__ import annotations

import re
from typing import Final

from assay.matrix.cell import oci_tag
from assay.matrix.policy import suffix_of

__all__ = ["ALIAS", "is_cell_tag", "names_cell"]

ALIAS: Final = re.compile(r"sm([0-9]{2,3}[a-z]?)-([a-z][a-z0-9]*)")
"""A moving tag: target and level."""


def is_cell_tag(tag: str) -> bool:
    """Return whether a tag has the form of a cell's tag; aliases and words such as `latest` or `prod` do not."""
    return "-" in tag and ALIAS.fullmatch(tag) is None


def names_cell(tag: str, cell: str, level: str, *, any_level: bool = False) -> bool:
    """Whether a tag is the immutable tag of a cell at a level, of any revision.

    Args:
        any_level: the level is asked for by itself, so that the tag need not end in it.
    """
    try:
        own = oci_tag(cell)
    except ValueError:
        return False
    ending = f"({re.escape(suffix_of(level))}){'?' if any_level else ''}"
    return re.fullmatch(f"{re.escape(own)}(-r[1-9][0-9]{{0,5}})?{ending}", tag) is not None

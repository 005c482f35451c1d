"""The composition root of package indexes that a command line names.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.adapters.index.simple import SimpleIndex
    from assay.ports.index import IndexFile

__all__ = ["wheel_here", "where_to_look"]


def where_to_look(places: Sequence[str]) -> SimpleIndex:
    """Return the client's default index, with these addresses and folders before it.

    Raises:
        UsageError: one of them is neither.
    """
    from urllib.parse import urlsplit

    from assay.adapters.index.simple import Addresses, SimpleIndex, default_addresses

    if not places:
        return SimpleIndex()
    simple = [place for place in places if urlsplit(place).scheme in {"http", "https", "file"}]
    folders = [place for place in places if place not in simple]
    for folder in folders:
        if not Path(folder).exists():
            raise UsageError(f"{folder} is neither the address of an index nor a folder")
    usual = default_addresses()
    return SimpleIndex(default=Addresses(simple=(*simple, *usual.simple), links=(*folders, *usual.links)))


def wheel_here(path: Path, project: str) -> IndexFile:
    """Return a wheel of this machine as an index would list it."""
    from assay.adapters.index.local import wheel_file

    return wheel_file(path, project)

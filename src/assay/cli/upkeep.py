"""What status, logs and down share: the servers that `assay up` started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.errors import NothingSelected, UsageError
from assay.foundation.nearest import suggestion

if TYPE_CHECKING:
    from assay.ports.services import KeptServer, Services

__all__ = ["the_server"]


def the_server(known: Services, name: str | None) -> KeptServer:
    """Return a server by name, or the only one.

    Raises:
        NothingSelected: there is none.
        UsageError: there are several, or none of that name.
    """
    there = {one.name: one for one in known.servers()}
    if not there:
        raise NothingSelected("no server is up", hint="`assay up MODEL` starts one")
    if name is None and len(there) > 1:
        raise UsageError(f"{len(there)} servers are up: {', '.join(there)}", hint="name one, or use --all with down")
    if name is None:
        return next(iter(there.values()))
    if name not in there:
        raise UsageError(f"there is no server {name!r}{suggestion(name, there)}; there are {', '.join(there)}")
    return there[name]

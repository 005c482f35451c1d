"""What runs that were killed had measured becomes records."""

from __future__ import annotations

from collections.abc import Callable

from assay.evidence.record import ProbeRecord
from assay.ports.store import Store

__all__ = ["adopt"]


def adopt(store: Store, say: Callable[[str], None]) -> None:
    """Record what dead runs left unfinished, and say so of each."""
    for made in store.adopt():
        if isinstance(made, ProbeRecord):
            mine = sorted(name for name, item in made.features.items() if (item.log or "").startswith(made.run))
            say(
                f"{made.cell}: the run {made.run} was killed; what it had measured until "
                f"{made.created:%Y-%m-%d %H:%M:%S} UTC is recorded: {', '.join(mine)}"
            )

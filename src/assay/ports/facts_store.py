"""Where wheel facts are kept, by the sha256 of the wheel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from assay.audit.facts import WheelFacts

__all__ = ["FactsStore"]


class FactsStore(Protocol):
    """Facts by the sha256 of the wheel they were read from."""

    def get(self, sha256: str) -> WheelFacts | None:
        """Return what is known of a wheel; damaged or outdated facts are as good as none."""
        ...

    def put(self, facts: WheelFacts) -> None:
        """Keep facts; complete ones are never replaced by incomplete ones."""
        ...

    def named(self, name: str) -> Iterable[WheelFacts]:
        """Return all facts of a distribution, newest version first."""
        ...

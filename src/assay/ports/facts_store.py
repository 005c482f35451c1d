"""Where wheel facts are kept, by the sha256 of the wheel."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol

from assay.wheels.facts import WheelFacts

__all__ = ["FactsStore"]


class FactsStore(Protocol):
    """Facts by the sha256 of the wheel they were read from."""

    def get(self, sha256: str, *, origins: Container[str] = ()) -> WheelFacts | None:
        """Return the facts of a wheel, or None if they are missing, damaged or outdated.

        Args:
            origins: places from which facts read in part count too; see `WheelFacts.good_for`.
        """
        ...

    def put(self, facts: WheelFacts) -> None:
        """Keep facts; complete ones are never replaced by incomplete ones."""
        ...

    def named(self, name: str, *, origins: Container[str] = ()) -> Iterable[WheelFacts]:
        """Return all facts of a distribution that `get` would return, newest version first."""
        ...

    def kept(self, name: str) -> Iterable[str]:
        """Return a word for each wheel of a distribution of which facts are kept; it changes when the facts do."""
        ...

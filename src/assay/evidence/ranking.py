"""Rank the evidence for a feature. All advice to users uses this ranking, so that it is consistent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from assay.foundation.outcome import Outcome

__all__ = ["FRESH", "OPEN", "Basis", "Standing", "contradict", "rank", "strength"]

Basis = Literal["record", "record of these versions", "audit", "claim", "nothing"]
"""What a statement rests on, the strongest first: measured on this digest and card, measured on these versions and this
card, predicted, claimed within its version bounds."""
_ORDER: Final[tuple[Basis, ...]] = get_args(Basis)
_WORDS: Final[dict[Basis, str]] = {
    "record": "measured: record",
    "record of these versions": "measured on these versions: record",
    "audit": "predicted: audit",
    "claim": "claimed:",
    "nothing": "",
}
FRESH: Final = "made now"
"""The source of a prediction that was not kept."""
OPEN: Final = frozenset({Outcome.INCONCLUSIVE, Outcome.NOT_RUN})
"""Outcomes that decide nothing."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The evidence for one feature."""

    feature: str
    outcome: Outcome
    basis: Basis
    source: str
    """The record's file name, the audit's, or the document."""
    reason: str = ""
    against: tuple[Standing, ...] = ()
    """Weaker evidence that says the opposite."""

    @property
    def usable(self) -> bool:
        """Whether it may be used: it works, or nothing at all speaks against it."""
        return self.outcome is Outcome.WORKS or self.basis == "nothing"

    @property
    def unproven(self) -> bool:
        """Whether nobody says that it ran: an audit predicts that a feature works, and cannot show it."""
        return self.basis == "nothing" or (self.basis == "audit" and self.outcome is Outcome.WORKS)

    def __str__(self) -> str:
        if self.basis == "nothing":
            return f"{self.feature}: nothing is recorded or claimed"
        why = f" ({self.reason})" if self.reason else ""
        against = "".join(f"; but {one.outcome}, {_WORDS[one.basis]} {one.source}" for one in self.against)
        return f"{self.feature}: {self.outcome}{why}, {_WORDS[self.basis]} {self.source}{against}"


def strength(basis: Basis) -> int:
    """Return the place of a basis; 0 is the strongest."""
    return _ORDER.index(basis)


def contradict(one: Outcome, other: Outcome) -> bool:
    """Return whether exactly one of two outcomes says that a feature works; undecided outcomes contradict none."""
    return not {one, other} & OPEN and (one is Outcome.WORKS) != (other is Outcome.WORKS)


def rank(feature: str, found: Iterable[Standing]) -> Standing:
    """Return what counts of all that is known of a feature, and with it the weaker evidence that contradicts it.

    Args:
        found: of equal basis the first counts.
    """
    ordered = sorted(found, key=lambda one: strength(one.basis))
    if not ordered:
        return Standing(feature=feature, outcome=Outcome.NOT_RUN, basis="nothing", source="")
    best = ordered[0]
    newest = {one.basis: one for one in reversed(ordered)}
    weaker = [one for basis, one in newest.items() if basis != best.basis and contradict(best.outcome, one.outcome)]
    return replace(best, against=tuple(sorted(weaker, key=lambda one: strength(one.basis))))

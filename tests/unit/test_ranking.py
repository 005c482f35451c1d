"""What counts of all that is known of a feature."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from assay.evidence.ranking import Basis, Standing, contradict, rank
from assay.foundation.outcome import Outcome

BASES: tuple[Basis, ...] = get_args(Basis)[:-1]


def said(basis: Basis, outcome: Outcome = Outcome.WORKS, source: str = "x") -> Standing:
    return Standing(feature="f", outcome=outcome, basis=basis, source=source)


@pytest.mark.parametrize("order", list(itertools.permutations(BASES)), ids=str)
def test_measured_here_beats_measured_elsewhere_beats_predicted_beats_claimed(order: tuple[Basis, ...]) -> None:
    for count in range(1, len(order) + 1):
        found = rank("f", [said(basis) for basis in order[:count]])

        assert min(order[:count], key=BASES.index) == found.basis


def test_of_equal_basis_the_first_counts() -> None:
    found = rank("f", [said("record", Outcome.BROKEN, "new"), said("record", Outcome.WORKS, "old")])

    assert ("new", ()) == (found.source, found.against)


def test_weaker_evidence_that_says_the_opposite_is_carried_along() -> None:
    claims = [said("claim", Outcome.BROKEN, "new"), said("claim", Outcome.WORKS, "old")]

    found = rank("f", [*claims, said("audit"), said("record"), said("record of these versions", Outcome.WRONG)])

    assert ["record of these versions", "claim"] == [one.basis for one in found.against]
    assert (
        str(found)
        == "f: works, measured: record x; but wrong, measured on these versions: record x; but broken, claimed: new"
    )


def test_nothing_known_is_usable_and_unproven() -> None:
    found = rank("f", [])

    assert ("nothing", True, True) == (found.basis, found.usable, found.unproven)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Outcome.WORKS, Outcome.BROKEN, True),
        (Outcome.DEGRADED, Outcome.BROKEN, False),
        (Outcome.WORKS, Outcome.INCONCLUSIVE, False),
        (Outcome.NOT_RUN, Outcome.WORKS, False),
    ],
)
def test_outcomes_contradict_if_one_alone_says_that_it_works(one: Outcome, other: Outcome, expected: bool) -> None:
    assert expected is contradict(one, other) is contradict(other, one)

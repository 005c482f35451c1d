"""Finding the first bad version of a sequence with as few evaluations as can be. Pure: no cell is built here.

    state = begin(["2.8.0", ..., "2.14.1"], known={...})
    while (version := propose(state)) is not None:
        state = state.tell(version, test(version))
    answer(state)

The first version is good and the last one bad. A version that cannot be tested is skipped as git bisect does: another
one away from it is proposed, because what breaks one version tends to break its neighbours too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import count
from typing import Final, Literal

from pydantic import model_validator

from assay.foundation.strict import Value

__all__ = ["Answer", "BisectDocument", "SearchState", "Trial", "answer", "begin", "propose", "remaining"]


class Trial(StrEnum):
    """What came of testing one version."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It could not be tested: refused by the audit, did not build, out of memory, ..."""


class SearchState(Value):
    """The state of a bisection; written to a file after each evaluation, so that it survives an interruption."""

    versions: tuple[str, ...]
    """In order; the first is good, the last bad."""
    trials: dict[str, Trial] = {}
    evaluated: tuple[str, ...] = ()
    """The versions that were tested for this bisection, in order; results that were known before are not among them."""

    @model_validator(mode="after")
    def _consistent(self) -> SearchState:
        if len(self.versions) < 2:
            raise ValueError("a bisection needs a good and a bad version")
        if len(set(self.versions)) != len(self.versions):
            raise ValueError("a version occurs twice")
        if strange := sorted(set(self.trials) - set(self.versions)):
            raise ValueError(f"results of versions that are not in the sequence: {', '.join(strange)}")
        if self.trials.get(self.versions[0]) is Trial.BAD:
            raise ValueError(f"{self.versions[0]} was given as good and is recorded as bad")
        if self.trials.get(self.versions[-1]) is Trial.GOOD:
            raise ValueError(f"{self.versions[-1]} was given as bad and is recorded as good")
        return self

    def tell(self, version: str, trial: Trial) -> SearchState:
        """Return the state with the result of a version."""
        return SearchState(
            versions=self.versions,
            trials={**self.trials, version: trial},
            evaluated=(*self.evaluated, version),
        )

    @property
    def bounds(self) -> tuple[int, int]:
        """Positions of the last version taken as good and of the first bad one after it.

        Where results contradict each other (good after bad), the result is the earliest change from good to bad.
        """
        bad = next(
            (i for i, version in enumerate(self.versions) if self.trials.get(version) is Trial.BAD),
            len(self.versions) - 1,
        )
        good = max((i for i in range(bad) if self.trials.get(self.versions[i]) is Trial.GOOD), default=0)
        return good, bad


class Answer(Value):
    """What a bisection found."""

    first_bad: str | None
    """None where versions that cannot be tested stand before it."""
    last_good: str
    candidates: tuple[str, ...]
    """The versions of which one is the first bad one; one of them where the answer is exact."""
    skipped: tuple[str, ...] = ()


class BisectDocument(Value):
    """How far a bisection came."""

    version: Literal[1] = 1
    axis: str
    state: SearchState
    answer: Answer | None
    """None with `--dry-run`."""


def begin(versions: Sequence[str], *, known: Mapping[str, Trial] | None = None) -> SearchState:
    """Start a bisection; `known` are results that already exist and cost nothing.

    Raises:
        ValueError: fewer than two versions, one twice, or a known result contradicts that the ends are good and bad.
    """
    trials = {version: trial for version, trial in (known or {}).items() if version in set(versions)}
    return SearchState(versions=tuple(versions), trials=trials)


_GOLDEN: Final = 0.6180339887498949


def _halves(size: int) -> list[int]:
    """Return all positions of an interval: the middle first, then ever elsewhere, spread evenly."""
    seen: dict[int, None] = {}
    for step in count():
        # Multiples of the golden ratio, from the middle on, never cluster.
        seen.setdefault(int(((0.5 + step * _GOLDEN) % 1.0) * size))
        if len(seen) == size or step > 8 * size + 8:
            break
    return [*seen, *(i for i in range(size) if i not in seen)]


def propose(state: SearchState) -> str | None:
    """Return the version to test next, or None if the result is final."""
    good, bad = state.bounds
    inside = range(good + 1, bad)
    if not inside:
        return None
    if not any(state.trials.get(state.versions[i]) is Trial.SKIP for i in inside):
        return state.versions[(good + bad) // 2]
    open_ones = [i for i in inside if state.versions[i] not in state.trials]
    if not open_ones:
        return None
    for offset in _halves(len(inside)):
        if state.versions[inside[offset]] not in state.trials:
            return state.versions[inside[offset]]
    return state.versions[open_ones[0]]


def remaining(state: SearchState) -> int:
    """Return how many evaluations are needed at most from here, if nothing has to be skipped."""
    good, bad = state.bounds
    return (bad - good - 1).bit_length()


def answer(state: SearchState) -> Answer:
    """Return the result so far; exact if `propose` returns None and no version near the change was skipped."""
    good, bad = state.bounds
    candidates = state.versions[good + 1 : bad + 1]
    return Answer(
        first_bad=candidates[0] if len(candidates) == 1 else None,
        last_good=state.versions[good],
        candidates=candidates,
        skipped=tuple(version for version in candidates if state.trials.get(version) is Trial.SKIP),
    )

"""How often each entry was right on the corpus: the confidence that a diagnosis prints.

`bench/diagnose.py calibrate` counts, over both halves of tests/data/field and the noise, how often the first diagnosis
was an entry's and whether it was right, and writes knowledge/failures/calibration.json. A few logs prove little: the
prior of an entry's kind, measured over all entries, stands beside its own counts. Where the corpus measures the
diagnosis itself, each log is left out of the count (`without_one`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from pydantic import Field

from assay import resources
from assay.diagnose.model import FailureEntry, FailureKind
from assay.foundation.strict import Value

__all__ = ["UNCERTAIN", "Calibration", "Counts", "calibration", "confidence"]

UNCERTAIN: Final = 0.6
"""A diagnosis less sure than this says "may be"."""
_DECLARED: Final = {
    FailureKind.CAUSE: 0.95,
    FailureKind.GENERAL: 0.75,
    FailureKind.SYMPTOM: 0.45,
    FailureKind.WRAPPER: 0.2,
}
"""What an entry of a kind declares that declares nothing."""
_LIKE_A_CAUSE: Final = 0.8
_MOST: Final = 0.97
_MOST_OF: Final = {FailureKind.SYMPTOM: 0.55}
_PRIOR_WEIGHT: Final = 4.0
"""So many logs does the prior of its kind count for, beside an entry's own."""


class Counts(Value):
    """On how many logs an entry was the first diagnosis, by whether it was the true cause."""

    right: int = Field(default=0, ge=0)
    wrong: int = Field(default=0, ge=0)


class Calibration(Value):
    """What was measured."""

    priors: dict[FailureKind, float] = {
        FailureKind.CAUSE: 0.85,
        FailureKind.GENERAL: 0.7,
        FailureKind.SYMPTOM: 0.5,
        FailureKind.WRAPPER: 0.2,
    }
    """Kind -> share of right answers over all entries of the kind."""
    entries: dict[str, Counts] = {}


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """Return what was measured for the library that ships with assay."""
    path = resources.find("knowledge", "failures/calibration.json")
    return Calibration.model_validate(json.loads(path.read_text())) if path.is_file() else Calibration()


def confidence(entry: FailureEntry, *, without_one: bool = False) -> float:
    """Return how probable an entry is right where its signature matches a line that reports an error.

    `without_one` leaves one log on which it was wrong out of the count: that log must not lower its own confidence.
    """
    measured = calibration()
    counts = measured.entries.get(entry.id, Counts())
    prior = _prior(entry, measured.priors)
    # The log that an entry was written from proves nothing of it.
    right = max(0, counts.right - 1)
    wrong = max(0, counts.wrong - int(without_one))
    return (right + _PRIOR_WEIGHT * prior) / (right + wrong + _PRIOR_WEIGHT)


def _prior(entry: FailureEntry, priors: Mapping[FailureKind, float]) -> float:
    """Return what is assumed of an entry: how often its kind is right, more or less as its writer declares."""
    if entry.confidence is None:
        return priors[entry.kind]
    if entry.confidence >= _LIKE_A_CAUSE:
        # It gives way to others, but where it stands alone it names the cause.
        return min(_MOST, priors[FailureKind.CAUSE] * entry.confidence / _DECLARED[FailureKind.CAUSE])
    return min(priors[entry.kind] * entry.confidence / _DECLARED[entry.kind], _MOST_OF.get(entry.kind, _MOST))

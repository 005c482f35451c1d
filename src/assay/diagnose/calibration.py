"""How often each entry was right on the corpus: the confidence that a diagnosis prints.

`bench/diagnose.py calibrate` counts, over tests/data/field/seen and the examples of all entries, how often the first
diagnosis was an entry's and whether it was right, and writes knowledge/failures/calibration.json. A few logs prove
little: the prior of an entry's kind, measured over all entries, stands beside its own counts.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final

from pydantic import Field

from assay.diagnose.library import folder
from assay.diagnose.model import Entry, Kind
from assay.model.base import Value

__all__ = ["UNCERTAIN", "Calibration", "Counts", "calibration", "confidence"]

UNCERTAIN: Final = 0.6
"""A diagnosis less sure than this says "may be"."""
_DECLARED: Final = 0.95
"""What a cause would declare if it declared anything."""
_PRIOR_WEIGHT: Final = 4.0
"""So many logs does the prior of its kind count for, beside an entry's own."""


class Counts(Value):
    """On how many logs an entry was the first diagnosis, by whether it was the true cause."""

    right: int = Field(default=0, ge=0)
    wrong: int = Field(default=0, ge=0)


class Calibration(Value):
    """What was measured."""

    priors: dict[Kind, float] = {Kind.CAUSE: 0.85, Kind.GENERAL: 0.7, Kind.SYMPTOM: 0.5, Kind.WRAPPER: 0.2}
    """Kind -> share of right answers over all entries of the kind."""
    entries: dict[str, Counts] = {}


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """Return what was measured for the library that ships with assay."""
    path = folder() / "calibration.json"
    return Calibration.model_validate(json.loads(path.read_text())) if path.is_file() else Calibration()


def confidence(entry: Entry) -> float:
    """Return how probable an entry is right where its signature matches a line that reports an error."""
    measured = calibration()
    counts = measured.entries.get(entry.id, Counts())
    prior = measured.priors[entry.kind]
    if entry.confidence is not None:
        # Who wrote the entry knows it to tell more or less than others of its kind, on the scale of causes.
        prior = measured.priors[Kind.CAUSE] * entry.confidence / _DECLARED
    return (counts.right + _PRIOR_WEIGHT * prior) / (counts.right + counts.wrong + _PRIOR_WEIGHT)

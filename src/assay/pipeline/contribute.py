"""A log of a failure, made fit to be given to the corpus: an excerpt without secrets, and a draft of its label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from assay.diagnose import DiagnosisReport
from assay.diagnose.corpus import Label
from assay.diagnose.strip import excerpt, strip

__all__ = ["Contribution", "contribution"]

_DRAFT: Final = "DRAFT: say in one sentence what the cause was"


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What would be written: `NAME.log` and `NAME.json`."""

    name: str
    log: str
    label: str
    taken: dict[str, int]
    """What was replaced -> how often."""


def contribution(log: Iterable[bytes], report: DiagnosisReport, *, name: str) -> Contribution:
    """Return an excerpt of a log without secrets and names, and the draft of its label.

    The label holds what the diagnosis says; whoever gives the log corrects it and names the thread it comes from.
    """
    first = report.diagnoses[0] if report.diagnoses else None
    places = [evidence.line for evidence in (*(first.evidence if first else ()), *report.telling)]
    text, taken = strip(excerpt(log, report.lines, places))
    known = first is not None and first.known
    label = Label(
        cause_class=str(first.cause_class) if first and first.cause_class else "none",
        cause=(first.cause,) if first and known else (),
        why=first.summary if first and known else _DRAFT,
        fix=first.fix if first and known else "DRAFT: say what fixed it",
        versions=report.clues.versions if report.clues else {},
        harmless=not report.diagnoses,
    )
    safe = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "log"
    return Contribution(
        name=safe, log=text, label=label.model_dump_json(by_alias=True, indent=2) + "\n", taken=dict(taken)
    )

"""The corpus of labelled logs: what each log's cause truly was, and whether a diagnosis agrees with it.

A log lies at `HALF/FAMILY/NAME.log` with its label beside it in `NAME.json`. Entries are written from the half `seen`;
the half `unseen` only measures them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from assay.diagnose.calibration import UNCERTAIN, confidence
from assay.diagnose.library import default_library
from assay.diagnose.model import Diagnosis, DiagnosisReport
from assay.foundation.strict import Value

__all__ = ["Case", "CaseVerdict", "Label", "cases", "judged"]


class Label(Value):
    """The true cause of a log, from the thread that it comes from."""

    source: tuple[str, ...] = ()
    """Addresses of the threads."""
    cause_class: str = Field(alias="class")
    """A class of causes, or `none`."""
    also_class: tuple[str, ...] = ()
    """Other classes under which the answer is right as well."""
    cause: tuple[str, ...] = ()
    """Entries of which each is a right answer; none given: class and words decide."""
    why: str = ""
    fix: str = ""
    fix_words: tuple[tuple[str, ...], ...] = ()
    """Of each group at least one word must stand in the answer's summary, fix or change."""
    versions: Mapping[str, str] = {}
    harmless: bool = False
    """Nothing failed."""


class CaseVerdict(StrEnum):
    """How an answer compares with the label."""

    RIGHT = "right"
    WRONG = "wrong"
    MISLEADING = "may be wrong"
    """Wrong, and told with "may be": with less confidence than `UNCERTAIN`."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One log of the corpus."""

    half: str
    family: str
    name: str
    log: Path
    label: Label


def cases(root: Path, *halves: str) -> Iterator[Case]:
    """Return the logs of a corpus, in the order of their names.

    Raises:
        ValueError: a log has no label, a label no log, or a label is not as `Label` says.
    """
    for half in halves or ("seen", "unseen"):
        logs, labels = (
            {path.with_suffix("") for path in (root / half).glob(f"*/*.{kind}")} for kind in ("log", "json")
        )
        if alone := logs ^ labels:
            raise ValueError(f"a log and its label stand together; one is missing of {sorted(map(str, alone))}")
        for path in sorted(logs):
            label = Label.model_validate_json(path.with_suffix(".json").read_bytes(), by_alias=True)
            yield Case(half=half, family=path.parent.name, name=path.name, log=path.with_suffix(".log"), label=label)


def judged(report: DiagnosisReport, label: Label) -> CaseVerdict:
    """Compare the first answer to a log with its label."""
    known = [diagnosis for diagnosis in report.diagnoses if diagnosis.known]
    if label.harmless:
        return _wrong(known[0]) if known else CaseVerdict.UNKNOWN if report.diagnoses else CaseVerdict.RIGHT
    if not known:
        return CaseVerdict.RIGHT if "unknown" in label.cause and report.diagnoses else CaseVerdict.UNKNOWN
    return CaseVerdict.RIGHT if _agrees(known[0], label) else _wrong(known[0])


def _wrong(diagnosis: Diagnosis) -> CaseVerdict:
    """Tell how wrong an answer is, with the confidence that it would have if this log had not been counted."""
    entry = default_library().entries[diagnosis.cause]
    sure = diagnosis.confidence * confidence(entry, without_one=True) / confidence(entry)
    return CaseVerdict.WRONG if sure >= UNCERTAIN else CaseVerdict.MISLEADING


def _agrees(diagnosis: Diagnosis, label: Label) -> bool:
    if label.cause:
        return diagnosis.cause in label.cause
    said = f"{diagnosis.summary} {diagnosis.fix} {diagnosis.change}".lower()
    named = all(any(word.lower() in said for word in group) for group in label.fix_words)
    return named and str(diagnosis.cause_class) in {label.cause_class, *label.also_class}

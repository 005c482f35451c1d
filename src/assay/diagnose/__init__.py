"""Diagnosis: from a log of any size to cause, fix and source.

    from assay.diagnose import diagnose
    for diagnosis in diagnose(log):        # an open binary file, or any iterable of bytes
        diagnosis.cause, diagnosis.cause_class, diagnosis.confidence, diagnosis.fix

Nothing here prints, opens files or knows where a log comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from assay.diagnose.contrast import CellFacts, Contrast, contrast
from assay.diagnose.formats import unwrapped
from assay.diagnose.library import FailureLibrary, default_library, parse_library
from assay.diagnose.model import (
    CauseClass,
    Clues,
    Diagnosis,
    DiagnosisReport,
    Evidence,
    FailureEntry,
    FailureKind,
    Signature,
    Stage,
    Via,
)
from assay.diagnose.rank import judge, recorded, unknown
from assay.diagnose.stream import BLOCK, SAMPLE, SATURATED, Scanner

__all__ = [
    "SATURATED",
    "CauseClass",
    "CellFacts",
    "Clues",
    "Contrast",
    "Diagnosis",
    "DiagnosisReport",
    "Evidence",
    "FailureEntry",
    "FailureKind",
    "FailureLibrary",
    "Readable",
    "Scanner",
    "Signature",
    "Stage",
    "Via",
    "contrast",
    "default_library",
    "diagnose",
    "examine",
    "judge",
    "parse_library",
    "recorded",
    "unknown",
]


class Readable(Protocol):
    """Anything that gives bytes by `read(n)`."""

    def read(self, size: int, /) -> bytes: ...


_BLOCK: Final = BLOCK


def examine(
    log: Iterable[bytes] | Readable | bytes, *, library: FailureLibrary | None = None, stage: Stage | None = None
) -> DiagnosisReport:
    """Read a log once and return causes, telling lines and size.

    `log` is an open binary file, its bytes, or any iterable of pieces of it (lines or blocks). `stage` says in which
    step the log was written, if that is known.
    """
    library = default_library() if library is None else library
    scanner = Scanner(library)
    if isinstance(log, bytes):
        scanner.feed(log)
    elif hasattr(log, "read"):
        while block := log.read(_BLOCK):
            scanner.feed(block)
    else:
        for piece in log:
            scanner.feed(piece)
    found = scanner.close()
    report = judge(found, library, stage=stage)
    if any(diagnosis.known for diagnosis in report.diagnoses) or not report.diagnoses or found.bytes > SAMPLE:
        return report
    return _rejoined(report, found.sample, library, stage)


def _rejoined(report: DiagnosisReport, log: str, library: FailureLibrary, stage: Stage | None) -> DiagnosisReport:
    """Read a log of unknown cause once more with its wrapped lines joined; return what was known before or is now."""
    scanner = Scanner(library)
    scanner.feed(unwrapped(log).encode())
    again = judge(scanner.close(), library, stage=stage)
    if not any(diagnosis.known for diagnosis in again.diagnoses):
        return report
    # Where a line was cut is a guess.
    diagnoses = (d.model_copy(update={"confidence": round(0.85 * d.confidence, 3)}) for d in again.diagnoses)
    return report.model_copy(update={"diagnoses": tuple(diagnoses), "clues": None})


def diagnose(
    log: Iterable[bytes] | Readable | bytes, *, library: FailureLibrary | None = None, stage: Stage | None = None
) -> list[Diagnosis]:
    """Return the causes that a log speaks for, most likely first.

    Wrappers and symptoms are peeled off (they stand in `via` of the first cause); independent causes stand side by
    side. A log that looks like a failure of no known cause gives one diagnosis `unknown` with its telling lines; a log
    in which nothing looks like a failure gives an empty list.
    """
    return list(examine(log, library=library, stage=stage).diagnoses)

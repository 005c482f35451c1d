"""Diagnoses as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.diagnose import Clues, Contrast, Diagnosis, DiagnosisReport

__all__ = ["clues_text", "contrast_text", "diagnosis_text", "nothing_text"]


def _head(diagnosis: Diagnosis) -> str:
    from assay.diagnose.calibration import UNCERTAIN, calibration

    if diagnosis.cause == "unknown":
        return "unknown  [not recognised]"
    counts = calibration().entries.get(diagnosis.cause)
    measured = f"; right on {counts.right} of {counts.right + counts.wrong} logs" if counts else ""
    maybe = "" if diagnosis.confidence >= UNCERTAIN else "may be "
    certainty = f"{diagnosis.certainty} confidence ({diagnosis.confidence:.2f}{measured})"
    return f"{maybe}{diagnosis.cause}  [{diagnosis.cause_class}]  {certainty}"


def diagnosis_text(diagnosis: Diagnosis, lines: int) -> str:
    """Return a diagnosis with at most so many lines of evidence; one that is unsure shows at least one."""
    from assay.diagnose import SATURATED
    from assay.diagnose.calibration import UNCERTAIN

    unsure = diagnosis.confidence < UNCERTAIN
    shown = diagnosis.evidence if diagnosis.cause == "unknown" else diagnosis.evidence[: max(lines, int(unsure))]
    parts = [_head(diagnosis), f"  why     {diagnosis.summary}", f"  fix     {diagnosis.fix}"]
    if diagnosis.change:
        parts.append(f"  matrix  {diagnosis.change}")
    parts += [f"  line {evidence.line}: {evidence.text}" for evidence in shown]
    if diagnosis.count > len(shown):
        more = f"{SATURATED} lines or more" if diagnosis.count >= SATURATED else f"{diagnosis.count} lines in all"
        parts.append(f"  ... {more}")
    seen = {evidence.line for evidence in diagnosis.evidence}
    parts += [f"  peeled  {via.id}, line {via.line}: {via.text}" for via in diagnosis.via if via.line not in seen]
    parts += [f"  source  {source}" for source in diagnosis.sources]
    return "\n".join(parts) + "\n"


def clues_text(found: Clues) -> str:
    """Return what helps where no cause is known."""
    parts: list[str] = []
    if found.first:
        parts.append(f"  first error, line {found.first.line}: {found.first.text}")
    if found.versions:
        parts.append("  the log names " + ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    if found.cards:
        parts.append("  GPUs it names " + ", ".join(found.cards))
    for near in found.nearest:
        parts += [f"  near    {near.id}: {near.cause}", f"          does not fit: {near.lacks}"]
    if found.search:
        parts.append(f"  search  {found.search}")
    return "\n".join(parts) + "\n"


def contrast_text(found: Contrast) -> str:
    """Return how the nearest that works differs."""
    parts = [f"  nearest that works: {found.works}"]
    parts += [
        f"    {'*' if d.implicated else ' '} {d.name}: {d.here} here, {d.there} there" for d in found.differences[:12]
    ]
    return "\n".join([*parts, f"  try     {found.suggestion}", ""])


def nothing_text(report: DiagnosisReport) -> str:
    """Return the text for a log without a recognised failure, with the lines that are most like one."""
    said = f"nothing in these {report.lines} lines is certainly a failure"
    if not report.telling:
        return f"nothing in these {report.lines} lines looks like a failure"
    return "\n".join([f"{said}; nearest to one:", *(f"  line {e.line}: {e.text}" for e in report.telling)])

"""From hits to causes: wrappers peeled, the specific before the general, independent causes side by side."""

from __future__ import annotations

import re
from typing import Final

from assay.diagnose.authors import moment_of
from assay.diagnose.calibration import UNCERTAIN, confidence
from assay.diagnose.clues import clues
from assay.diagnose.library import FailureLibrary
from assay.diagnose.model import Diagnosis, DiagnosisReport, Evidence, FailureEntry, FailureKind, Stage, Via
from assay.diagnose.stream import FoundSignature, Hit, weight
from assay.diagnose.telling import first_error

__all__ = ["judge", "recorded", "unknown"]

_BASE: Final = {FailureKind.CAUSE: 0.95, FailureKind.GENERAL: 0.75, FailureKind.SYMPTOM: 0.45, FailureKind.WRAPPER: 0.2}
_SURVIVED: Final = 0.3
_CAUSE_FOLLOWS: Final = 0.85
_FAMILY_FOLLOWS: Final = 0.65
"""An entry that names one cause is seldom only the consequence of another; one that names a family often is."""
_SAME_REPORT: Final = 2
"""Lines so near to each other tell of one failure."""
_ORDER: Final = {FailureKind.CAUSE: 0, FailureKind.GENERAL: 0, FailureKind.SYMPTOM: 1, FailureKind.WRAPPER: 2}
_UNKNOWN_SUMMARY: Final = (
    "No known cause was recognised in this log. The lines that look most like a failure are shown."
)
_UNKNOWN_FIX: Final = (
    "Read the lines shown, from the first one on. When the cause is understood, add an entry to "
    "knowledge/failures/ (docs/how-to/add-a-failure.md): an anchor, an expression, a line that matches and a near "
    "miss that must not."
)


def _fill(text: str, captured: dict[str, str]) -> str:
    """Put what was matched into a text; a group of the alternative that did not match leaves nothing behind."""
    filled = re.sub(r"\{(\w+)\}", lambda match: captured.get(match[1], ""), text)
    return re.sub(r"\s*\((?: *of| *takes an `Ss`|[ ,]*)\)", "", filled).strip()


def _weight(hit: Hit, found: FoundSignature) -> float:
    """Return how much a line counts; what its author survived counts little."""
    return weight(hit) * (_SURVIVED if found.ledger.survived(hit.line, hit.author) else 1.0)


def _heaviest(entry: FailureEntry, found: FoundSignature) -> float:
    told = _told(entry, found)
    return max((_weight(hit, found) for hit in found.hits[entry.id] if hit.line not in told), default=0.0)


def _diagnosis(entry: FailureEntry, found: FoundSignature, stage: Stage | None) -> Diagnosis:
    told = _told(entry, found)
    hits = [hit for hit in found.hits[entry.id] if hit.line not in told]
    hits = [hit for hit in hits if not found.ledger.survived(hit.line, hit.author)] or hits
    hits.sort(key=lambda hit: (-_weight(hit, found), hit.line))
    captured = hits[0].captured
    return Diagnosis(
        cause=entry.id,
        cause_class=entry.cause_class,
        stage=entry.stage,
        kind=entry.kind,
        confidence=round(confidence(entry) * _weight(hits[0], found) * _stage_factor(entry, stage), 3),
        summary=_fill(entry.cause, captured),
        fix=_fill(entry.fix, captured),
        change=_fill(entry.change, captured),
        axes=entry.axes,
        inconclusive=entry.inconclusive,
        sources=entry.sources,
        evidence=tuple(Evidence(line=hit.line, text=hit.text) for hit in sorted(hits, key=lambda hit: hit.line)),
        count=found.counts[entry.id],
        captured={name: value for name, value in captured.items() if value},
    )


def _stage_factor(entry: FailureEntry, stage: Stage | None) -> float:
    """The stage of an entry is where it is usually met, not where it must be."""
    other = stage is not None and stage is not entry.stage and {stage, entry.stage} != {Stage.IMPORT, Stage.RUN}
    return 0.97 if other else 1.0


def _strength(entry: FailureEntry) -> float:
    return entry.confidence if entry.confidence is not None else _BASE[entry.kind]


def _told(entry: FailureEntry, found: FoundSignature) -> set[int]:
    """Return the lines of a general entry of which a more specific one says more."""
    if entry.kind is not FailureKind.GENERAL:
        return set()
    if entry.id in found.told:
        return found.told[entry.id]
    mine = {hit.line for hit in found.hits[entry.id]}
    told: set[int] = set()
    for hits in found.hits.values():
        other = hits[0].entry
        stronger = other.kind is FailureKind.GENERAL and _strength(other) > _strength(entry)
        if other.kind is FailureKind.CAUSE or stronger:
            told |= mine & {hit.line for hit in hits}
    found.told[entry.id] = told
    return told


def _shadowed(entry: FailureEntry, found: FoundSignature) -> bool:
    return {hit.line for hit in found.hits[entry.id]} <= _told(entry, found)


def judge(found: FoundSignature, library: FailureLibrary, *, stage: Stage | None = None) -> DiagnosisReport:
    """Return the causes that the hits speak for, most likely first."""
    everything = _failing(found)
    shadowed = [entry for entry in everything if _shadowed(entry, found)]
    hidden = {entry.id for entry in shadowed}
    entries = [entry for entry in everything if entry.id not in hidden]
    present = {entry.id for entry in entries}
    explained = {entry.id for entry in entries if present & set(entry.gives_way_to)}
    causes = [e for e in entries if e.kind in {FailureKind.CAUSE, FailureKind.GENERAL} and e.id not in explained]
    chosen = {entry.id for entry in causes}
    peeled = [e for e in entries if e.id not in chosen]
    if not causes:
        # With only symptoms, the ones that name more stand; wrappers are peeled off them in turn.
        best = min((_ORDER[entry.kind] for entry in peeled), default=0)
        causes = [e for e in peeled if _ORDER[e.kind] == best and e.id not in explained] or peeled
        chosen = {entry.id for entry in causes}
        peeled = [e for e in peeled if e.id not in chosen]
    diagnoses = [_diagnosis(entry, found, stage) for entry in _in_order(causes, found)]
    diagnoses = [_less_sure(diagnosis, found, everything) for diagnosis in diagnoses]
    peeled += shadowed
    if diagnoses and peeled:
        via = sorted(
            (Via(id=e.id, line=found.hits[e.id][0].line, text=found.hits[e.id][0].text) for e in peeled),
            key=lambda item: item.line,
        )
        diagnoses[0] = diagnoses[0].model_copy(update={"via": tuple(via)})
    helps = None
    if not any(diagnosis.known for diagnosis in diagnoses) and (diagnoses or found.alarming):
        diagnoses.append(_unknown(found))
    if diagnoses and max(diagnosis.confidence for diagnosis in diagnoses) < UNCERTAIN:
        follows = {
            hit.line for entry in everything if entry.kind is not FailureKind.CAUSE for hit in found.hits[entry.id]
        }
        helps = clues(found.telling, found.sample, library, follows=follows)
    return DiagnosisReport(
        diagnoses=tuple(diagnoses), telling=tuple(found.telling), clues=helps, lines=found.lines, bytes=found.bytes
    )


def _less_sure(diagnosis: Diagnosis, found: FoundSignature, entries: list[FailureEntry]) -> Diagnosis:
    """Believe a cause less if all its lines follow an earlier error that no entry explains: it may follow from that."""
    explained = {hit.line for entry in entries if _ORDER[entry.kind] == 0 for hit in found.hits[entry.id]}
    follows = {hit.line for entry in entries if _ORDER[entry.kind] > 0 for hit in found.hits[entry.id]}
    first = first_error(found.telling, frozenset(follows - explained))
    if first is None or not diagnosis.evidence or any(abs(first.line - line) <= _SAME_REPORT for line in explained):
        return diagnosis
    if min(evidence.line for evidence in diagnosis.evidence) < first.line:
        return diagnosis
    factor = _CAUSE_FOLLOWS if diagnosis.kind is FailureKind.CAUSE else _FAMILY_FOLLOWS
    return diagnosis.model_copy(update={"confidence": round(factor * diagnosis.confidence, 3)})


def _failing(found: FoundSignature) -> list[FailureEntry]:
    """Return the entries that were met, less those of which every author ended well, where others did not."""
    everything = [hits[0].entry for hits in found.hits.values()]
    lasting = [
        entry
        for entry in everything
        if any(not found.ledger.survived(hit.line, hit.author) for hit in found.hits[entry.id])
    ]
    told = any(entry.kind is not FailureKind.WRAPPER for entry in lasting)
    return lasting if told or not (lasting or found.alarming) else everything


def _in_order(causes: list[FailureEntry], found: FoundSignature) -> list[FailureEntry]:
    """Return causes, the most telling first, and among equals the first in time."""
    first = {e.id: min(found.hits[e.id], key=lambda hit: (-_weight(hit, found), hit.line)) for e in causes}
    moments = {name: moment_of(hit.text) for name, hit in first.items()}
    timed = all(moments.values())

    def rank(entry: FailureEntry) -> tuple[float, bool, str, int]:
        told = -round(_strength(entry) * _heaviest(entry, found), 1)
        return told, entry.kind is FailureKind.GENERAL, moments[entry.id] if timed else "", first[entry.id].line

    return sorted(causes, key=rank)


def _unknown(found: FoundSignature) -> Diagnosis:
    return Diagnosis(
        cause="unknown",
        cause_class=None,
        stage=None,
        kind=None,
        confidence=0.0,
        summary=_UNKNOWN_SUMMARY,
        fix=_UNKNOWN_FIX,
        evidence=tuple(found.telling),
        count=len(found.telling),
    )


def unknown(words: str) -> Diagnosis:
    """Return the diagnosis of a failure without evidence in a log, from its record."""
    said = "what its record says is shown" if words else "its record gives no reason either"
    found = _unknown(FoundSignature(telling=[Evidence(line=1, text=words)] if words else []))
    return found.model_copy(
        update={"summary": f"No known cause was recognised, and no line of a log looks like a failure; {said}."}
    )


def recorded(entry: FailureEntry, words: str) -> Diagnosis:
    """Return the diagnosis for the cause in a record, without evidence in a log."""
    return Diagnosis(
        cause=entry.id,
        cause_class=entry.cause_class,
        stage=entry.stage,
        kind=entry.kind,
        confidence=round(confidence(entry), 3),
        summary=_fill(entry.cause, {}),
        fix=_fill(entry.fix, {}),
        change=_fill(entry.change, {}),
        axes=entry.axes,
        inconclusive=entry.inconclusive,
        sources=entry.sources,
        evidence=(Evidence(line=1, text=words),) if words else (),
        count=1,
    )

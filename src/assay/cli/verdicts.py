"""Prints what was judged, proposed and verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assay.cli import console
from assay.foundation.outcome import Outcome

if TYPE_CHECKING:
    from assay.evidence.judging import Verification
    from assay.evidence.policy import PolicyJudgement
    from assay.pipeline.publishing.proposal import Proposal
    from assay.pipeline.rebuild import Rebuilt

__all__ = ["show", "show_judgement", "show_proposal", "show_rebuilt"]

_REASON: Final = 160
"""Characters of a reason that people are shown; the JSON document has all of it."""


def show_proposal(proposal: Proposal, *, tables: bool, dry_run: bool) -> None:
    """Print a proposal before it is carried out; a real run prints by itself what it does."""
    judged = proposal.judged
    subject = judged.subject
    if subject.candidate.lock is None and subject.candidate.kind == "build":
        console.say(f"{subject.candidate.cell}: its build has no local record, so no bill of materials is attached")
    for judgement in judged.left_out:
        console.say(f"not for {judgement.target}: {judgement.reasons[0]}")
    for judgement in judged.judgements if tables else ():
        show_judgement(judgement, against=bool(proposal.reasons))
    if not dry_run:
        return
    for move in proposal.moves:
        name = subject.release.tagged(move.tag)
        old = move.old[:19] if move.old else "not there"
        word = "would be" if proposal.ok else "would not be"
        console.say(f"{name}: {old}, {word} {move.new[:19]}" if move.needed else f"{name}: {old}, and would stay so")
    for reason in [*proposal.reasons, *(reason for one in judged.judgements for reason in one.reasons)]:
        console.say(f"refused: {reason}")


def show_judgement(judgement: PolicyJudgement, *, against: bool) -> None:
    """Print one judgement as a table.

    Args:
        against: something stands against the digest whatever the records say (it was revoked, say).
    """
    from assay.matrix.policy import Basis

    devices = ", ".join(judgement.devices)
    answer = "no" if not judgement.ok else "by its records, but it is refused" if against else "yes"
    title = f"{judgement.image}: {judgement.level} on {judgement.target}: {answer}"
    if judgement.basis is Basis.AUDIT:
        verdict = f"the audit says {judgement.audited}" if judgement.audited else "there is no audit"
        console.paragraphs(f"{title} (nothing ran; {verdict})")
        for line in judgement.audit.summary if judgement.audit else ():
            console.paragraphs(f"  {line}")
        return
    rows = [
        (
            line.feature,
            str(line.outcome),
            " or ".join(line.wanted) or "-",
            ("ok" if line.ok else "refused") if line.wanted else "",
            f"{line.measured:%Y-%m-%d}" if line.measured else "-",
        )
        for line in judgement.features
        if line.wanted or line.outcome is not Outcome.NOT_RUN
    ]
    console.data_table(
        ("feature", "outcome", "wanted", "judged", "measured"),
        rows,
        title=title + (f" ({devices})" if devices else ""),
    )
    # What works needs no words, and what is refused gets them elsewhere.
    for feature in judgement.features:
        if feature.ok and feature.reason and feature.outcome not in (Outcome.WORKS, Outcome.NOT_RUN):
            console.paragraphs(f"{feature.feature}: {_short(feature.reason)}")
    if rest := [line.feature for line in judgement.features if not line.wanted and line.outcome is Outcome.NOT_RUN]:
        console.paragraphs(f"not run: {', '.join(rest)}")


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _REASON else line[: _REASON - 3] + "..."


def show(seen: Verification) -> None:
    """Print a verification for people: the tables and the command to pull on stdout, the reasons on stderr."""
    for judgement in seen.judgements:
        show_judgement(judgement, against=bool(seen.reasons))
    if seen.attested:
        console.say(f"evidence: {len(seen.pieces)} statements, attested by {', '.join(seen.signers)}")
    elif seen.signers:
        known = sum(piece.signer is not None for piece in seen.pieces)
        console.say(
            f"evidence: {known} of {len(seen.pieces)} statements attested by {', '.join(seen.signers)}; "
            "the others have no known signer"
        )
    elif seen.pieces:
        signed = sum(piece.bundle is not None for piece in seen.pieces)
        console.say(f"evidence: {len(seen.pieces)} statements, recorded, but without a known signer ({signed} signed)")
    else:
        console.say("evidence: none")
    for note in seen.notes:
        console.say(note)
    for reason in seen.reasons:
        console.say(f"refused: {reason}")
    for judgement in seen.judgements:
        for reason in judgement.reasons:
            console.say(f"refused for {judgement.target}: {reason}")
    if seen.ok:
        console.data(seen.pull)


def show_rebuilt(seen: Rebuilt) -> None:
    """Print whether a published image is what its lock says."""
    words = "is exactly what its lock says" if seen.same else "is not what its lock says"
    console.paragraphs(f"{seen.reference} ({seen.cell}) {words}")
    console.paragraphs(f"published: {seen.published}")
    if seen.same:
        return
    console.paragraphs(f"from the lock: {seen.rebuilt}")
    if not seen.differing:
        console.paragraphs("All layers are the same; the configuration differs.")
        return
    rows = [[one[7:19], other[7:19], made_by] for made_by, one, other in seen.differing]
    console.data_table(("published", "from the lock", "layer"), rows)
    if seen.wheels:
        names = ", ".join(wheel.name for wheel in seen.wheels)
        console.paragraphs(
            f"Built from source, with other bytes here than there: {names}. A lock names the source of such a wheel, "
            "and not its bytes. Its sha256 is a label of each image."
        )

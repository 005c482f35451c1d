"""`assay publish`: give tags to what was verified, and take them back."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.probe_suite import find_suite, suite_digest
from assay.adapters.files.journal import FileJournal
from assay.adapters.files.kept_records import KeptRecord, KeptRecords
from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore
from assay.adapters.registry.auth import DockerConfig
from assay.adapters.registry.client import connect
from assay.adapters.signing.cosign import CosignSigner
from assay.adapters.signing.dsse import KeySigner
from assay.cli import console, main_inner
from assay.cli.common import format_option, load, project_option, select_argument
from assay.cli.targets import GPU
from assay.cli.trust import identity_options, insecure_option, show_judgement, verifier_of
from assay.errors import EngineError, NothingSelected, PolicyRefused, RegistryError, UsageError
from assay.evidence.oci import MANIFEST, Descriptor
from assay.evidence.record import AuditRecord, BuildRecord, BuildStatus, ProbeRecord, Record, dump
from assay.evidence.reference import Reference, Repository
from assay.matrix.cell import Cell
from assay.matrix.lockfile import lock_digest
from assay.matrix.plan import shard
from assay.matrix.policy import Basis, Level, Policy
from assay.pipeline.publish import Candidate, Proposal, execute, propose, stage
from assay.pipeline.retag import Gear
from assay.pipeline.revoke import revoke
from assay.pipeline.verify import judgement_document
from assay.ports.signing import Signer

__all__ = ["command"]


@click.command("publish")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--level", default="verified", show_default=True, help="Level of the policy that the image must reach.")
@click.option(
    "--target",
    "targets",
    type=GPU,
    multiple=True,
    metavar="GPU",
    help='Publish for these GPUs only: "RTX 5090", sm_120.  [default: all that qualify]',
)
@click.option("--dry-run", is_flag=True, help="Show which tags would move and why; write nothing.")
@click.option(
    "--probe", is_flag=True, help="Audit and probe images without records, pulled from staging (needs the GPU)."
)
@click.option(
    "--revision", type=click.IntRange(1), default=1, show_default=True, help="Revision of a cell that was built again."
)
@click.option(
    "--sign-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Sign with this private key (PEM)."
)
@click.option("--cosign-key", metavar="KEY", help="Sign with cosign and this key file or KMS URI.")
@click.option("--cosign-log", is_flag=True, help="Also write signatures to the public log (--cosign-key).")
@click.option(
    "--cosign-keyless", is_flag=True, help="Sign with cosign and your OpenID identity (needs --identity, --issuer)."
)
@identity_options
@click.option(
    "--reader-config",
    type=click.Path(path_type=Path, exists=True),
    help="Docker config for reading back what was pushed.",
)
@click.option("--revoke", "revoked", metavar="REFERENCE", help="Revoke this published reference instead of publishing.")
@click.option("--reason", help="Reason for --revoke; the registry keeps it.")
@click.option("--to", "back_to", metavar="DIGEST", help="Digest that the aliases return to (--revoke).")
@click.option("--shard", "part", metavar="I/N", help="Take every N-th cell, starting with the I-th.")
@insecure_option
def command(
    select: tuple[str, ...],
    project: Path | None,
    form: str,
    *,
    level: str,
    targets: tuple[str, ...],
    dry_run: bool,
    probe: bool,
    revision: int,
    sign_key: Path | None,
    cosign_key: str | None,
    cosign_log: bool,
    cosign_keyless: bool,
    identity: str | None,
    issuer: str | None,
    reader_config: Path | None,
    revoked: str | None,
    reason: str | None,
    back_to: str | None,
    insecure: tuple[str, ...],
    part: str | None,
) -> int:
    """Publish verified images: push to staging, check the policy, promote by digest, attach evidence, move tags.

    Every step is safe to repeat. The tag of a cell never moves. Aliases such as sm120-verified move last.

    Exit code 6: the records do not meet the policy; every reason is shown.
    """
    if cosign_keyless and not identity:
        raise UsageError(
            "--cosign-keyless needs --identity and --issuer",
            hint="what is signed is read back and verified before any tag is given",
        )
    files, plan = load(project)
    policy = plan.project.matrix.policy
    registry = connect(insecure=insecure)
    gear = Gear(
        registry=registry,
        reader=connect(insecure=insecure, credentials=DockerConfig(reader_config)) if reader_config else registry,
        journal=FileJournal(files.root / "build_logs"),
        signer=_signer(sign_key, cosign_key, keyless=cosign_keyless, log=cosign_log),
        verifier=verifier_of([], (policy, files.root), identity=identity, issuer=issuer),
        say=console.say,
    )
    if revoked:
        return _revoke(revoked, reason, back_to, policy=policy, gear=gear, form=form, dry_run=dry_run)
    cells = [cell for cell in plan.select(select, default=True) if cell.kind != "control"]
    if not cells:
        raise NothingSelected("only controls were selected; they are made to fail, and never published")
    if part:
        cells = shard(cells, part)
    results: list[dict[str, Any]] = []
    codes = {0}
    for cell in cells:
        try:
            results.append(
                _publish(
                    cell,
                    files,
                    policy,
                    gear,
                    level=level,
                    targets=targets,
                    revision=revision,
                    dry_run=dry_run,
                    probe=probe,
                    tables=form == "text",
                )
            )
        except (PolicyRefused, RegistryError) as error:
            # The other cells do not suffer for it.
            word = "refused" if isinstance(error, PolicyRefused) else "failed"
            results.append({"cell": cell.id, "ok": False, "published": False, word: error.message.splitlines()})
            console.say(f"{word}: {error}")
            codes.add(error.exit_code)
            continue
        if not results[-1]["ok"]:
            codes.add(PolicyRefused.exit_code)
    if form == "json":
        console.json_data({"version": 1, "level": level, "dry_run": dry_run, "cells": results})
    if dry_run:
        console.say("a dry run: nothing was written")
    # Not to know (5) weighs more than to know that it may not be (6).
    return RegistryError.exit_code if RegistryError.exit_code in codes else max(codes)


def _signer(key: Path | None, cosign_key: str | None, *, keyless: bool, log: bool) -> Signer | None:
    if sum((key is not None, cosign_key is not None, keyless)) > 1:
        raise UsageError("give one of --sign-key, --cosign-key and --cosign-keyless")
    if log and not cosign_key:
        raise UsageError("--cosign-log goes with --cosign-key", hint="keyless signatures are in the log anyway")
    if key is not None:
        return KeySigner(key)
    return CosignSigner(cosign_key, log=log) if cosign_key or keyless else None


def _publish(
    cell: Cell,
    files: ProjectFiles,
    policy: Policy,
    gear: Gear,
    *,
    level: str,
    targets: Sequence[str],
    revision: int,
    dry_run: bool,
    probe: bool,
    tables: bool,
) -> dict[str, Any]:
    store = FileStore(files.root / "build_logs")
    kept = list(KeptRecords(files.root))
    records = [one.record for one in kept if one.intact]
    suite = suite_digest(find_suite(files.root))
    promised = policy.levels[level].targets(cell.image) if level in policy.levels else ()
    candidate = _candidate(cell, files, records, targets, revision, promised=promised)
    subject = _staged(candidate, policy, gear, kind=cell.kind, push=not dry_run)
    if candidate.lock is None and cell.kind == "build":
        console.say(f"{cell.id}: no record of its build is here, so no bill of materials is attached")
    if probe and not dry_run:
        proposal = propose(candidate, subject, policy=policy, level=level, records=records, suite=suite, gear=gear)
        if any(not one.ok for one in proposal.judgements):
            _measure(proposal.staging.at(subject.digest), files, policy.levels[level])
            kept = list(KeptRecords(files.root))
            records = [one.record for one in kept if one.intact]
    _check_intact(kept, subject)
    candidate = replace(candidate, report=_report(store, records, subject))
    if not targets:
        # Whatever a cell was made for: where it was measured as the policy wants it, the policy's promise holds.
        measured = [target for target in promised if _measured(records, subject.digest, target)]
        candidate = replace(candidate, targets=tuple(dict.fromkeys([*candidate.targets, *measured])))
    proposal = propose(candidate, subject, policy=policy, level=level, records=records, suite=suite, gear=gear)
    proven = [one.target for one in proposal.judgements if one.ok]
    if proven and not targets:
        for judgement in proposal.judgements:
            if not judgement.ok:
                console.say(f"not for {judgement.target}: {judgement.reasons[0]}")
        candidate = replace(candidate, targets=tuple(proven))
        proposal = propose(candidate, subject, policy=policy, level=level, records=records, suite=suite, gear=gear)
    _tell(proposal, tables=tables, dry_run=dry_run)
    if not dry_run:
        exact = {id(one.record): one.raw for one in kept}
        execute(
            proposal, policy=policy, suite=suite, gear=gear, exact=lambda record: exact.get(id(record)) or dump(record)
        )
    return _document(proposal, published=not dry_run)


def _measure(reference: str, files: ProjectFiles, level: Level) -> None:
    """Audit and probe an image as the registry has it; what comes of it is in the records, not in the exit codes."""
    console.say(f"pulling {reference}")
    DockerEngine().pull(reference)
    # Their tables are news for a person; standard output is for this command's own answer.
    with contextlib.redirect_stdout(sys.stderr):
        if level.audit is not None:
            main_inner(["audit", "--image", reference, "--project", str(files.root)])
        if level.basis is Basis.PROBE:
            main_inner(["probe", reference, "--project", str(files.root)])


def _measured(records: Sequence[Record], digest: str, target: str) -> bool:
    return any(
        isinstance(one, ProbeRecord)
        and one.image_digest == digest
        and {item.target for item in one.devices} == {target}
        for one in records
    )


def _candidate(
    cell: Cell,
    files: ProjectFiles,
    records: Sequence[Record],
    targets: Sequence[str],
    revision: int,
    *,
    promised: Sequence[str],
) -> Candidate:
    known = tuple(dict.fromkeys([*cell.targets, *promised]))
    for target in targets:
        if target not in known:
            raise UsageError(
                f"{cell.id} is not made for {target}, and the policy says nothing of it there",
                hint=f"its targets: {', '.join(known)}",
            )
    built = [
        record
        for record in records
        if isinstance(record, BuildRecord)
        and record.cell == cell.id
        and record.status in (BuildStatus.BUILT, BuildStatus.CACHED)
        and record.content_key
    ]
    key = built[-1].content_key if built else None
    lock = files.lock(cell) if cell.kind == "build" and built else None
    if lock is not None and built[-1].lock_digest not in (None, lock_digest(lock)):
        raise PolicyRefused(
            f"the lock of {cell.id} changed since it was built; its bill of materials would be of another image",
            hint=f"assay build {cell.id}",
        )
    return Candidate(
        cell=cell.id,
        tag=cell.tag,
        image=cell.image,
        targets=tuple(targets) or cell.targets,
        staging_tag=key.removeprefix("sha256:") if key else cell.tag,
        local=cell.local_reference if built and cell.kind == "build" else None,
        lock=lock,
        revision=revision,
    )


def _staged(candidate: Candidate, policy: Policy, gear: Gear, *, kind: str, push: bool) -> Descriptor:
    """Return what staging has; push it there first if it is not there yet, or (without `push`) say what would come."""
    staging = Repository.parse(policy.repositories.staging_of(candidate.image))
    there = gear.registry.resolve(staging, candidate.staging_tag)
    if candidate.local is None and there is None:
        built = kind == "build"
        why = "was not built here" if built else "is made elsewhere"
        raise PolicyRefused(
            f"{candidate.cell} {why}, and {staging.tagged(candidate.staging_tag)} is not in staging",
            hint=f"assay build {candidate.cell}; or name only the cells to publish"
            if built
            else "copy it there with skopeo, which keeps its digest (docs/how-to/publish.md)",
        )
    if candidate.local is None or there is not None:
        return stage(replace(candidate, local=None), policy, registry=gear.registry, engine=None)
    engine = DockerEngine()
    if push:
        console.say(f"pushing {candidate.local} to {staging.tagged(candidate.staging_tag)}")
        started = time.monotonic()
        arrived = stage(candidate, policy, registry=gear.registry, engine=engine)
        console.say(f"pushed in {time.monotonic() - started:.0f} s")
        return arrived
    held = engine.image(candidate.local)
    if held is None or held.digest is None:
        raise EngineError(
            f"{candidate.local} is not in staging, and the engine cannot tell which digest it will have",
            hint=f"assay build {candidate.cell}; publishing without --dry-run pushes it to staging first",
        )
    console.say(f"not in staging yet: would push {candidate.local}; judged by the digest that the engine gives")
    return Descriptor(media_type=MANIFEST, digest=held.digest, size=0)


def _check_intact(kept: Sequence[KeptRecord], subject: Descriptor) -> None:
    edited = [one.name for one in kept if not one.intact and one.record.image_digest == subject.digest]
    if edited:
        raise PolicyRefused(
            f"records of {subject.digest[:19]} were edited after they were written: {', '.join(edited)}",
            hint="a record is never changed; probe again, and keep the edited file elsewhere",
        )


def _report(store: FileStore, records: Sequence[Record], subject: Descriptor) -> bytes | None:
    audits = [one for one in records if isinstance(one, AuditRecord) and one.image_digest == subject.digest]
    return store.document(audits[-1].report) if audits and audits[-1].report else None


def _tell(proposal: Proposal, *, tables: bool, dry_run: bool) -> None:
    for judgement in proposal.judgements if tables else ():
        show_judgement(judgement, against=bool(proposal.reasons))
    # Without a dry run the flow itself says what it does, and why not.
    for move in proposal.moves if dry_run else ():
        name = proposal.release.tagged(move.tag)
        old = move.old[:19] if move.old else "not there"
        word = "would be" if proposal.ok else "would not be"
        console.say(f"{name}: {old}, {word} {move.new[:19]}" if move.needed else f"{name}: {old}, and would stay so")
    for reason in [*proposal.reasons, *(r for one in proposal.judgements for r in one.reasons)] if dry_run else ():
        console.say(f"refused: {reason}")


def _document(proposal: Proposal, *, published: bool) -> dict[str, Any]:
    return {
        "cell": proposal.candidate.cell,
        "ok": proposal.ok,
        "published": published and proposal.ok,
        "digest": proposal.subject.digest,
        "staging": proposal.staging.at(proposal.subject.digest),
        "pull": f"docker pull {proposal.release.at(proposal.subject.digest)}",
        "moves": [
            {"tag": move.tag, "old": move.old, "new": move.new, "moving": move.moving} for move in proposal.moves
        ],
        "judgements": [judgement_document(one) for one in proposal.judgements],
        "reasons": [{"why": str(reason.why), "message": reason.message} for reason in proposal.reasons],
    }


def _revoke(
    reference: str, reason: str | None, to: str | None, *, policy: Policy, gear: Gear, form: str, dry_run: bool
) -> int:
    if not reason:
        raise UsageError("--revoke needs --reason", hint="others will read it: say what is wrong")
    digest, moved = revoke(
        Reference.parse(reference), reason=reason, to=to, policy=policy, gear=gear, write=not dry_run
    )
    console.say(f"would revoke {digest}" if dry_run else f"revoked {digest}")
    for tag, new in moved.items():
        back = f"would go back to {new}" if dry_run else f"back to {new}"
        console.say(f"{tag}: {back}" if new else f"{tag}: nothing earlier holds; it stays, and verify refuses it")
    if form == "json":
        console.json_data({"version": 1, "dry_run": dry_run, "revoked": digest, "reason": reason, "aliases": moved})
    if dry_run:
        console.say("a dry run: nothing was written")
    return 0

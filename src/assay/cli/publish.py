"""`assay publish`: give tags to what was verified, and take them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option, select_argument
from assay.cli.targets import GPU
from assay.cli.trust import identity_options, insecure_option
from assay.cli.verdicts import show_proposal
from assay.errors import AssayError, NothingSelected, PolicyRefused, RegistryError, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.matrix.policy import Policy
    from assay.pipeline.publish import LocalPorts, PublishOptions
    from assay.pipeline.publishing.candidate import Promise
    from assay.pipeline.publishing.proposal import Proposal
    from assay.pipeline.publishing.tags import PublishPorts

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
    from assay.cli.probe_composition import shipped_suite
    from assay.cli.trust_composition import publish_ports, signer_of, verifier_of
    from assay.pipeline.publish import PublishOptions
    from assay.pipeline.publishing.candidate import Promise
    from assay.pipeline.publishing.joining import families, join_all

    if cosign_keyless and not identity:
        raise UsageError(
            "--cosign-keyless needs --identity and --issuer",
            hint="signatures are read back and verified before any tag is set",
        )
    files, plan = load(project)
    policy = plan.project.matrix.policy
    signer = signer_of(sign_key, cosign_key, keyless=cosign_keyless, log=cosign_log)
    verifier = verifier_of([], (policy, files.root), identity=identity, issuer=issuer)
    ports = publish_ports(files.root, signer, verifier, insecure=insecure, reader_config=reader_config)
    if revoked:
        return _revoke(revoked, reason, back_to, policy=policy, ports=ports, form=form, dry_run=dry_run)
    cells = _cells(plan, select, part)
    promise = Promise(policy=policy, level=level, suite=shipped_suite(files.root)[1])
    options = PublishOptions(targets=targets, revision=revision, dry_run=dry_run, measure=probe)
    review = partial(show_proposal, tables=form == "text", dry_run=dry_run)
    one = partial(_publish, promise=promise, options=options, local=_local(files, plan), ports=ports, told=set())
    kin, results = families(plan.cells), {cell.id: one(cell, review=review) for cell in cells}
    done = {cell for cell, result in results.items() if not (dry_run or isinstance(result, AssayError))}
    joined = join_all([one for one in kin if done & {cell.id for cell in one}], promise, ports, revision=revision)
    if form == "json":
        _write(results, joined, level=level, dry_run=dry_run)
    if dry_run:
        console.say("a dry run: nothing was written")
    return _exit_code(results.values())


def _exit_code(results: Iterable[Proposal | AssayError]) -> int:
    codes = {
        one.exit_code if isinstance(one, AssayError) else 0 if one.ok else PolicyRefused.exit_code for one in results
    }
    # A registry that could not be asked outranks a refusal.
    return RegistryError.exit_code if RegistryError.exit_code in codes else max(codes, default=0)


def _cells(plan: Plan, select: Sequence[str], part: str | None) -> Sequence[Cell]:
    from assay.matrix.plan import shard

    cells = [cell for cell in plan.select(select, default=True) if cell.kind != "control"]
    if not cells:
        raise NothingSelected("only controls were selected; they fail on purpose and are never published")
    return shard(cells, part) if part else cells


def _local(files: ProjectFiles, plan: Plan) -> LocalPorts:
    from assay.adapters.files.kept_records import KeptRecords
    from assay.adapters.files.records import FileStore
    from assay.cli.composition import engine, layer_store
    from assay.cli.measure import measurer
    from assay.pipeline.publish import LocalPorts

    return LocalPorts(
        engine=engine(),
        records=lambda: KeptRecords(files.root),
        document=FileStore(files.root / "build_logs").document,
        lock=files.lock,
        layers=layer_store(),
        measure=measurer(files, plan),
    )


def _publish(
    cell: Cell,
    promise: Promise,
    options: PublishOptions,
    *,
    local: LocalPorts,
    ports: PublishPorts,
    review: Callable[[Proposal], None],
    told: set[str],
) -> Proposal | AssayError:
    """Publish a cell; a refusal or a failed registry is a result, so that the other cells are published."""
    from assay.pipeline.publish import publish

    try:
        return publish(cell, promise, options, local=local, ports=ports, review=review)
    except PolicyRefused as error:
        console.say(f"refused: {error}")
        return error
    except RegistryError as error:
        # A registry that is down fails every cell with the same words.
        console.say(f"failed: {cell.id}: {'the same' if str(error) in told else error}")
        told.add(str(error))
        return error


def _write(results: Mapping[str, Proposal | AssayError], joined: Sequence[str], *, level: str, dry_run: bool) -> None:
    """Write the JSON document."""
    from assay.pipeline.publishing.proposal import PublishDocument, unpublished

    cells = (
        unpublished(cell, result) if isinstance(result, AssayError) else result.document(published=not dry_run)
        for cell, result in results.items()
    )
    console.document(PublishDocument(level=level, dry_run=dry_run, cells=tuple(cells), indexes=tuple(joined)))


def _revoke(
    reference: str,
    reason: str | None,
    to: str | None,
    *,
    policy: Policy,
    ports: PublishPorts,
    form: str,
    dry_run: bool,
) -> int:
    from assay.evidence.reference import Reference
    from assay.pipeline.revoke import RevokeDocument, revoke

    if not reason:
        raise UsageError("--revoke needs --reason", hint="others will read it: state the problem")
    digest, moved = revoke(
        Reference.parse(reference), reason=reason, to=to, policy=policy, ports=ports, write=not dry_run
    )
    console.say(f"would revoke {digest}" if dry_run else f"revoked {digest}")
    for tag, new in moved.items():
        back = f"would go back to {new}" if dry_run else f"back to {new}"
        console.say(f"{tag}: {back}" if new else f"{tag}: no earlier image verifies; it stays, and verify refuses it")
    if form == "json":
        console.document(RevokeDocument(dry_run=dry_run, revoked=digest, reason=reason, aliases=moved))
    if dry_run:
        console.say("a dry run: nothing was written")
    return 0

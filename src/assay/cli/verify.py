"""`assay verify`: verify any image reference from its registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.cli.targets import GPU, PLATFORM, platforms_of_target
from assay.cli.trust import identity_options, insecure_option, keys_option, own_policy
from assay.cli.verdicts import show, show_rebuilt

if TYPE_CHECKING:
    from assay.foundation.platforms import Platform

__all__ = ["command"]

SECONDS: Final = 300.0
"""How long registries may take to answer in all."""


@click.command("verify")
@click.argument("reference")
@click.option("--level", default=None, help="Level to check.  [default: the one the tag promises, or all]")
@click.option("--target", type=GPU, default=None, metavar="GPU", help='Check for this GPU only: "RTX 5090", sm_120.')
@click.option("--suite", default=None, metavar="DIGEST", help="Digest of the probe suite that the records must have.")
@click.option("--own-policy", "judge_by_own", is_flag=True, help="Use the policy of this project, not the publisher's.")
@click.option(
    "--published-as",
    metavar="REPOSITORY",
    help="Original repository, if REFERENCE is a copy.",
)
@click.option(
    "--rebuild",
    "again",
    is_flag=True,
    help="Only check that the image matches its lock: assemble it here and compare digests.",
)
@click.option(
    "--platform",
    type=PLATFORM,
    metavar="PLATFORM",
    help="Platform to verify.  [default: the GPU's, else this machine's]",
)
@keys_option
@identity_options
@insecure_option
@project_option
@format_option("text", "json")
def command(
    reference: str,
    level: str | None,
    target: str | None,
    suite: str | None,
    *,
    judge_by_own: bool,
    published_as: str | None,
    again: bool,
    platform: str | None,
    keys: tuple[Path, ...],
    identity: str | None,
    issuer: str | None,
    insecure: tuple[str, ...],
    project: Path | None,
    form: str,
) -> int:
    """Verify a published image: its digest, evidence, signatures, policy and age.

    The policy is the publisher's, or with --own-policy your own. Prints the outcome of each feature and the command
    that pulls the image by digest.

    With --rebuild, check instead that the image has exactly the bytes that the lock of its cell in this checkout gives.
    Missing layers are made on this machine; a shared catalogue of layers is not trusted.

    Exit code 0: verified. 6: not verified; the reasons are shown. 5: the registry failed.
    """
    from assay.cli.registry_composition import registry_client
    from assay.cli.trust_composition import verifier_of
    from assay.evidence.record import now
    from assay.evidence.reference import Reference, Repository
    from assay.foundation.platforms import Platform
    from assay.pipeline.verify import document, verify

    if again:
        return _rebuild(reference, project, insecure, form)
    own = own_policy(project) if judge_by_own or project else None
    if own and suite is None:
        suite = _own_suite(own[1])
    seen = verify(
        Reference.parse(reference),
        registry=registry_client(insecure, seconds=SECONDS),
        verifier=verifier_of(keys, own, identity=identity, issuer=issuer),
        level=level,
        target=target,
        policy=own[0] if own else None,
        suite=suite,
        now=now(),
        # Whoever names keys wants signatures, also where the keys are those of one's own policy.
        signed=bool(keys or identity or (own and own[0].keys)),
        published_as=Repository.parse(published_as) if published_as else None,
        platform=Platform.of(platform) if platform else None,
        otherwise=_usual(target),
    )
    if form == "json":
        console.document(document(seen))
    else:
        show(seen)
    return 0 if seen.ok else 6


def _own_suite(root: Path) -> str:
    """Return the digest of the probes of a checkout: by its own policy, they are what counts as current."""
    from assay.cli.probe_composition import shipped_suite

    return shipped_suite(root)[1]


def _rebuild(reference: str, project: Path | None, insecure: tuple[str, ...], form: str) -> int:
    from dataclasses import replace

    from assay.cli.composition import assembler_of, engine, layer_store, renderer
    from assay.cli.registry_composition import registry_client
    from assay.evidence.reference import Reference
    from assay.matrix.lock import LockedCell
    from assay.pipeline.cell_files import locked_cells
    from assay.pipeline.rebuild import rebuild

    files, plan = load(project)
    matrix = plan.project.matrix
    render_cell = renderer(files, matrix)

    def locked(cell: str) -> LockedCell | None:
        found = [one for one in plan.cells if one.id == cell]
        return next(iter(locked_cells(files, found)), None)

    assembler = replace(assembler_of(matrix, layer_store(), engine(), files.root), say=console.say)
    seen = rebuild(
        Reference.parse(reference),
        registry_client(insecure, seconds=SECONDS),
        locked,
        render_cell,
        lambda text, labels, packing, most: replace(assembler, packing=packing, largest=most).assemble(text, labels),
    )
    if form == "json":
        console.document(seen.document())
    else:
        show_rebuilt(seen)
    return 0 if seen.same else 6


def _usual(target: str | None) -> Platform | None:
    """Return the platform that a GPU comes with, where it is one; else this machine's."""
    import platform

    from assay.foundation.platforms import Platform

    there = platforms_of_target(target) if target else ()
    return there[0] if len(there) == 1 else Platform.known(platform.machine())

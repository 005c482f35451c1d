"""`assay recommend`: which tag works on my card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from assay.cli import console
from assay.cli.common import format_option, project_option
from assay.cli.completing import features
from assay.cli.targets import GPU, PLATFORM, beside, local_gpus, platforms_of_target
from assay.cli.trust import identity_options, insecure_option, keys_option, own_policy
from assay.errors import RegistryError, UsageError
from assay.foundation.nearest import suggestion
from assay.foundation.outcome import Outcome

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import AnyRecord
    from assay.foundation.platforms import Platform
    from assay.matrix.plan import Plan
    from assay.matrix.policy import Policy
    from assay.pipeline.documents import RecommendDocument
    from assay.pipeline.recommend import Offer
    from assay.ports.registry import Registry

__all__ = ["command"]

SECONDS: Final = 900.0
"""How long registries may take to answer in all."""

_REGISTRY: Final = re.compile(r"[^/:]+:[0-9]+|\[[^/]+\]:[0-9]+|[^/:]+\.[^/:]+|localhost")
"""A registry without a repository."""


@click.command("recommend")
@click.option(
    "--target",
    type=GPU,
    metavar="GPU",
    help='Your GPU: "RTX 5090", "DGX Spark", sm_120, ...  [default: this machine\'s]',
)
@click.option(
    "--need",
    "needs",
    multiple=True,
    metavar="FEATURES",
    shell_complete=features,
    help="Features that must work, such as cuda-graphs,flashinfer.",
)
@click.option(
    "--have",
    multiple=True,
    metavar="PLACE",
    help="Repository (localhost:5000/assay/server) or whole registry (localhost:5000) to search, "
    "in addition to local records.",
)
@click.option(
    "--platform",
    type=PLATFORM,
    metavar="PLATFORM",
    help="Platform of your machine.  [default: those that the GPU comes with]",
)
@click.option("--offline", is_flag=True, help="Read nothing from a package index: predict from cached facts only.")
@click.option("--published", is_flag=True, help="Also search the release repositories in this project's policy.")
@keys_option
@identity_options
@insecure_option
@project_option
@format_option("text", "json")
def command(
    target: str | None,
    needs: tuple[str, ...],
    have: tuple[str, ...],
    platform: str | None,
    *,
    offline: bool,
    published: bool,
    keys: tuple[Path, ...],
    identity: str | None,
    issuer: str | None,
    insecure: tuple[str, ...],
    project: Path | None,
    form: str,
) -> int:
    """Recommend an image for a GPU: from local records, those that ship with assay, and evidence in registries.

    If no measured image has every needed feature, cells of the project (or of the example project) follow, with the
    predictions of the audit.

    Exit code 0: a measured image has every needed feature. 3: none has; the closest ones are shown.
    """
    from assay.cli.common import load_or_example
    from assay.cli.predicting import known_records
    from assay.cli.registry_composition import registry_client
    from assay.cli.trust_composition import verifier_of
    from assay.evidence.record import now
    from assay.evidence.reference import Reference
    from assay.pipeline.recommend import from_records, from_registry, rank

    target = target or _own_gpu()
    wanted = tuple(dict.fromkeys(name.strip() for text in needs for name in text.split(",") if name.strip()))
    own = own_policy(project)
    verifier = verifier_of(keys, own, identity=identity, issuer=issuer)
    client = registry_client(insecure, seconds=SECONDS)
    platforms = _platforms(target, platform)
    files, plan = load_or_example(project)
    records = known_records(files, plan)
    offers = from_records(records, target, platforms)
    for name in _repositories(have, own if published else None, client):
        try:
            repository = Reference.parse(name).repository
            found = partial(from_registry, registry=client, verifier=verifier, now=now(), say=console.warn)
            offers += found(repository, target, platforms=platforms)
        except RegistryError as error:
            if name in have:
                raise
            console.warn(f"{name}: {error.message}")
    if not any(offer.usable and not offer.lacks(wanted) for offer in offers):
        asked = platforms if platform else None
        offers += _predicted(files, plan, target, records, offers, asked=asked, offline=offline)
    ranked = rank(offers, wanted)
    good = [offer for offer in ranked if offer.usable and not offer.lacks(wanted)]
    if form == "json":
        console.document(_document(ranked, good, wanted, target))
    else:
        _show(ranked, good, wanted, target)
    return 0 if good else 3


def _platforms(target: str, asked: str | None) -> frozenset[Platform]:
    """Return the platforms of the machines that are asked about."""
    from assay.foundation.platforms import Platform

    return frozenset([Platform.of(asked)] if asked else platforms_of_target(target) or Platform)


def _predicted(
    files: ProjectFiles,
    plan: Plan,
    target: str,
    records: Sequence[AnyRecord],
    offers: Iterable[Offer],
    *,
    asked: frozenset[Platform] | None,
    offline: bool,
) -> list[Offer]:
    """Return offers of cells that nobody measured there, by what the audit predicts."""
    from assay.cli.predicting import all_claims, options_of, platforms_for, predictions
    from assay.evidence.record import now
    from assay.pipeline.recommend import from_choices
    from assay.serving.choice import choose

    known = {offer.cell for offer in offers}
    platforms = asked or platforms_for(plan.project.matrix, target)
    cells = [
        cell for cell in plan.cells if cell.kind == "build" and cell.id not in known and cell.platform in platforms
    ]
    audits = predictions(files, plan, cells, target, records, offline=offline)
    choices, _ = choose(
        options_of(cells, records, files.root),
        target=target,
        kernels=(),
        records=[*records, *audits],
        claims=all_claims(files.root),
    )
    return from_choices(choices, target, now=now())


def _repositories(have: Sequence[str], own: tuple[Policy, Path] | None, client: Registry) -> list[str]:
    """Return the repositories to ask, each once: those named, a policy's own, and all of the registries named."""
    found = [name for name in have if not _REGISTRY.fullmatch(name)]
    if own is not None:
        recipes = sorted((own[1] / "images").glob("*/image.yaml"))
        found += [own[0].repositories.release_of(path.parent.name) for path in recipes]
    for host in have:
        if _REGISTRY.fullmatch(host):
            found += [str(one) for one in client.repositories(host)]
    return list(dict.fromkeys(found))


def _own_gpu() -> str:
    here = local_gpus()
    if not here:
        raise UsageError("there is no GPU on this machine", hint='name yours: --target "RTX 5090"')
    return here[0].target


def _document(ranked: Sequence[Offer], good: Sequence[Offer], needs: Sequence[str], target: str) -> RecommendDocument:
    from assay.pipeline.documents import OfferDocument, RecommendDocument

    offered = tuple(
        OfferDocument(
            reference=offer.reference,
            tags=offer.tags,
            digest=offer.digest,
            cell=offer.cell,
            platform=offer.platform,
            device=offer.device,
            measured=offer.measured.isoformat(),
            standing=offer.standing,
            levels=offer.levels,
            lacks=offer.lacks(needs),
            features=dict(sorted(offer.features.items())),
            note=offer.note,
        )
        for offer in ranked
    )
    return RecommendDocument(target=target, needs=tuple(needs), found=bool(good), offers=offered)


def _show(ranked: Sequence[Offer], good: Sequence[Offer], needs: Sequence[str], target: str) -> None:
    if not ranked:
        console.say(f"there are no measurements on {beside(target)}, and no cell could be predicted")
        console.say(f"  try: assay audit NAME==VERSION --target {target}, which predicts each feature from the wheels,")
        console.say("       --have REGISTRY/REPOSITORY, or assay probe on such a GPU")
        return
    known = {feature for offer in ranked for feature in offer.features}
    for need in needs:
        if need not in known:
            console.warn(f"no record mentions {need!r}{suggestion(need, known)}")
    mixed = len({offer.platform for offer in ranked}) > 1
    names = Counter(offer.cell for offer in ranked if not offer.tags)
    rows = [
        (
            _label(offer, names),
            *([str(offer.platform)] if mixed else []),
            *(str(offer.features.get(need, "not_run")) for need in needs),
            f"{sum(outcome is Outcome.WORKS for outcome in offer.features.values())} of {len(known)}",
            offer.standing,
            offer.device if offer.standing != "predicted" else "",
            f"{offer.measured:%Y-%m-%d}" if offer.standing != "predicted" else "",
            offer.note,
            _failing(offer, known),
        )
        for offer in ranked
    ]
    columns = ("image", *(["platform"] if mixed else []), *needs, "works", "standing", "measured on", "at", "note")
    columns += ("does not work",)
    console.data_table(columns, rows)
    if good:
        _say_next(good[0], target)
        return
    what = f"to have all of {', '.join(needs)} " if needs else ""
    console.say(f"no image was measured {what}on {beside(target)}")
    best = next((offer for offer in ranked if offer.standing == "predicted" and not _against(offer, needs)), None)
    if best is not None:
        console.say("nothing was measured on it; the best by prediction:")
        console.data(f"assay up MODEL --image {best.cell} --target {target}")
        console.say(f"to prove it: assay build {best.cell}; assay probe {best.cell}")
    if any(offer.standing == "environment" and not offer.lacks(needs) for offer in ranked):
        console.say("  only an environment outside of any image was measured: there is nothing to pull")


def _label(offer: Offer, names: Mapping[str, int]) -> str:
    """Return the tag of an image, else its cell; with the start of its digest where several images are of the cell."""
    if offer.tags:
        return offer.tags[0]
    return f"{offer.cell}@{offer.digest[:19]}" if names[offer.cell] > 1 and offer.digest else offer.cell


def _against(offer: Offer, needs: Sequence[str]) -> bool:
    """Return whether a needed feature is known not to work."""
    return any(offer.features.get(need, Outcome.WORKS) is not Outcome.WORKS for need in needs)


def _failing(offer: Offer, known: Collection[str]) -> str:
    """Return the features that do not work by outcome; of those that did not run, the count."""
    named: dict[Outcome, list[str]] = {}
    for feature, outcome in sorted(offer.features.items()):
        if outcome not in (Outcome.WORKS, Outcome.NOT_RUN):
            named.setdefault(outcome, []).append(feature)
    parts = [f"{outcome}: {', '.join(named[outcome])}" for outcome in Outcome if outcome in named]
    idle = sum(offer.features.get(feature, Outcome.NOT_RUN) is Outcome.NOT_RUN for feature in known)
    return "; ".join([*parts, f"{idle} not run"] if idle else parts)


def _say_next(best: Offer, target: str) -> None:
    """Print the commands that get and start the best image."""
    from assay.engines.table import all_engines

    pulled = best.digest is not None and best.standing != "measured"
    name = best.reference if pulled else best.cell
    if pulled:
        console.data(f"docker pull {name}")
    else:
        console.say(f"best: {name} (by a record; --published and --have find where it can be pulled)")
    if sum(engine.is_in(name) for engine in all_engines()) == 1:
        launch = f"assay launch {name} --target {target} --model MODEL"
        if pulled:
            console.say(f"then: {launch}")
        else:
            console.data(f"assay up MODEL --image {name} --target {target}")
            console.say(f"to write its start script instead: {launch}")

"""`assay find`: which versions fit a card, without a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from assay.cli import console
from assay.cli.common import format_option, project_option
from assay.cli.index_composition import where_to_look
from assay.cli.targets import PLATFORM, comma_parts, gpu_of, gpus_of, local_gpus
from assay.cli.wheels import base_named, index_option
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.audit.context import TargetGpu
    from assay.audit.found import Search
    from assay.audit.installation import Base
    from assay.matrix.cards import Named
    from assay.pipeline.find import Fit, Wanted
    from assay.ports.resolver import ResolveRequest

__all__ = ["command"]

_PYTHONS: Final = ("3.12", "3.11", "3.13", "3.10", "3.14")
"""In the order in which they are tried."""
_GLIBC: Final = "2.36"
"""Of the base where none is given: Debian 12, which the shipped images have."""


@click.command("find", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject", metavar="NAME[VERSIONS]")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="GPU,...",
    help='GPUs to check for: "DGX Spark", "RTX 5090", sm_120.  [default: this machine\'s]',
)
@click.option("--with", "others", multiple=True, metavar="NAME[VERSIONS]", help="Another package to install beside it.")
@click.option("--need", "needs", multiple=True, metavar="FEATURE,...", help="Features that must be predicted to work.")
@click.option(
    "--python", "pythons", multiple=True, metavar="3.NN", help=f"Pythons to try.  [default: {', '.join(_PYTHONS)}]"
)
@click.option(
    "--platform",
    "machine",
    type=PLATFORM,
    metavar="PLATFORM",
    help="linux/arm64, arm64, ...  [default: the card's, else linux/amd64]",
)
@click.option("--base", help="Base to install it on: debian12, ubuntu24.04, ...")
@click.option("--package", "packages", multiple=True, help="Distribution package that the base contains.")
@click.option("--driver-cuda", metavar="VERSION", help="CUDA version that the driver supports.")
@index_option
@click.option("--pre", is_flag=True, help="Try pre-releases too.")
@click.option(
    "--most", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of releases to try."
)
@click.option("--facts", type=click.Path(path_type=Path, file_okay=False), help="Folder of cached wheel facts.")
@click.option("--add", is_flag=True, help="Add the result to the project: matrix value, point of an image, and lock.")
@click.option("--image", help="Image of the project to add it to (--add).  [default: the one that installs NAME]")
@project_option
@click.option("-v", "--verbose", is_flag=True, help="Show all reasons.")
@format_option("text", "json")
def command(subject: str, **given: Any) -> int:
    """Find the newest release that fits a GPU.

    Releases are tried newest first: uv resolves each to exact wheels, and the audit checks them. The result is the
    first release without errors that has every needed feature; the reasons against newer ones are shown. No project is
    needed.

    With --add, base, Python and constraints come from an image of the project, and the result becomes a new cell. Its
    lock is audited before anything is written.

    Exit code 0: a release fits. 1: none fits. 2: no such package, version, card or feature.
    """
    from assay.audit.found import FindDocument
    from assay.pages.found import found_text

    searches: list[Search] = []
    gpus = gpus_of(given["targets"], None, None, given["driver_cuda"]) or tuple(
        (one, gpu_of(one, None, given["driver_cuda"])) for one in local_gpus()
    )
    if not gpus:
        hint = 'name the GPU: --target "RTX 5090", --target "DGX Spark", --target sm_90'
        raise UsageError("no --target is given, and this machine has no GPU", hint=hint)
    if given["image"] and not given["add"]:
        raise UsageError("--image goes with --add")
    for machine, group in _by_machine(gpus, _machine(given["machine"])).items():
        if given["add"]:
            from assay.cli.adding import add

            search = add(_requirement(subject), machine, group, given)
        else:
            search = _search(subject, machine, group, given).search
        searches.append(search)
        if given["form"] == "text":
            for line in found_text(search, verbose=given["verbose"], width=console.width()):
                console.data(line)
            console.flush()
    if given["form"] == "json":
        console.document(FindDocument(searches=tuple(searches)))
    return 0 if all(search.found for search in searches) else 1


def _machine(platform: str | None) -> str | None:
    from assay.foundation.platforms import Platform

    return Platform.of(platform).machine if platform else None


def _by_machine(gpus: tuple[tuple[Named, TargetGpu], ...], machine: str | None) -> dict[str, tuple[TargetGpu, ...]]:
    """Return the cards of each platform: what fits one says nothing about another."""
    found: dict[str, dict[str, TargetGpu]] = {}
    for named, gpu in gpus:
        if machine is not None and named.platform not in {None, machine}:
            hint = f"leave --platform out, or give --platform {named.platform}"
            raise UsageError(f"{named.title} comes with {named.platform} alone, not with {machine}", hint=hint)
        found.setdefault(machine or named.platform or "x86_64", {}).setdefault(gpu.name, gpu)
    return {machine: tuple(group.values()) for machine, group in found.items()}


def _search(subject: str, machine: str, targets: tuple[TargetGpu, ...], given: dict[str, Any]) -> Fit:
    from assay.cli.audit_composition import find_ports, make_auditor, progress
    from assay.pipeline.find import find

    index = where_to_look(given["indexes"])
    auditor = make_auditor({}, facts=given["facts"], tell=progress(), index=index)
    base = base_named(given["base"], given["packages"], None, auditor)
    return find(_wanted(subject, machine, targets, base, given), find_ports(index, auditor))


def _wanted(subject: str, machine: str, targets: tuple[TargetGpu, ...], base: Base, given: dict[str, Any]) -> Wanted:
    from assay.pipeline.find import Wanted

    wanted = _requirement(subject)
    return Wanted(
        subject=wanted,
        beside=tuple(str(_requirement(word)) for word in given["others"]),
        needs=tuple(dict.fromkeys(comma_parts(given["needs"]))),
        targets=targets,
        machine=machine,
        base=base,
        pythons=given["pythons"] or _PYTHONS,
        request=_request(machine, base, given["indexes"]),
        pre=given["pre"],
        most=given["most"],
    )


def _requirement(word: str) -> Any:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(word)
    except InvalidRequirement as error:
        hint = "write a distribution and versions: torch, 'torch>=2.11'"
        raise UsageError(f"{word!r} is not a requirement: {str(error).splitlines()[0]}", hint=hint) from error
    if wanted.url or wanted.marker:
        raise UsageError(f"{word!r}: name a distribution of an index, without address or marker")
    return wanted


def _request(machine: str, base: Base, places: tuple[str, ...]) -> ResolveRequest:
    from urllib.parse import urlsplit

    from assay.foundation.platforms import Platform
    from assay.matrix.lockfile import platform_of
    from assay.matrix.model import Index
    from assay.ports.resolver import ResolveRequest

    addresses = [place for place in places if urlsplit(place).scheme in {"http", "https", "file"}]
    return ResolveRequest(
        requirements=(),
        python=_PYTHONS[0],
        platform=platform_of(base.glibc or _GLIBC, Platform.of(machine)),
        indexes={f"given{number}": Index(url=url) for number, url in enumerate(addresses, start=1)},
        links=[place for place in places if place not in addresses],
    )

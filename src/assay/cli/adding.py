"""`assay find --add`: what fits becomes a cell of the project."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assay.cli import console
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.audit.context import TargetGpu
    from assay.audit.found import Search
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan

__all__ = ["add"]


def add(subject: Requirement, machine: str, targets: tuple[TargetGpu, ...], given: dict[str, Any]) -> Search:
    """Search with the recipe of an image, and write the cell that fits into the project.

    Args:
        subject: what is searched for.
        machine: `x86_64` or `aarch64`.
        targets: the cards.
        given: the options of `assay find`.

    Raises:
        UsageError: there is no project, no image installs the subject, or the image is not built for the cards.
        QuestionError: what fits cannot become a cell; the message has the reason.
    """
    from assay.adapters.files.project import find_root
    from assay.adapters.files.staged import StagedFiles
    from assay.cli.audit_composition import proposal_ports
    from assay.cli.targets import comma_parts
    from assay.errors import QuestionError
    from assay.matrix import plan as planning
    from assay.pipeline.propose import propose, wanted_for

    if given["indexes"] or given["base"] or given["packages"] or given["pythons"]:
        hint = "set them in matrix.yaml and image.yaml"
        raise UsageError("--add takes indexes, base, packages and Python from the project", hint=hint)
    files = StagedFiles(given["project"] or find_root())
    plan = planning.make(files.load())
    like = _like(plan, subject, machine, given["image"])
    foreign = [target.name for target in targets if target.name not in plan.project.images[like.image].targets]
    if foreign:
        hint = f"add it to `targets` in images/{like.image}/image.yaml"
        raise UsageError(f"the image {like.image} is not built for {', '.join(foreign)}", hint=hint)
    ports = proposal_ports(files, plan, given["facts"])
    wanted = wanted_for(like, plan, ports.auditor, subject=subject, machine=machine)
    named = [canonicalize_name(Requirement(word).name) for word in given["others"]]
    kept = tuple(word for word in wanted.beside if canonicalize_name(Requirement(word).name) not in named)
    wanted = replace(
        wanted,
        beside=(*kept, *given["others"]),
        needs=tuple(dict.fromkeys(comma_parts(given["needs"]))),
        targets=targets,
        pre=given["pre"],
        most=given["most"],
    )
    made = propose(files, plan, like, wanted, ports)
    if made.ready and made.cell is not None:
        for path in files.flush():
            console.say(f"wrote {path}")
        console.say(f"added {made.cell.id}; `assay build {made.cell.id}` builds it")
    elif made.search is not None and made.search.found is not None:
        if made.refused:
            raise QuestionError(f"{made.search.found.version} fits, but no cell was added: {made.refused}")
        console.say(f"the project already has this cell: {like.id}")
    if made.search is None:
        raise QuestionError(made.refused)
    return made.search


def _like(plan: Plan, subject: Requirement, machine: str, image: str | None) -> Cell:
    """Return the newest cell whose image installs the subject: of the platform, if there is one."""
    from assay.foundation.nearest import suggestion
    from assay.pipeline.propose import templates

    name = canonicalize_name(subject.name)
    if image is not None and image not in plan.project.images:
        raise UsageError(f"there is no image {image!r}{suggestion(image, plan.project.images)}")
    found = [
        cell
        for cell in templates(plan, plan.cells)
        if image in {None, cell.image}
        and name in {canonicalize_name(Requirement(one).name) for one in cell.requirements}
    ]
    # An image whose first requirement it is, before one that it only comes with.
    found.sort(key=lambda cell: canonicalize_name(Requirement(cell.requirements[0]).name) != name)
    if not found:
        where = f"the image {image}" if image else "no image of this project"
        raise UsageError(
            f"{where} {'does not install' if image else 'installs'} {name} with its version as an axis",
            hint="add `" + name + "{{ axis.pin }}` to `requirements` of an image, and an axis with one version",
        )
    return next((cell for cell in found if cell.image == found[0].image and cell.platform.machine == machine), found[0])

"""Propose a cell for versions that fit: the point of a known cell with newer versions, planned, locked and audited.

`assay find --add` proposes what a search found; `assay update` proposes the newest releases for each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from assay.audit.found import Attempt, Search
from assay.audit.requirements import requirements_of
from assay.errors import PackageIndexError, QuestionError, UsageError
from assay.foundation.platforms import Platform
from assay.foundation.versions import fits, parsed
from assay.matrix import between, lockfile, recipe
from assay.matrix.cell import Cell
from assay.matrix.loading import Project
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.plan import Plan, make
from assay.pipeline.audit import Auditor
from assay.pipeline.bases import base_of, gpu_targets
from assay.pipeline.cell_files import cell_files
from assay.pipeline.find import FindPorts, Wanted, find
from assay.pipeline.generated import write_generated
from assay.pipeline.lock import LockPorts, LockResult, LockStatus, lock
from assay.pipeline.releases import releases
from assay.ports.index import PackageIndex
from assay.ports.project import ProjectTree
from assay.ports.resolver import ResolveRequest

__all__ = ["ProposalPorts", "ProposedCell", "StagedTree", "propose", "templates", "wanted_for"]

_MOST = 10
"""Releases that are tried for one image."""


class StagedTree(ProjectTree, Protocol):
    """The files of a project, with changes that are not on disk yet."""

    def text(self, relative: str) -> str:
        """Return the text of a file."""
        ...

    def trial(self, texts: Mapping[str, str]) -> Project:
        """Return the configuration with other texts of some files, which are not kept."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProposalPorts:
    """What proposing needs from the world."""

    find: FindPorts
    lock: LockPorts
    """Its judge audits new locks."""

    @property
    def index(self) -> PackageIndex:
        """Where releases are looked up."""
        return self.find.index

    @property
    def auditor(self) -> Auditor:
        """What reads wheels."""
        return self.find.auditor


@dataclass(frozen=True, kw_only=True)
class ProposedCell:
    """What is proposed for one image and platform."""

    like: Cell
    """The newest cell that there is."""
    search: Search | None = None
    cell: Cell | None = None
    """The new cell; None if there is nothing newer, or nothing that fits."""
    result: LockResult | None = None
    changes: Mapping[str, tuple[str, str]]
    """Axis -> version before and after."""
    held: tuple[str, ...] = ()
    """Newer releases that something holds back, and what does."""
    refused: str = ""
    """Why nothing is proposed, where something newer was found."""

    @property
    def ready(self) -> bool:
        """Whether there is a new cell with a lock that passes the audit."""
        return self.cell is not None and self.result is not None and self.result.status is LockStatus.LOCKED


def templates(plan: Plan, cells: Sequence[Cell]) -> Iterator[Cell]:
    """Yield the newest cell of each image and platform that is made of released versions alone and not held at a date.

    Newest is the one whose first requirement names the newest version.
    """
    newest: dict[tuple[str, Platform], Cell] = {}
    for cell in cells:
        values = [value for axis, value in cell.point.items() if axis in plan.project.matrix.axes]
        plain = all(value.version and not value.source for value in values)
        if cell.kind != "build" or not plain or cell.as_of is not None or not cell.requirements:
            continue
        known = newest.get((cell.image, cell.platform))
        if known is None or _subject_version(cell) >= _subject_version(known):
            newest[cell.image, cell.platform] = cell
    yield from newest.values()


def _subject_version(cell: Cell) -> Version:
    wanted = Requirement(cell.requirements[0])
    return max((parsed(one.version) for one in wanted.specifier), default=parsed("0"))


def _axes(cell: Cell) -> dict[str, str]:
    """Return axis -> distribution, of the axes whose version stands in a requirement."""
    found: dict[str, str] = {}
    for axis, value in cell.point.items():
        if value.version and not value.source:
            try:
                found[axis] = between.distributions(cell, cell, axis)[0]
            except UsageError:
                continue
    return found


def wanted_for(
    cell: Cell, plan: Plan, auditor: Auditor, *, subject: Requirement | None = None, machine: str | None = None
) -> Wanted:
    """Return a search for what a cell installs, with the versions of its axes left open.

    Args:
        cell: gives base, Python, platform, targets, constraints and requirements.
        plan: the plan of the cell.
        auditor: knows what bases offer.
        subject: what is searched for; None: the cell's first requirement from its version on.
        machine: `x86_64` or `aarch64`; None: the cell's.
    """
    matrix = plan.project.matrix
    open_ones = set(_axes(cell).values())
    first = Requirement(cell.requirements[0])
    if subject is None:
        subject = Requirement(f"{first.name}>={_subject_version(cell)}")
        subject.extras = first.extras
    name = canonicalize_name(subject.name)
    beside = []
    for line in cell.requirements:
        one = Requirement(line)
        if canonicalize_name(one.name) != name:
            beside.append(one.name if canonicalize_name(one.name) in open_ones else line)
    base = matrix.bases[cell.base]
    platform = next((one for one in Platform if one.machine == machine), cell.platform)
    return Wanted(
        subject=subject,
        beside=tuple(beside),
        targets=gpu_targets(matrix, cell.targets),
        machine=platform.machine,
        base=base_of(base, cell.base, cell.system_packages, auditor.knowledge, environment=cell.env),
        pythons=(cell.python,),
        request=ResolveRequest(
            requirements=(),
            constraints=cell.constraints,
            python=cell.python,
            platform=lockfile.platform_of(base.glibc, platform),
        ),
        most=_MOST,
    )


def propose(files: StagedTree, plan: Plan, like: Cell, wanted: Wanted, ports: ProposalPorts) -> ProposedCell:
    """Search for the newest versions, and add the cell that they make to the files, if it locks and its audit passes.

    Raises:
        PackageIndexError: the index cannot be asked.
        UsageError: the recipe has a form to which nothing can be added.
    """
    try:
        fit = find(wanted, ports.find)
    except QuestionError as error:
        return ProposedCell(like=like, changes={}, refused=error.message)
    if fit.lock is None or fit.search.found is None:
        return ProposedCell(like=like, search=fit.search, changes={}, refused=_nothing(fit.search))
    held = tuple(_held(like, fit.lock, fit.search, ports))
    point = _point(like, fit.lock, ports.auditor, wanted.machine)
    before = {axis: value.id for axis, value in like.point.items()}
    changes = {axis: (before.get(axis, ""), value) for axis, value in point.items() if before.get(axis) != value}
    made = ProposedCell(like=like, search=fit.search, changes=changes, held=held)
    if not changes:
        return made
    texts = _texts(files, plan.project, like, point, fit.search.found)
    known = {cell.id for cell in plan.cells}
    new = make(files.trial(texts))
    fresh = [cell for cell in new.cells if cell.id not in known]
    if not fresh:
        left_out = [one.reason for one in new.excluded if one.id not in {old.id for old in plan.excluded}]
        return replace(made, refused=left_out[0] if left_out else "the matrix already has this cell")
    cell = fresh[0]
    (result,) = lock([LockedCell(cell=cell)], new.project.matrix, ports.lock)
    if result.status is not LockStatus.LOCKED:
        return replace(made, cell=cell, result=result, refused=_not_locked(result))
    for path, text in {**texts, **cell_files(files, result)}.items():
        files.write(path, text)
    write_generated(files, new, ports.find.say)
    return replace(made, cell=cell, result=result)


def _nothing(search: Search) -> str:
    near = search.nearest
    return f"nothing fits; nearest is {near.version}: {'; '.join(near.reasons[:2])}" if near else "nothing fits"


def _not_locked(result: LockResult) -> str:
    errors = "; ".join(f"{one.rule} {one.package}: {one.message}" for one in result.findings[:3])
    return errors or result.explanation or result.status.value


def _recipe(image: str) -> str:
    return f"images/{image}/image.yaml"


def _point(like: Cell, lock: Lock, auditor: Auditor, machine: str) -> dict[str, str]:
    """Return the point of a cell with the versions of a lock; what stands in no requirement stays."""
    point = {axis: value.id for axis, value in like.point.items()}
    for axis, name in _axes(like).items():
        wheel = lock.wheel(name)
        if wheel is not None:
            point[axis] = parsed(wheel.version).public
    torch = next((one for one in auditor.known(lock) if one.is_torch), None)
    if "cuda" in point and torch is not None and torch.cuda:
        point["cuda"] = torch.cuda
    if machine != like.platform.machine:
        point["platform"] = next(one for one in Platform if one.machine == machine).architecture
    return point


def _texts(files: StagedTree, project: Project, like: Cell, point: Mapping[str, str], found: Attempt) -> dict[str, str]:
    """Return the configuration with the point: path -> text."""
    matrix = files.text("matrix.yaml")
    for axis, value in point.items():
        if axis in project.matrix.axes and project.axis_value(axis, value) is None:
            matrix = recipe.with_value(matrix, axis, value, file="matrix.yaml")
    image = project.images[like.image]
    listed = {axis: value for axis, value in point.items() if image.defaults.get(axis) != value}
    beside = {axis: value.id for axis, value in like.point.items() if image.defaults.get(axis) != value.id}
    name = _recipe(like.image)
    comment = f"Proposed by assay: the newest release that locks and passes the audit, {found.version}."
    text = recipe.with_point(files.text(name), listed, beside=beside, comment=comment, file=name)
    return {"matrix.yaml": matrix, name: text}


def _held(like: Cell, lock: Lock, search: Search, ports: ProposalPorts) -> Iterator[str]:
    """Yield which newer releases of a cell's axes are not taken, and what requires older ones."""
    known = ports.auditor.known(lock)
    first = canonicalize_name(Requirement(like.requirements[0]).name)
    for name in dict.fromkeys(_axes(like).values()):
        wheel = lock.wheel(name)
        try:
            newest = releases(ports.index, Requirement(name))[0].version if wheel is not None else None
        except (QuestionError, PackageIndexError):
            continue
        if wheel is None or newest is None or newest <= parsed(parsed(wheel.version).public):
            continue
        if name == first and str(newest) in {one.version for one in search.attempts}:
            continue  # the search says why
        machine = lock.platform.partition("-")[0]
        who = [
            f"{facts.name} {facts.version} requires {name}{one.specifier}"
            for facts in sorted(known, key=lambda one: one.name != first)
            for one in requirements_of(facts, lock.python, machine)
            if one.name == name and not fits(str(newest), one.specifier)
        ]
        why = "; ".join(who[:2]) or "the resolver took an older one, or the audit refused it"
        yield f"{name} {newest} is available, but {wheel.version} stays: {why}"

"""The cells between two cells along one axis, those for versions that matrix.yaml does not name included. Pure.

Nights that the matrix does not name become cells by the same rules as the end that stands for a night: `narrowed`
gives a project of one image that holds exactly the cells of the line, `texts` its files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from fnmatch import fnmatchcase
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from assay.errors import UsageError
from assay.matrix import plan
from assay.matrix.cell import Cell
from assay.matrix.loading import Project
from assay.matrix.model import Axis, AxisValue, Match
from assay.matrix.policy import Policy

__all__ = ["CellLine", "axis_between", "distributions", "line_between", "narrowed", "nights", "releases", "texts"]

_NIGHT: Final = "n{:%Y%m%d}"
_NIGHT_GLOB: Final = "n" + "[0-9]" * 8


class CellLine:
    """The cells from the good to the bad one, in the order of the axis."""

    def __init__(self, axis: str, cells: Sequence[Cell]) -> None:
        self.axis = axis
        self.cells = {cell.value(axis) or "": cell for cell in cells}

    @property
    def versions(self) -> list[str]:
        """The values of the axis."""
        return list(self.cells)

    def only(self, cell_ids: Collection[str]) -> CellLine:
        """Return the line with its two ends and, between them, the cells named."""
        cells = list(self.cells.values())
        kept = {cells[0].id, cells[-1].id, *cell_ids}
        return CellLine(self.axis, [cell for cell in cells if cell.id in kept])


def axis_between(good: Cell, bad: Cell) -> str:
    """Return the one axis in which two cells of one image differ.

    Raises:
        UsageError: the two differ in no axis or in more than one, or are of different images.
    """
    axes = sorted({*good.point, *bad.point})
    differing = [axis for axis in axes if good.value(axis) != bad.value(axis)]
    if good.image != bad.image or len(differing) != 1:
        what = ", ".join(f"{axis}: {good.value(axis)} and {bad.value(axis)}" for axis in differing) or "nothing"
        raise UsageError(
            f"{good.id} and {bad.id} must be cells of one image that differ in exactly one axis; they differ in {what}",
            hint="add cells between them to images/<image>/image.yaml, changing one axis at a time",
        )
    return differing[0]


def line_between(
    cells: Sequence[Cell],
    good: Cell,
    bad: Cell,
    order: Mapping[str, Sequence[str]],
    *,
    night_of: Mapping[str, str] | None = None,
) -> CellLine:
    """Return the cells that differ from the two only in the one axis in which those differ.

    `order` gives the ids of each axis' values in the order in which they stand; dated nightlies come after them, by
    their dates. `night_of` is the date of a `latest` nightly, by its id; such a value counts as an end alone.

    Raises:
        UsageError: see `axis_between`.
    """
    axis = axis_between(good, bad)
    ends = {good.id, bad.id}
    along = [
        cell
        for cell in cells
        if cell.image == good.image
        and cell.kind == "build"
        and (cell.point[axis].date != "latest" or cell.id in ends)
        and {a: cell.value(a) for a in cell.point if a != axis} == {a: good.value(a) for a in good.point if a != axis}
    ]
    values = list(order[axis])

    def position(cell: Cell) -> tuple[int, str, int]:
        value = cell.point[axis]
        dated = (night_of or {}).get(value.id) if value.date == "latest" else value.date
        return (1, dated, 0) if dated else (0, "", values.index(value.id))

    along = sorted({cell.id: cell for cell in [good, *along, bad]}.values(), key=position)
    ids = [cell.id for cell in along]
    start, end = ids.index(good.id), ids.index(bad.id)
    chosen = along[start : end + 1] if start < end else along[end : start + 1][::-1]
    return CellLine(axis, chosen)


def nights(like: AxisValue, first: date, last: date, *, named: Collection[str] = ()) -> list[AxisValue]:
    """Return a value for each night after `first` and before `last`, but for the dates that are named already."""
    days = [first + timedelta(days=day) for day in range(1, (last - first).days)]
    return [
        like.model_copy(update={"id": _NIGHT.format(day), "date": day.isoformat()})
        for day in days
        if day.isoformat() not in named
    ]


def distributions(good: Cell, bad: Cell, axis: str) -> list[str]:
    """Return what an axis is called on the index: the names of the requirements that hold its version.

    Raises:
        UsageError: no requirement does (CUDA, say, is not a distribution).
    """
    found = {
        canonicalize_name(requirement.name)
        for cell in (good, bad)
        for requirement in map(Requirement, (*cell.requirements, *cell.forced_requirements))
        if cell.point[axis].pin and str(requirement.specifier) == cell.point[axis].pin
    }
    # torch and a package that is always released with it may share a version; the axis' own name decides.
    names = {canonicalize_name(axis)} & found or found
    if not names:
        raise UsageError(
            f"no requirement of {good.id} holds the version of {axis}, so no index can be asked for more of them",
            hint=f"name the versions to walk in axes.{axis} of matrix.yaml and in the image",
        )
    return sorted(names)


def releases(good: AxisValue, bad: AxisValue, known: Iterable[str], *, named: Collection[str] = ()) -> list[AxisValue]:
    """Return a value for each final release between two, oldest first, but for those that are named already.

    Raises:
        UsageError: an end is compiled from source or is a nightly: there are no releases between.
    """
    if good.source or bad.source or not (good.version and bad.version):
        raise UsageError(
            f"{good.id} and {bad.id} are not both releases, so there are no releases between them to walk",
            hint="leave --all-versions out; between two nights every night of the index is walked anyway",
        )
    low, high = sorted((Version(good.version), Version(bad.version)))
    between = {version for version in map(Version, known) if low < version < high and not version.is_prerelease}
    taken = {Version(text) for text in named}
    return [
        good.model_copy(update={"id": str(version), "version": str(version)}) for version in sorted(between - taken)
    ]


def narrowed(
    project: Project, like: Cell, axis: str, cells: Iterable[Cell], values: Iterable[AxisValue]
) -> tuple[Project, plan.Plan]:
    """Return a project, and its plan, of these cells and of one cell more for each value that the matrix lacks.

    Conditions that the end `like` meets by its name (`torch: nightly`) are met by the new nights too.
    """
    image, matrix = project.images[like.image], project.matrix
    more = list(values)
    old = matrix.axes[axis]
    axes = {**matrix.axes, axis: Axis(**{**dict(old), "values": (*old.values, *more)})}
    base = {name: value.id for name, value in like.point.items()}
    points = [{name: value.id for name, value in cell.point.items()} for cell in cells]
    points += [{**base, axis: value.id} for value in more]

    def also(match: Match) -> Match:
        conditions = match.get(axis, ())
        listed = (conditions,) if isinstance(conditions, str) else conditions
        met = like.point[axis].nightly and any(fnmatchcase(like.point[axis].id, text) for text in listed)
        return {**match, axis: (*listed, _NIGHT_GLOB)} if met else match

    made = Project(
        matrix=matrix.model_copy(
            update={
                "axes": axes,
                "groups": {},
                "default_group": None,
                "policy": Policy(),
                "requires": tuple(
                    rule.model_copy(update={"when": also(rule.when), "need": also(rule.need)})
                    for rule in matrix.requires
                ),
                "exclude": tuple(item.model_copy(update={"match": also(item.match)}) for item in matrix.exclude),
            }
        ),
        images={
            like.image: image.model_copy(
                update={
                    "axes": {},
                    "include": tuple(points),
                    "controls": (),
                    "exclude": tuple(item.model_copy(update={"match": also(item.match)}) for item in image.exclude),
                    "overrides": tuple(item.model_copy(update={"match": also(item.match)}) for item in image.overrides),
                }
            )
        },
        documents=project.documents,
    )
    return made, plan.make(made)


def texts(project: Project) -> dict[str, str]:
    """Return the files of a project: path -> text that `assay.matrix.loading.load` reads back."""
    files = {"matrix.yaml": project.matrix.model_dump_json(exclude_defaults=True, indent=1)}
    for name, image in project.images.items():
        files[f"images/{name}/image.yaml"] = image.model_dump_json(exclude_defaults=True, indent=1)
    return {path: f"# Made by `assay bisect`.\n{text}\n" for path, text in files.items()}

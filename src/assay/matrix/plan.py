"""The plan: every cell of the matrix, and every point that is not a cell with the rule and the reason. Pure.

A cell's id is the image's name and, for each axis, label and value: `server-cu128-torch2.8.0`. Axes named in
the image's `id` always stand in it; others only where the value is not the image's default, so that a new value never
renames an existing cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache

from jinja2 import TemplateError
from packaging.requirements import InvalidRequirement, Requirement

from assay.errors import ConfigError, NothingSelected, Problem, UsageError
from assay.foundation.nearest import suggestion
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell, Excluded, oci_tag
from assay.matrix.loading import Project
from assay.matrix.model import Axis, AxisValue, Control, Image, Match, Matrix
from assay.matrix.requirement_text import fill, names_in
from assay.matrix.select import CONDITION, Facts, facts_of, fault, matches, plain_value, platform_values, select

__all__ = ["Plan", "make", "render_requirements", "shard"]

_BASE = Axis(values=())
"""How the axes stand in a cell id that the matrix does not declare: `base` and `platform`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells, in the order of the images and of the axes' values."""

    cells: tuple[Cell, ...]
    excluded: tuple[Excluded, ...]
    project: Project

    def select(self, expressions: Sequence[str], *, default: bool = False) -> list[Cell]:
        """Return the cells that match SELECT expressions.

        Args:
            expressions: SELECT words; none means all cells, or the default group.
            default: without words, take matrix.yaml's `default_group`.

        Raises:
            UsageError: a word names nothing that exists.
            NothingSelected: the words fit together, but no cell fits them.
        """
        matrix = self.project.matrix
        if not expressions and default and matrix.default_group:
            expressions = [matrix.default_group]
        found = select(
            self.cells,
            expressions,
            groups=matrix.groups,
            axes=matrix.axes,
            others={name for item in self.excluded for name in (item.id, item.image)},
        )
        if not found:
            raise NothingSelected(
                f"no cell fits {' '.join(expressions) or 'an empty matrix'}{self._why_not(expressions)}",
                hint="`assay plan` lists the cells, `assay plan --excluded` the excluded ones with reasons"
                + (
                    "; a point with `platform: arm64` in image.yaml is a cell for linux/arm64"
                    * _asks_platform(expressions)
                ),
            )
        return found

    def _why_not(self, expressions: Sequence[str]) -> str:
        reasons = {item.reason for item in self.excluded if item.id in expressions or item.image in expressions}
        lines = [f"\n  left out: {reason}" for reason in sorted(reasons)]
        groups = self.project.matrix.groups
        for word in [part for name in expressions for part in (groups[name].select if name in groups else [name])]:
            condition = CONDITION.match(word)
            if condition is None or condition[2] != "=":
                continue
            known = {value.id for cell in self.cells for value in facts_of(cell).get(condition[1], ())}
            if not any(fnmatchcase(value, condition[3]) for value in known):
                lines.append(f"\n  no cell has {word}{suggestion(condition[3], known)}")
        return "".join(lines)


def _asks_platform(expressions: Sequence[str]) -> bool:
    return any(word.startswith("platform=") for word in expressions)


def make(project: Project) -> Plan:
    """Expand the matrix.

    Raises:
        ConfigError: two cells have one id, an id does not fit into a tag, or a requirement cannot be filled in.
    """
    cells: list[Cell] = []
    excluded: list[Excluded] = []
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for name, image in project.images.items():
        expansion = _Expansion(project, name, image)
        for item in expansion.items():
            if isinstance(item, Excluded):
                excluded.append(item)
                continue
            # Some file systems make no difference between letters and capitals.
            key = item.id.lower()
            if key in owners:
                message = (
                    f"two cells have the id {item.id!r}; name the axis that tells them apart in `id`"
                    if owners[key] == name
                    else f"the cell id {item.id!r} is taken by the image {owners[key]!r}; rename one image"
                )
                problems.append(project.documents[name].problem(("id",), message))
            owners[key] = name
            try:
                oci_tag(item.id)
            except ValueError as error:
                problems.append(project.documents[name].problem(("id",), str(error)))
            cells.append(item)
        problems += expansion.problems
    problems += _check_groups(project, cells, excluded)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return Plan(cells=tuple(cells), excluded=tuple(excluded), project=project)


def _check_groups(project: Project, cells: Sequence[Cell], excluded: Sequence[Excluded]) -> list[Problem]:
    """Find words in groups that mean nothing; a group may be empty, but not by a slip of the pen."""
    groups = project.matrix.groups
    names: Collection[str] = {*groups, *project.images}
    ids = {*(cell.id for cell in cells), *(item.id for item in excluded)}
    document = project.documents["matrix.yaml"]
    # A group that is only a list stands there without `select`.
    places = {name: ("groups", name, "select") for name in groups if ("groups", name, "select") in document.marks}
    return [
        document.problem((*places.get(name, ("groups", name)), position), f"groups.{name}: {wrong}")
        for name, group in groups.items()
        for position, word in enumerate(group.select)
        if (wrong := fault(word, names=names, ids=ids, axes=project.matrix.axes)) is not None
    ]


def shard(cells: Sequence[Cell], text: str) -> list[Cell]:
    """Return shard `I/N` (from 1): every N-th cell, so that shards are alike in what they hold.

    Raises:
        UsageError: the text is not `I/N` with 1 <= I <= N.
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--shard {text!r} is not I/N with I from 1 to N, such as 2/5")
    return [cell for position, cell in enumerate(cells) if position % int(second) == int(first) - 1]


def render_requirements(texts: Iterable[str], point: Mapping[str, AxisValue]) -> tuple[str, ...]:
    """Fill the axes into requirements; an empty result (an `if` that does not hold) is dropped.

    Raises:
        ValueError: an axis is unknown, or the result is not a requirement (PEP 508).
    """
    result: list[str] = []
    for text in texts:
        try:
            filled = fill(text, point) if "{" in text else text.strip()
        except TemplateError as error:
            raise ValueError(f"{text!r}: {error}") from error
        if not filled:
            continue
        _check_requirement(filled)
        result.append(filled)
    return tuple(result)


@lru_cache(maxsize=64)
def _version(text: str) -> AxisValue:
    return AxisValue(id=text, version=text)


@lru_cache(maxsize=4096)
def _check_requirement(text: str) -> None:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement: {str(error).splitlines()[0]}") from error
    if requirement.url is not None:
        raise ValueError(f"{text!r}: an address cannot be locked by name; use an index or a source value")


def platform_in(point: Mapping[str, AxisValue]) -> Platform:
    """Return the platform of a point of the plan."""
    return Platform.of(point["platform"].id) if "platform" in point else Platform.AMD64


class _Expansion:
    """The cells of one image."""

    def __init__(self, project: Project, name: str, image: Image) -> None:
        self.project = project
        self.matrix: Matrix = project.matrix
        self.name = name
        self.image = image
        self.problems: list[Problem] = []
        self._values: dict[tuple[str, str], AxisValue] = {}
        self._filled: dict[tuple[str | None, ...], tuple[str, ...]] = {}
        self._facts: Facts = {
            "engine": (plain_value(image.engine),),
            "image": (plain_value(name),),
            "kind": (plain_value("build"),),
            "target": tuple(plain_value(target) for target in image.targets),
        }

    def items(self) -> Iterator[Cell | Excluded]:
        image = self.image
        if image.external is not None:
            yield Cell(
                id=self.name,
                image=self.name,
                engine=image.engine,
                kind="external",
                targets=image.targets,
                platform=self.implied,
                reference=image.external.reference,
                check_import=image.check_import,
            )
            return
        seen: set[tuple[tuple[str, str], ...]] = set()
        for point in self.points():
            key = tuple(sorted((axis, value.id) for axis, value in point.items()))
            if key not in seen:
                seen.add(key)
                yield self.item(point)
        for control in image.controls:
            yield self.control(control)

    def value(self, axis: str, identifier: str) -> AxisValue:
        found = self._values.get((axis, identifier)) or self.project.axis_value(axis, identifier)
        assert found is not None, "names are checked when the project is loaded"
        self._values[axis, identifier] = found
        return found

    def points(self) -> Iterator[dict[str, AxisValue]]:
        defaults = {axis: self.value(axis, value) for axis, value in self.image.defaults.items()}
        if self.image.axes:
            names = list(self.image.axes)
            for values in itertools.product(*self.image.axes.values()):
                given = {axis: self.value(axis, value) for axis, value in zip(names, values, strict=True)}
                yield self.placed(defaults | given)
        for point in self.image.include:
            yield self.placed(defaults | {axis: self.value(axis, value) for axis, value in point.items()})

    @cached_property
    def implied(self) -> Platform:
        """The platform of a point that names none: linux/amd64, unless no card of the image comes with it."""
        there = [self.matrix.targets[target].platforms or () for target in self.image.targets]
        return next((platform for platform in Platform if any(platform in one for one in there)), Platform.AMD64)

    def placed(self, point: dict[str, AxisValue]) -> dict[str, AxisValue]:
        """Return a point with its platform, which stands in it only where it is not linux/amd64."""
        named = point.get("platform")
        platform = self.implied if named is None else Platform.of(named.id)
        rest = {axis: value for axis, value in point.items() if axis != "platform"}
        return (
            rest if platform is Platform.AMD64 else rest | {"platform": self.value("platform", platform.architecture)}
        )

    def id_of(self, point: Mapping[str, AxisValue]) -> str:
        parts = [self.name]
        shown = [axis for axis in self.image.id if axis in point]
        rest = sorted(set(point) - set(shown))
        shown += [axis for axis in rest if axis == "platform" or point[axis].id != self.image.defaults.get(axis)]
        for axis in shown:
            declared = self.matrix.axes.get(axis, _BASE)
            text = point[axis].id.replace(".", "") if declared.compact else point[axis].id
            parts.append(declared.label + text)
        return "-".join(parts)

    def item(self, point: dict[str, AxisValue]) -> Cell | Excluded:
        identifier = self.id_of(point)
        facts = self.facts(point)
        for where, exclusions in (("matrix.yaml", self.matrix.exclude), (self.file, self.image.exclude)):
            for position, exclusion in enumerate(exclusions):
                if matches(exclusion.match, facts):
                    return self.excluded(identifier, f"{where} exclude[{position}]", exclusion.reason)
        targets: list[str] = []
        failed: tuple[str, str] | None = None
        for target in self.image.targets:
            if (foreign := self.foreign(target, platform_in(point))) is not None:
                failed = failed or foreign
                continue
            broken = self.broken_rule(facts | {"target": (plain_value(target),)})
            if broken is None:
                targets.append(target)
            else:
                failed = failed or broken
        if not targets:
            assert failed is not None
            return self.excluded(identifier, *failed)
        return self.cell(identifier, point, targets=tuple(targets))

    def foreign(self, target: str, platform: Platform) -> tuple[str, str] | None:
        """Return why no machine of a platform has the cards of a target, with the rule, or None if there are some."""
        there = self.matrix.targets[target].platforms or ()
        if platform in there:
            return None
        words = f"{target} comes with {' and '.join(there)}, and this cell is for {platform}"
        return f"matrix.yaml targets.{target}.platforms", words

    @property
    def file(self) -> str:
        return f"images/{self.name}/image.yaml"

    def excluded(self, identifier: str, rule: str, reason: str) -> Excluded:
        return Excluded(id=identifier, image=self.name, rule=rule, reason=reason)

    def facts(self, point: Mapping[str, AxisValue]) -> dict[str, tuple[AxisValue, ...]]:
        base = self.matrix.bases[point["base"].id]
        axes = {axis: (value,) for axis, value in point.items()}
        platform = platform_values(platform_in(point))
        return {**axes, "platform": platform, "python": (_version(base.python),), **self._facts}

    def broken_rule(self, facts: Facts) -> tuple[str, str] | None:
        for position, rule in enumerate(self.matrix.requires):
            if matches(rule.when, facts) and not self.satisfied(rule.need, facts):
                return f"matrix.yaml requires[{position}]", rule.reason
        return None

    def satisfied(self, need: Match, facts: Facts) -> bool:
        # A cell that does not use an axis cannot break a rule about it.
        return matches({axis: condition for axis, condition in need.items() if axis in facts}, facts)

    def cell(
        self, identifier: str, point: dict[str, AxisValue], *, targets: tuple[str, ...], control: Control | None = None
    ) -> Cell:
        image = self.image
        requirements = [*image.requirements]
        constraints = [*image.constraints]
        forced = [*image.forced_requirements]
        packages = image.system_packages
        env = dict(image.env)
        as_of = image.as_of
        facts = self.facts(point) if image.overrides else {}
        for override in image.overrides:
            if matches(override.match, facts):
                requirements = [*(override.requirements or requirements), *override.extra_requirements]
                constraints += override.constraints
                forced += override.forced_requirements
                packages = override.system_packages if override.system_packages is not None else packages
                env |= override.env
                as_of = override.as_of or as_of
        if control is not None:
            requirements = list(control.requirements or requirements)
            packages = control.system_packages if control.system_packages is not None else packages
            as_of = control.as_of or as_of
        base = self.matrix.bases[point["base"].id]
        arch = point.get("arch_list")
        return Cell(
            id=identifier,
            image=self.name,
            engine=image.engine,
            kind="build" if control is None else "control",
            point=point,
            targets=targets,
            platform=platform_in(point),
            base=point["base"].id,
            python=base.python,
            arch_list=arch.id if arch else self.arch_list(targets),
            requirements=self.filled(requirements, point),
            constraints=self.filled(constraints, point),
            forced_requirements=self.filled(forced, point),
            system_packages=packages,
            env=env,
            entrypoint=image.entrypoint,
            command=image.command,
            healthcheck=image.healthcheck,
            check_import=image.check_import,
            template=image.template,
            user=image.user,
            as_of=as_of,
            expect=control.expect if control else None,
            reason=control.reason if control else "",
        )

    def arch_list(self, targets: Iterable[str]) -> str:
        return ";".join(dict.fromkeys(self.matrix.targets[target].arch_list for target in targets))

    def filled(self, texts: Sequence[str], point: Mapping[str, AxisValue]) -> tuple[str, ...]:
        result: list[str] = []
        try:
            for text in texts:
                # Few of the axes stand in a requirement, so that many cells have it in common.
                key = (text, *(point[axis].id if axis in point else None for axis in names_in(text)))
                if key not in self._filled:
                    self._filled[key] = render_requirements([text], point)
                result += self._filled[key]
        except ValueError as error:
            self.problems.append(self.project.documents[self.name].problem(("requirements",), str(error)))
            return ()
        return tuple(result)

    def control(self, control: Control) -> Cell:
        # A control is what rules would leave out; none applies to it.
        defaults = {axis: self.value(axis, value) for axis, value in self.image.defaults.items()}
        point = self.placed(defaults | {axis: self.value(axis, value) for axis, value in control.point.items()})
        identifier = f"{self.id_of(point)}-control.{control.name}"
        foreign = {target: self.foreign(target, platform_in(point)) for target in self.image.targets}
        targets = control.targets or tuple(target for target, reason in foreign.items() if reason is None)
        for target in control.targets or ():
            if (wrong := self.foreign(target, platform_in(point))) is not None:
                self.problems.append(self.project.documents[self.name].problem(("controls",), wrong[1]))
        return self.cell(identifier, point, targets=targets, control=control)

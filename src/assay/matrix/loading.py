"""The project's configuration: matrix.yaml and all images/*/image.yaml, read and checked against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from assay.errors import ConfigError, Problem
from assay.foundation import yamltext
from assay.foundation.nearest import suggestion
from assay.foundation.platforms import Platform
from assay.matrix.cards import Cards
from assay.matrix.model import AxisValue, Image, Match, Matrix
from assay.matrix.select import DERIVED, condition_fault

__all__ = ["Project", "load"]

BUILT_IN: Final = ("base", "platform")
"""Axes that no matrix declares: their values are the bases, and the platforms by their short names."""

MAX_POINTS: Final = 20_000
"""Points of one image and of all together; they take some ten seconds and 200 MB."""
TOLD: Final = 100
"""Unknown values of one image that are reported."""
_FOLDER: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
"""Names of images: they stand in paths, in cell ids and in names of repositories."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything that is configured; every name in it has been checked."""

    matrix: Matrix
    images: Mapping[str, Image]
    documents: Mapping[str, yamltext.Document]
    """`matrix.yaml` and image names -> their documents, for messages."""

    def axis_value(self, axis: str, identifier: str) -> AxisValue | None:
        """Return a value of an axis by its id; `base` and `platform` are axes that the matrix does not declare."""
        if axis in BUILT_IN:
            known = identifier in _built_in(self.matrix)[axis]
            return AxisValue(id=identifier, version=None) if known else None
        return self._values.get(axis, {}).get(identifier)

    @cached_property
    def _values(self) -> Mapping[str, Mapping[str, AxisValue]]:
        # Of two values with one id the first counts.
        return {name: {value.id: value for value in reversed(axis.values)} for name, axis in self.matrix.axes.items()}


def _built_in(matrix: Matrix) -> dict[str, dict[str, None]]:
    """Return the ids of the values of the axes that no matrix declares."""
    return {"base": dict.fromkeys(matrix.bases), "platform": dict.fromkeys(one.architecture for one in Platform)}


def _with_platforms(matrix: Matrix, cards: Cards | None) -> Matrix:
    """Return the matrix with the platforms of every target; a card that nobody knows comes with linux/amd64."""
    targets = {
        name: target.model_copy(
            update={
                "platforms": target.platforms
                or (cards.platforms(target.compute_capability) if cards else ())
                or (Platform.AMD64,)
            }
        )
        for name, target in matrix.targets.items()
    }
    return matrix.model_copy(update={"targets": targets})


def load(
    matrix_text: str,
    image_texts: Mapping[str, str],
    *,
    matrix_file: str = "matrix.yaml",
    cards: Cards | None = None,
) -> Project:
    """Read the configuration.

    Args:
        matrix_text: the text of matrix.yaml.
        image_texts: image name -> text of its image.yaml.
        matrix_file: what messages call matrix.yaml.
        cards: knows the platforms of targets that do not name theirs.

    Raises:
        ConfigError: every problem of every file at once.
    """
    problems: list[Problem] = []
    documents: dict[str, yamltext.Document] = {}
    images: dict[str, Image] = {}
    matrix: Matrix | None = None
    try:
        documents["matrix.yaml"] = yamltext.load(matrix_text, file=matrix_file)
        matrix = yamltext.parse(documents["matrix.yaml"], Matrix)
    except ConfigError as error:
        problems += error.problems
    for name, text in sorted(image_texts.items()):
        file = f"images/{name}/image.yaml"
        if not _FOLDER.fullmatch(name):
            message = f"the folder's name {name!r} cannot name an image: it has to match {_FOLDER.pattern}"
            problems.append(Problem(file=file, message=message))
            continue
        try:
            documents[name] = yamltext.load(text, file=file)
            images[name] = yamltext.parse(documents[name], Image)
        except ConfigError as error:
            problems += error.problems
    if matrix is not None:
        problems += _check_matrix(matrix, documents["matrix.yaml"], image_texts)
        for name, image in images.items():
            problems += _Check(matrix, image, documents[name]).run()
        problems += _check_sum(images) if not problems else []
    if problems or matrix is None:
        raise ConfigError(problems)
    return Project(matrix=_with_platforms(matrix, cards), images=images, documents=documents)


def _check_matrix(matrix: Matrix, document: yamltext.Document, image_names: Iterable[str]) -> list[Problem]:
    problems: list[Problem] = []
    names = set(image_names)
    for reserved in set(matrix.axes) & set(DERIVED):
        problems.append(document.problem(("axes", reserved), f"{reserved!r} is not an axis of yours: it is derived"))
    for axis_name, axis in matrix.axes.items():
        for position, value in enumerate(axis.values):
            if value.index is not None and value.index not in matrix.indexes:
                message = f"no index {value.index!r}{suggestion(value.index, matrix.indexes)}"
                problems.append(document.problem(("axes", axis_name, "values", position, "index"), message))
    for group in matrix.groups:
        if group in names:
            problems.append(document.problem(("groups", group), f"{group!r} is also an image; choose another name"))
    if matrix.default_group is not None and matrix.default_group not in matrix.groups:
        message = f"no group {matrix.default_group!r}{suggestion(matrix.default_group, matrix.groups)}"
        problems.append(document.problem(("default_group",), message))
    for position, rule in enumerate(matrix.requires):
        problems += _check_match(matrix, rule.when, document, ("requires", position, "when"))
        problems += _check_match(matrix, rule.need, document, ("requires", position, "need"))
    for position, exclusion in enumerate(matrix.exclude):
        problems += _check_match(matrix, exclusion.match, document, ("exclude", position, "match"))
    return problems + _check_cycles(matrix, document)


def _check_sum(images: Mapping[str, Image]) -> list[Problem]:
    points = sum(math.prod(map(len, image.axes.values())) + len(image.include) for image in images.values())
    if points <= MAX_POINTS:
        return []
    message = f"all images together make {points} points, more than {MAX_POINTS}"
    return [Problem(file="matrix.yaml", message=message)]


def _check_cycles(matrix: Matrix, document: yamltext.Document) -> list[Problem]:
    problems: list[Problem] = []

    def walk(name: str, trail: tuple[str, ...]) -> bool:
        if name in trail:
            message = f"the group selects itself: {' -> '.join((*trail[trail.index(name) :], name))}"
            problems.append(document.problem(("groups", name), message))
            return True
        return any(walk(word, (*trail, name)) for word in matrix.groups[name].select if word in matrix.groups)

    for name in matrix.groups:
        if walk(name, ()):
            break
    return problems


def _check_match(
    matrix: Matrix, match: Match, document: yamltext.Document, path: tuple[str | int, ...]
) -> list[Problem]:
    known = [*matrix.axes, *DERIVED]
    problems: list[Problem] = []
    for axis, wanted in match.items():
        if axis not in known:
            message = f"no axis {axis!r}{suggestion(axis, known)}"
            problems.append(document.problem((*path, axis), message, at_key=True))
        for condition in (wanted,) if isinstance(wanted, str) else wanted:
            if wrong := condition_fault(condition):
                problems.append(document.problem((*path, axis), wrong))
    return problems


class _Check:
    """The names one image.yaml uses."""

    def __init__(self, matrix: Matrix, image: Image, document: yamltext.Document) -> None:
        self.matrix = matrix
        self.image = image
        self.document = document
        self.problems: list[Problem] = []
        self._ids: dict[str, dict[str, None]] = _built_in(matrix)

    def run(self) -> list[Problem]:
        image = self.image
        self.target_names(image.targets, ("targets",))
        if image.external is None and self.size():
            self.axis_values()
            self.axis_names()
            self.conditions()
        return self.problems

    def size(self) -> bool:
        """Count the points before there are any; returns whether there are not too many."""
        points = math.prod(map(len, self.image.axes.values())) if self.image.axes else 0
        points += len(self.image.include) + len(self.image.controls)
        if points > MAX_POINTS:
            axes = " x ".join(f"{axis} ({len(values)})" for axis, values in self.image.axes.items())
            message = f"{axes} make {points} points, more than {MAX_POINTS}; list fewer values, or points in `include`"
            self.add(("axes",), message)
        return points <= MAX_POINTS

    def axis_values(self) -> None:
        image = self.image
        for axis, values in image.axes.items():
            for position, value in enumerate(values):
                self.value(axis, value, ("axes", axis, position))
        for axis, value in image.defaults.items():
            self.value(axis, value, ("defaults", axis))
        for position, point in enumerate(image.include):
            if (first := image.include.index(point)) < position:
                self.add(("include", position), f"include[{position}] is the same point as include[{first}]")
            for axis, value in point.items():
                self.value(axis, value, ("include", position, axis))
        for position, control in enumerate(image.controls):
            for axis, value in control.point.items():
                self.value(axis, value, ("controls", position, "point", axis))
            self.target_names(control.targets or (), ("controls", position, "targets"))

    def axis_names(self) -> None:
        image = self.image
        used = set(image.axes) | set(image.defaults) | {axis for point in image.include for axis in point}
        for position, axis in enumerate(image.id):
            if axis not in used:
                message = f"the id names the axis {axis!r}, which no cell of this image has{suggestion(axis, used)}"
                self.add(("id", position), message)
        points: list[Iterable[str]] = [*image.include, *(control.point for control in image.controls)]
        points += [image.axes] if image.axes else []
        if "base" not in image.defaults and not (points and all("base" in point for point in points)):
            self.add((), "no base: add `base` to defaults or axes")

    def conditions(self) -> None:
        for position, exclusion in enumerate(self.image.exclude):
            self.problems += _check_match(self.matrix, exclusion.match, self.document, ("exclude", position, "match"))
        for position, override in enumerate(self.image.overrides):
            self.problems += _check_match(self.matrix, override.match, self.document, ("overrides", position, "match"))

    def target_names(self, targets: Iterable[str], path: tuple[str | int, ...]) -> None:
        for position, target in enumerate(targets):
            if target not in self.matrix.targets:
                self.add((*path, position), f"no target {target!r}{suggestion(target, self.matrix.targets)}")

    def add(self, path: tuple[str | int, ...], message: str, *, at_key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, at_key=at_key))

    def value(self, axis: str, value: str, path: tuple[str | int, ...]) -> None:
        if len(self.problems) >= TOLD:
            return
        if axis not in BUILT_IN and axis not in self.matrix.axes:
            self.add(path, f"no axis {axis!r}{suggestion(axis, [*self.matrix.axes, *BUILT_IN])}", at_key=True)
            return
        if axis not in self._ids:
            self._ids[axis] = dict.fromkeys(item.id for item in self.matrix.axes[axis].values)
        known = self._ids[axis]
        if value not in known:
            self.add(path, f"the axis {axis} has no value {value!r}{suggestion(value, known)}")

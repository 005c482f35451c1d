"""Limits of the source: sizes, names, and what no module may do."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "assay"
MOST_LINES = 450
MOST_LINES_OF_A_FUNCTION = 60
# docs/decisions/0902-size-of-the-source.md: raise one on purpose, and say there what came for it.
MOST_LINES_OF_A_ROOM = {
    "adapters": 13_800, "audit": 5_700, "cli": 10_000, "diagnose": 2_400, "engines": 700, "evidence": 3_400,
    "foundation": 1_400, "matrix": 3_850, "pages": 2_200, "pipeline": 15_900, "ports": 2_800, "resources": 200,
    "serving": 2_700, "wheels": 4_300,
}  # fmt: skip
# Walks over objects that may refer to themselves; the addresses are forgotten when the walk ends.
WALKS = {"adapters/docker/errors.py", "foundation/yamltext.py"}
MODULES = sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_rooms_grow_by_decision() -> None:
    lines = dict.fromkeys(MOST_LINES_OF_A_ROOM, 0)
    for path in MODULES:
        room, _, inside = name(path).partition("/")
        if inside:
            lines[room] += len(path.read_text().splitlines())

    assert {} == {room: count for room, count in lines.items() if count > MOST_LINES_OF_A_ROOM[room]}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    long = [
        f"{node.name} has {(node.end_lineno or node.lineno) - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]

    assert text.count("\n") <= MOST_LINES, "split it by what its parts are responsible for"
    assert long == [], "split them into steps that have names"


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name(path))

    assert {} == {cls: found for cls, found in places.items() if len(found) > 1}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_is_remembered_by_an_objects_address(path: Path) -> None:
    if name(path) in WALKS:
        return
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id"
    ]

    assert calls == [], "an address is used again for another object: key by content"

"""The page of steps and the code agree: names, signatures, and what flows from step to step."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from assay.cli import COMMANDS
from assay.pipeline import steps
from assay.pipeline.steps import STEPS, Step

SOURCE = Path(__file__).parents[2] / "src" / "assay"
COMMAND = {"serve": "serve-check"}
"""Step -> the command that runs it, where that has another name."""


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function)


def parts(hint: Any) -> Iterator[Any]:
    """Yield a type and all that stands in its brackets: `Iterator[X | None]` gives X too."""
    yield hint
    for inner in typing.get_args(hint):
        yield from parts(inner)


def classes(hint: Any) -> set[type]:
    """Return the classes of assay in a type."""
    return {one for one in parts(hint) if isinstance(one, type) and one.__module__.startswith("assay.")}


def within(hint: Any) -> set[type]:
    """Return the classes of assay in a type, in the fields of those, and so on."""
    found: set[type] = set()
    waiting = classes(hint)
    while waiting:
        one = waiting.pop()
        found.add(one)
        inner: dict[str, Any] = {}
        if dataclasses.is_dataclass(one) or issubclass(one, BaseModel):
            inner |= typing.get_type_hints(one)
        for member in vars(one).values():
            if isinstance(member, property) and member.fget is not None:
                inner |= {f"{member}": hints(member.fget).get("return")}
        waiting |= {each for value in inner.values() for each in classes(value)} - found
    return found


def before(step: Step) -> set[type]:
    """Return every class that the steps give whose values a step uses."""
    return {one for name in step.after for one in within(steps.step(name).gives)}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_takes_and_gives_what_the_page_says(step: Step) -> None:
    found = hints(step.function)
    takes = [name for name, hint in found.items() if hint == step.takes and name != "return"]

    assert len(takes) == 1, f"{step.name}: {found} has not one parameter of {step.takes}"
    assert found["return"] == step.gives
    assert step.text.endswith(".")


@pytest.mark.parametrize("step", [step for step in STEPS if step.prepare], ids=lambda step: step.name)
def test_what_prepares_a_step_gives_what_the_step_takes(step: Step) -> None:
    assert step.prepare is not None
    found = hints(step.prepare)
    made = found.pop("return")

    assert issubclass(typing.get_origin(made), typing.get_origin(step.takes))
    assert typing.get_args(made) == typing.get_args(step.takes)
    assert {one for hint in found.values() for one in classes(hint)} & before(step)


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step.after and not step.prepare], ids=lambda step: step.name
)
def test_a_step_takes_a_value_of_the_steps_before(step: Step) -> None:
    assert classes(step.takes) <= before(step) or not step.after


def test_steps_stand_in_their_order_and_begin_with_the_project() -> None:
    names = [step.name for step in STEPS]

    assert names == ["plan", "lock", "audit", "build", "probe", "serve", "publish", "verify"]
    for number, step in enumerate(STEPS):
        assert set(step.after) <= set(names[:number])


def test_the_drawing_on_the_page_names_the_same_steps_and_values() -> None:
    drawn = re.findall(r"^ +(\w+) +-> (\w+)", inspect.getdoc(steps) or "", re.MULTILINE)

    assert drawn == [(step.name, one.__name__) for step in STEPS for one in list(classes(step.gives))[:1]]


def imported(module: str) -> set[str]:
    """Return the modules of assay that a module imports, wherever it does so, and those that its cli modules import."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        path = Path(inspect.getfile(importlib.import_module(name)))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("assay."):
                new = {node.module} - found
                found |= new
                waiting |= {each for each in new if each.startswith("assay.cli.")}
    return found


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_the_command_of_a_step_calls_the_function_on_the_page(step: Step) -> None:
    module, _ = COMMANDS[COMMAND.get(step.name, step.name)]

    assert step.function.__module__ in imported(f"assay.cli.{module}")


def parameters(functions: Iterable[Callable[..., Any]]) -> Iterator[tuple[str, Any]]:
    for function in functions:
        yield from ((function.__qualname__, hint) for hint in hints(function).values())


def test_steps_meet_the_world_through_ports_alone() -> None:
    functions = [function for step in STEPS for function in (step.function, step.prepare) if function is not None]
    adapters = {
        (name, one)
        for name, hint in parameters(functions)
        for one in within(hint)
        if one.__module__.startswith(("assay.adapters", "assay.cli"))
    }

    assert adapters == set()

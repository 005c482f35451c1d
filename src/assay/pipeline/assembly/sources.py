"""Wheels that are built here take the place of their sources, so that an image is made of wheels alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from assay.matrix.image_steps import ImageSteps, PinnedWheel, WheelStage, only_built
from assay.matrix.source_steps import sdist_recipe
from assay.ports.layers import SourceArchive, SourceWheels

__all__ = ["build_archive", "built_steps", "with_built"]

Say = Callable[[str], None]
Check = Callable[[], None]


def with_built(steps: ImageSteps, sources: SourceWheels | None) -> ImageSteps | None:
    """Return the steps of an image with every wheel that was built here in its place.

    Returns None where a stage compiles a wheel that was not built yet. Whether a requirement of the lock is a source
    archive is known once it was built.
    """
    if sources is None:
        return None if steps.sources else steps
    built: dict[str, str] = {}

    def put(recipe: str, wheel: PinnedWheel | None) -> PinnedWheel | None:
        found = sources.built(recipe)
        if found is None:
            return wheel
        built[found.name] = found.sha256
        return found

    wheels: dict[str, WheelStage] = {}
    for name, stage in steps.wheels.items():
        pins = (put(sdist_recipe(steps.tools, pin.requirement, stage.indexes), pin) for pin in stage.wheels)
        wheels[name] = replace(stage, wheels=tuple(pin for pin in pins if pin is not None))
    for name, recipe in steps.sources.items():
        wheel = put(recipe, None)
        if wheel is None:
            return None
        wheels[name] = WheelStage(wheels=(wheel,), indexes=())
    return replace(steps, wheels=wheels, built=built)


def built_steps(steps: ImageSteps, sources: SourceWheels | None, say: Say, check: Check) -> ImageSteps:
    """Return the same; build the wheels of stages that compile, but for those that were built before.

    Raises:
        NotAssembled: there is such a stage, and nothing that builds wheels.
    """
    for stage, recipe in steps.sources.items():
        if sources is None:
            raise only_built(1, f"FROM python AS {stage}")
        if sources.built(recipe) is None:
            sources.build(recipe, say, check)
    found = with_built(steps, sources)
    assert found is not None
    return found


def build_archive(
    steps: ImageSteps, found: SourceArchive, sources: SourceWheels | None, say: Say, check: Check
) -> None:
    """Build the wheel of a source archive of the lock.

    Raises:
        SourceArchive: nothing builds wheels.
    """
    if sources is None:
        raise found
    say(f"{found.wheel.name} {found.wheel.version} is a source archive: building its wheel")
    sources.build(sdist_recipe(steps.tools, found.wheel.requirement, found.indexes), say, check)

"""What a shell offers for an argument: cells and images of the project, GPUs, features. It never fails."""

from __future__ import annotations

from collections.abc import Iterable

import click

from assay.errors import AssayError

__all__ = ["cells", "features", "gpus"]


def cells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the cells, images and groups of the project that begin so."""
    from assay.cli.common import load_or_example

    try:
        _, plan = load_or_example(ctx.params.get("project"))
    except (AssayError, OSError):
        return []
    names = {cell.id for cell in plan.cells} | {cell.image for cell in plan.cells} | set(plan.project.matrix.groups)
    return _beginning(names, incomplete)


def gpus(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the GPUs that begin so."""
    from assay.cli.targets import gpu_names

    try:
        return _beginning(gpu_names(), incomplete)
    except (AssayError, OSError):
        return []


def features(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the features that begin so, after those before the last comma."""
    from assay import resources

    before, comma, last = incomplete.rpartition(",")
    try:
        programs = resources.files("probes", below="features", pattern="*.py")
    except (AssayError, OSError):
        return []
    names = {name.rsplit("/", 1)[-1].removesuffix(".py").replace("_", "-") for name in programs}
    return [f"{before}{comma}{name}" for name in _beginning(names, last)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.lower().startswith(incomplete.lower()))

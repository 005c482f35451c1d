"""What commands share: where the project is, how cells are named, how results are printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.matrix import plan as planning

__all__ = ["format_option", "load", "load_or_example", "platform_option", "project_option", "select_argument"]

F = TypeVar("F", bound=Callable[..., Any])


def project_option(function: F) -> F:
    """Add `--project DIR`."""
    return click.option(
        "--project",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=None,
        help="Folder with matrix.yaml.  [default: this folder or the nearest parent]",
    )(function)


def select_argument(function: F) -> F:
    """Add `[SELECT]...`."""
    from assay.cli.completing import cells

    return click.argument("select", nargs=-1, shell_complete=cells)(function)


def platform_option(function: F) -> F:
    """Add `--platform`, whose value is one more word of SELECT, or none."""
    from assay.cli.targets import PLATFORM

    def word(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
        return (f"platform={value}",) if value else ()

    return click.option(
        "--platform",
        type=PLATFORM,
        metavar="PLATFORM",
        callback=word,
        help="Only cells for this platform, such as linux/arm64 or arm64.",
    )(function)


def format_option(*formats: str) -> Callable[[F], F]:
    """Add `--format`, of which the first is the default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Output format.",
    )


def load(project: Path | None) -> tuple[ProjectFiles, planning.Plan]:
    """Read the project's configuration and make the plan.

    Raises:
        UsageError: there is no project.
    """
    from assay.adapters.files.project import ProjectFiles, find_root
    from assay.matrix import plan as planning

    files = ProjectFiles(project or find_root())
    return files, planning.make(files.load())


def load_or_example(project: Path | None) -> tuple[ProjectFiles, planning.Plan]:
    """Read the project; where there is none, the matrix and images that ship with assay.

    Records of such a run belong into build_logs/ of the folder where it was started.
    """
    from assay.adapters.files.project import NoProject, ProjectFiles, find_root
    from assay.matrix import plan as planning

    try:
        return load(project or find_root())
    except NoProject:
        files = ProjectFiles(Path.cwd(), example=True)
        return files, planning.make(files.load())

"""`assay render`: Dockerfiles and docker-bake.json from recipes, locks and templates; `--check` finds drift."""

from __future__ import annotations

from pathlib import Path

import click

from assay.cli import console
from assay.cli.common import load, project_option

__all__ = ["command"]


@click.command("render")
@project_option
@click.option("--check", is_flag=True, help="Change nothing; fail if a generated file is outdated.")
def command(project: Path | None, *, check: bool) -> int:
    """Write the Dockerfile of each locked cell, images/docker-bake.json and the schemas for editors."""
    from assay.pipeline.generated import drifted, stray, write_generated

    files, plan = load(project)
    if not check:
        changed = write_generated(files, plan, console.say)
        console.say(f"{changed} files changed" if changed else "everything is up to date")
        return 0
    drift = [*drifted(files, plan), *(f"{path}: the matrix has no such cell" for path in stray(files, plan))]
    for line in drift:
        console.data(line)
    if drift:
        console.say("generated files are outdated; run `assay render`")
    return 1 if drift else 0

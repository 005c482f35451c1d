"""`assay policy`: check the policy before anything is published."""

from __future__ import annotations

from pathlib import Path

import click

from assay.cli import console
from assay.cli.common import load, project_option
from assay.errors import ConfigError

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check the policy in matrix.yaml."""


@command.command("check", short_help="Check that all that the policy names exists.")
@project_option
def check(project: Path | None) -> int:
    """Check that every image, target, feature and key that the policy names exists. Needs no network."""
    from assay.cli.probe_composition import probe_programs
    from assay.evidence import suite as probes
    from assay.pipeline.policy_check import policy_problems

    files, plan = load(project)
    policy, document = plan.project.matrix.policy, plan.project.documents["matrix.yaml"]
    problems = [*policy_problems(plan.project, probes.declarations(probe_programs(files)))]
    for position, key in enumerate(policy.keys):
        if not (files.root / key).is_file():
            problems.append(document.problem(("policy", "keys", position), f"policy: the key {key} does not exist"))
    if problems:
        raise ConfigError(problems)
    levels = ", ".join(policy.levels) or "none"
    console.say(f"all images, targets, features and keys in the policy exist; levels: {levels}")
    return 0

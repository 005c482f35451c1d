"""The command line: a thin table of commands, each in a module of its own that is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from assay import __version__
from assay.cli import console
from assay.cli.examples import EXAMPLES, GROUPS
from assay.cli.outermost import guarded

__all__ = ["COMMANDS", "main", "main_inner"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    # name: (module in assay.cli with a `command`, one line for --help)
    "init": ("init", "Create a project that builds and passes its checks."),
    "doctor": ("doctor", "Check this machine and suggest fixes."),
    "plan": ("plan", "List the cells of the matrix, and the excluded ones with reasons."),
    "find": ("find", "Find the newest release that fits a GPU."),
    "lock": ("lock", "Resolve each cell to exact wheels."),
    "update": ("update", "Propose cells of the newest releases and nightlies."),
    "diagnose": ("diagnose", "Find the cause of a failure in a log and suggest a fix."),
    "diff": ("diff", "Compare two runs, cells or images."),
    "bisect": ("bisect", "Find the first version that fails."),
    "probe": ("probe", "Test each feature of an image on a GPU."),
    "jobs": ("jobs", "List jobs that run on pools."),
    "collect": ("collect", "Record the results of jobs that ran on pools."),
    "report": ("report", "Show results as text, Markdown, JUnit, web pages or badges."),
    "audit": ("audit", "Check wheels and images for incompatibilities."),
    "facts": ("facts", "Manage cached wheel facts."),
    "records": ("records", "Share records between machines."),
    "build": ("build", "Audit and build images; skip existing ones."),
    "assemble": ("assemble", "Assemble images from wheels without a build."),
    "up": ("up", "Serve a model on this machine's GPU with the best image."),
    "status": ("status", "Show the servers that `assay up` started."),
    "logs": ("logs", "Print the log of a server."),
    "down": ("down", "Stop a server."),
    "serve-check": ("serve_check", "Start the server of an image and check its API."),
    "launch": ("launch", "Write the command or manifest that runs an image."),
    "bench": ("bench", "Benchmark the servers of images under load."),
    "render": ("render", "Write Dockerfiles, the bake file and schemas."),
    "publish": ("publish", "Publish verified images; revoke published ones."),
    "policy": ("policy", "Check the policy in matrix.yaml."),
    "verify": ("verify", "Verify a published image from its registry."),
    "recommend": ("recommend", "Recommend an image for a GPU."),
    "completion": ("completion", "Print the completion script of a shell."),
}


_ANYWHERE: Final = ("--quiet", "--no-progress")
"""Options of the program that also work after the command."""


class _Lazy(click.Group):
    """A group whose commands are imported when they run, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"assay.cli.{COMMANDS[cmd_name][0]}").command
        if (examples := EXAMPLES.get(cmd_name)) and not command.epilog:
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        if not COMMANDS:
            return
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from assay.foundation.nearest import suggestion

            ctx.fail(f"there is no command {args[0]!r}{suggestion(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="assay")
@click.option("-q", "--quiet", is_flag=True, help="Print results, warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Also print the programs that are run.")
@click.option("--no-progress", is_flag=True, help="Do not show progress.")
def root(*, quiet: bool, verbose: bool, no_progress: bool) -> None:
    """Build GPU serving images across a version matrix, test them on a GPU, and publish the verified ones.

    Exit codes: 0 success, 1 finished with failures, 2 usage or configuration error, 3 nothing selected, 4 no
    container engine or no GPU, 5 registry error, 6 refused by policy, 70 a bug in assay, 130 interrupted.

    --quiet and --no-progress also work after the command. With --format json, errors are written as JSON too.
    """
    console.talk(quiet=quiet, progress=not no_progress)
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


def main_inner(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors of assay come out as exceptions."""
    given = sys.argv[1:] if argv is None else list(argv)
    words = given[: given.index("--")] if "--" in given else given
    front = [word for word in _ANYWHERE if word in words]
    rest = [word for number, word in enumerate(given) if number >= len(words) or word not in front]
    result = root.main(args=[*front, *rest], prog_name="assay", standalone_mode=False)
    return result if isinstance(result, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; every error becomes a message for people and an exit code."""
    return guarded(lambda: main_inner(argv), sys.argv[1:] if argv is None else argv)

"""The command line: a thin table of commands, each in a module of its own that is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from assay import __version__
from assay.cli.outermost import guarded

__all__ = ["COMMANDS", "main", "main_inner"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    # name: (module in assay.cli with a `command`, one line for --help)
    "doctor": ("doctor", "Look over this machine and say what mends what is missing."),
    "plan": ("plan", "Show every cell, and what is left out and why."),
    "lock": ("lock", "Give each cell its exact wheels."),
    "diagnose": ("diagnose", "Say what failed, why, and what mends it."),
    "diff": ("diff", "Show what changed between two runs, cells or tags."),
    "bisect": ("bisect", "Find the first bad version on an axis."),
    "probe": ("probe", "Show what really works in images, feature by feature, on a GPU."),
    "report": ("report", "Show what the records say."),
    "audit": ("audit", "Say what wheels and images would do, before a byte is built."),
    "facts": ("facts", "Keep, show, move and share what was learnt of wheels."),
    "build": ("build", "Build images; audit first, skip what is there."),
    "serve-check": ("serve_check", "Start a server in an image and check its API."),
    "launch": ("launch", "Write the command or manifest that the evidence supports."),
    "bench": ("bench", "Put load on servers and compare them."),
    "render": ("render", "Write Dockerfiles and the bake file."),
    "publish": ("publish", "Give tags to what was verified; take them back."),
    "verify": ("verify", "Check anybody's reference from the registry alone."),
    "recommend": ("recommend", "Say which image works on a card."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they run, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"assay.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        if not COMMANDS:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from assay.foundation.nearest import suggestion  # noqa: PLC0415

            ctx.fail(f"there is no command {args[0]!r}{suggestion(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="assay")
def root() -> None:
    """Build GPU serving images across a version matrix, prove what works in them, publish only what is verified.

    Exit codes: 0 fine, 1 finished with failures, 2 usage or configuration, 3 nothing selected, 4 no engine or
    no GPU, 5 registry, 6 refused by policy, 70 a bug of assay, 130 interrupted.
    """


def main_inner(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors of assay come out as exceptions."""
    result = root.main(args=None if argv is None else list(argv), prog_name="assay", standalone_mode=False)
    return result if isinstance(result, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; every error becomes a message for people and an exit code."""
    return guarded(lambda: main_inner(argv), sys.argv[1:] if argv is None else argv)

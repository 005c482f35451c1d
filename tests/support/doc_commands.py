"""Command lines in texts: whether their commands and options exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import click

from assay.cli import COMMANDS

__all__ = ["LINE", "wrong"]

# A command line ends where the shell begins another, or where a comment does.
LINE = re.compile(r"(?:^|[\s(])assay ([a-z][a-z-]*)((?:[^\n|&;#`)]|(?<=\S)[#])*)", re.MULTILINE)


def wrong(script: str) -> Iterator[str]:
    """Yield what is not there of the commands in a script."""
    for name, rest in LINE.findall(script):
        if name not in COMMANDS:
            yield f"assay {name}"
            continue
        command: click.Command = importlib.import_module(f"assay.cli.{COMMANDS[name][0]}").command
        if isinstance(command, click.Group):
            verb = rest.split()[0] if rest.split() else ""
            if verb and verb not in command.commands and not verb.startswith("-"):
                yield f"assay {name} {verb}"
                continue
            command = command.commands.get(verb, command)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*)", rest):
            if option not in known | {"--help"}:
                yield f"assay {name} {option}"

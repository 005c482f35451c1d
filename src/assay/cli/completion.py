"""`assay completion`: the script that completes commands, options, cells, images and GPUs in a shell."""

from __future__ import annotations

import click

from assay.cli import console

__all__ = ["command"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    from assay.cli import root

    found = get_completion_class(shell)
    assert found is not None
    console.data(found(root, {}, "assay", "_ASSAY_COMPLETE").source())
    return 0

"""`assay down`: stop servers of `assay up`."""

from __future__ import annotations

import click

from assay.cli import console
from assay.errors import UsageError

__all__ = ["command"]


@click.command("down")
@click.argument("server", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop all servers.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="Time to wait for a clean exit before killing it, in seconds.",
)
def command(server: str | None, *, everything: bool, grace: float) -> int:
    """Stop and remove SERVER; it can be omitted if there is only one. The model stays in the cache."""
    from assay.cli.serving_composition import services
    from assay.cli.upkeep import the_server

    known = services()
    if everything and server:
        raise UsageError("name a server or give --all, not both")
    found = known.servers() if everything else [the_server(known, server)]
    for one in found:
        ended = known.remove(one, grace=grace)
        console.say(f"{one.name} is down" + (f" ({ended})" if one.running else ""))
    return 0

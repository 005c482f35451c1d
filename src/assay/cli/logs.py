"""`assay logs`: what a server of `assay up` writes."""

from __future__ import annotations

import click

from assay.cli import console

__all__ = ["command"]


@click.command("logs")
@click.argument("server", required=False)
@click.option("--follow", "-f", is_flag=True, help="Keep printing until the server ends.")
def command(server: str | None, *, follow: bool) -> int:
    """Print the log of SERVER; it can be omitted if there is only one."""
    from assay.cli.serving_composition import services
    from assay.cli.upkeep import the_server

    known = services()
    found = the_server(known, server)
    if not follow:
        console.data(known.log(found))
        return 0
    for piece in known.follow(found):
        console.data(piece.decode(errors="replace"))
        console.flush()
    return 0

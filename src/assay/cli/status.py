"""`assay status`: which servers `assay up` started, and whether they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option

if TYPE_CHECKING:
    from assay.ports.services import KeptServer

__all__ = ["command"]


@click.command("status")
@format_option("table", "json")
def command(form: str) -> int:
    """Show the servers that `assay up` started.

    Exit code 0: every server answers its health check, or there is none. 1: at least one does not.
    """
    from assay.cli.serving_composition import api_client, services

    client = api_client()
    found: list[tuple[KeptServer, str]] = []
    for server in services().servers():
        reply = client.call("GET", server.base + server.labels.get("assay.up.health", "/health"), timeout=5)
        health = "healthy" if server.running and reply.status == 200 else "not healthy" if server.running else "stopped"
        found.append((server, health))
    _show(found, form)
    return 0 if all(health == "healthy" for _, health in found) else 1


def _show(found: Sequence[tuple[KeptServer, str]], form: str) -> None:
    rows = [
        (server.name, health, server.state, f"{server.base}/v1", server.labels.get("assay.up.model", ""))
        for server, health in found
    ]
    if form == "json":
        from assay.pipeline.documents import StatusDocument

        names = ("name", "health", "state", "address", "model")
        servers = [dict(zip(names, row, strict=True)) for row in rows]
        console.document(StatusDocument.model_validate({"servers": servers}))
    elif rows:
        console.data_table(("server", "health", "container", "address", "model"), rows)
    else:
        console.say("no server is up; `assay up MODEL` starts one")

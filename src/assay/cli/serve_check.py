"""assay serve-check: start a server in an image, check its API, read what it chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import console
from assay.cli.common import format_option, project_option
from assay.cli.completing import cells
from assay.cli.serving import ServingOptions, place_options, resolve_place, serve_request

if TYPE_CHECKING:
    from assay.evidence.record import ServeRecord

__all__ = ["command"]


@click.command("serve-check")
@click.argument("image", shell_complete=cells)
@click.option("--profile", help="Profile in images/<image>/profiles/, without .yaml.")
@place_options
@click.option(
    "--as-written", is_flag=True, help="Pass the profile's flags unchanged; refuse to start if a flag is unknown."
)
@click.option("--bisect-flags", is_flag=True, help="After a crash, find the smallest set of features to switch off.")
@project_option
@format_option("table", "json")
def command(
    image: str,
    *,
    profile: str | None,
    as_written: bool,
    bisect_flags: bool,
    project: Path | None,
    form: str,
    **given: Any,
) -> int:
    """Start the server of IMAGE, check its API and stop it.

    IMAGE is a cell, an image reference, or `local` for a server on this machine without a container.

    Exit code 0: the server started and passed every check. 1: it did not. 4: no container engine or no GPU.
    """
    from assay.adapters.files.records import FileStore
    from assay.cli.serving_composition import api_client, server_host
    from assay.evidence.record import ServeStatus
    from assay.pipeline.serve_check import serve_check

    options = ServingOptions(**given)
    place = resolve_place(image, options.engine, project)
    request = serve_request(place, options, profile, as_written=as_written, bisect=bisect_flags)
    store = FileStore(place.root / "build_logs")
    host = server_host(local=place.local, python=options.python)
    client = api_client(options.api_key(place.knowledge))
    record = serve_check(host, client, place.knowledge, store, request, say=console.say)
    _show(record, form)
    return 0 if record.status is ServeStatus.OK else 1


def _show(record: ServeRecord, form: str) -> None:
    if form == "json":
        console.document(record)
        return
    if record.checks:
        console.data_table(
            ["check", "result", "detail"],
            [(check.name, "ok" if check.passed else "failed", check.detail) for check in record.checks],
        )
    if record.chosen:
        console.data_table(["chosen", ""], [(name, str(value)) for name, value in record.chosen.items()])
    console.say(f"{record.cell}: {record.status}" + (f": {record.reason}" if record.reason else ""))
    if record.needed is not None:
        console.say(f"needed: {', '.join(record.needed) or 'nothing'}")
    if record.log:
        console.say(f"log: build_logs/{record.log}")

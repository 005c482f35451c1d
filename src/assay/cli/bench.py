"""assay bench: put load on servers and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from assay.cli import console
from assay.cli.common import format_option, project_option
from assay.cli.serving import ServingOptions, place_options, profiles_for, resolve_place, serve_request
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.evidence.record import BenchRecord
    from assay.serving.profile import Profile

__all__ = ["command"]

_SHOWN: Final = {
    "configuration": "profile",
    "engine": "engine",
    "latency_ms": "latency ms",
    "tokens_per_second": "tok/s",
    "ttft_ms": "TTFT ms",
    "gpu_memory_gib": "GPU GiB",
    "stable": "stable",
    "users_1_rps": "req/s 1",
    "users_5_rps": "5",
    "users_10_rps": "10",
    "users_20_rps": "20 users",
    "prefix_first_ms": "prefix 1st ms",
    "prefix_rest_ms": "rest ms",
}


def _numbers(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter("write whole numbers from 1 on, with commas: 1,5,10,20")
    return numbers


@click.command("bench")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--profile", "profiles", multiple=True, help="Profile to run in each IMAGE (repeatable).")
@click.option(
    "--lengths", callback=_numbers, default="10,50,100,500", show_default=True, help="Answer lengths, in tokens."
)
@click.option("--users", callback=_numbers, default="1,5,10,20", show_default=True, help="Numbers of concurrent users.")
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Requests per length and per user."
)
@click.option(
    "--questions",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Requests that share a system prompt, to measure prefix caching.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the prompts; the same seed gives the same prompts."
)
@place_options
@project_option
@format_option("table", "csv", "json")
def command(
    images: Sequence[str],
    *,
    profiles: Sequence[str],
    lengths: tuple[int, ...],
    users: tuple[int, ...],
    repeats: int,
    questions: int,
    seed: int,
    project: Path | None,
    form: str,
    **given: Any,
) -> int:
    """Benchmark the server of each IMAGE under load, one after the other.

    IMAGE is a cell, an image reference, or `local` for a server on this machine without a container.

    Exit code 0: all servers were stable. 1: at least one was not.
    """
    from assay.adapters.files.records import FileStore
    from assay.cli.serving_composition import api_client, server_host
    from assay.pipeline.bench import Contestant, LoadShape, bench

    options = ServingOptions(**given)
    contestants: list[Contestant] = []
    places = [resolve_place(image, options.engine, project) for image in images]
    for place in places:
        fitting = [name for name in profiles or ("",) if len(places) == 1 or _fits(place, name)]
        for name in fitting:
            request = serve_request(place, options, name or None)
            contestants.append(Contestant(host=server_host(local=place.local, python=options.python), request=request))
    if not contestants:
        raise UsageError("none of the profiles fits any of the images")
    store = FileStore(places[0].root / "build_logs")
    shape = LoadShape(lengths=lengths, users=users, repeats=repeats, questions=questions, seed=seed)
    knowledge = places[0].knowledge
    client = api_client(options.api_key(knowledge))
    records = bench(contestants, client, knowledge, store, shape, say=console.say)
    _show(records, form)
    _say_claims({one.request.profile_name: one.request.profile for one in contestants if one.request.profile})
    return 0 if all(record.stable for record in records) else 1


def _say_claims(profiles: Mapping[str, Profile]) -> None:
    """What documents say of the same profiles, beside what was measured and apart from it."""
    for name, profile in profiles.items():
        for claim in profile.claims:
            if claim.figures:
                where = ", ".join(part for part in (claim.device, claim.model, claim.note) if part)
                console.say(f"claimed for {name}, not measured here: {claim.figures} ({where}; {claim.date})")


def _fits(place: Any, name: str) -> bool:
    """With several images a profile of one engine is simply not run in the images of the other."""
    known = profiles_for(place)
    return not name or name in known


def _show(records: Sequence[BenchRecord], form: str) -> None:
    from assay.serving.csvtext import comparison_csv, comparison_rows

    if form == "json":
        from assay.pipeline.documents import BenchDocument

        console.document(BenchDocument(records=tuple(records)))
    elif form == "csv":
        console.data(comparison_csv(records))
    else:
        rows = comparison_rows(records)
        console.data_table(list(_SHOWN.values()), [[row[name] for name in _SHOWN] for row in rows])

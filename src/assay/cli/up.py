"""`assay up`: serve a model on this machine's GPU, from the best image for both."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from assay.cli import console
from assay.cli.common import project_option
from assay.cli.completing import cells
from assay.cli.targets import GPU
from assay.engines.names import engine_names
from assay.errors import EngineError, GpuMissing, UsageError

if TYPE_CHECKING:
    from assay.cli.up_plan import Planned, Planner
    from assay.pipeline.doctor import Check
    from assay.pipeline.up import Served
    from assay.ports.server import ServerFacts
    from assay.serving.choice import Choice

__all__ = ["command"]

PORT: Final = 8000
_OTHERS: Final = 3
"""How many images are shown that were not chosen."""


@click.command("up")
@click.argument("model")
@click.option(
    "--image", shell_complete=cells, help="Cell or image reference to use.  [default: the best one for GPU and model]"
)
@click.option("--engine", type=click.Choice(engine_names()), help="Consider images of this serving engine only.")
@click.option(
    "--target", type=GPU, metavar="GPU", help='GPU: "RTX 5090", sm_120, ...  [default: this machine\'s, else sm_120]'
)
@click.option("--gpus", default="all", show_default=True, help="GPUs for the server: all, none, or indices.")
@click.option(
    "--memory-gib", type=click.FloatRange(min=0.5), help="Memory of the GPU.  [default: reported by the driver]"
)
@click.option("--context", type=click.IntRange(1), help="Longest request, in tokens.")
@click.option("--requests", type=click.IntRange(1), help="Concurrent requests.")
@click.option("--port", type=click.IntRange(1, 65535), help=f"Port on 127.0.0.1.  [default: {PORT}, or a free one]")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Hugging Face cache folder.  [env: HF_HOME; default: ~/.cache/huggingface]",
)
@click.option("--set", "sets", multiple=True, metavar="FLAG[=VALUE]", help="Add a server flag (repeatable).")
@click.option("--env", "envs", multiple=True, metavar="NAME=VALUE", help="Set an environment variable (repeatable).")
@click.option("--offline", is_flag=True, help="Read nothing from the hub or a package index while choosing.")
@click.option(
    "--start-timeout", type=float, default=1800, show_default=True, help="Time limit to become healthy, in seconds."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@project_option
def command(model: str, *, dry_run: bool, project: Path | None, **given: Any) -> int:
    """Serve MODEL on this machine's GPU, from the best image for both.

    MODEL is a model of the Hugging Face Hub or a folder. Driver and container toolkit are checked first. The image is
    chosen from records, or else from predictions of the audit; it is built or pulled if it is missing. The server keeps
    running after the command. Two test requests are sent, and the answers are recorded.

    Exit code 0: the server runs and answered. 1: it failed. 4: no container engine or no GPU.
    """
    from assay.cli.up_plan import Planner

    planner = Planner(model, project, given)
    plan = planner.planned()
    _show(planner, plan)
    bad = _checks(planner, plan)
    if dry_run:
        return 0
    if bad:
        raise bad
    return _run(planner, plan)


def _show(planner: Planner, plan: Planned) -> None:
    """Say what would be done, and why."""
    option, service = plan.choice.option, plan.deployment.services[0]
    where = "" if plan.card.here else " (not here)" if planner.gpu else " (not used: --gpus none)"
    console.say(f"GPU     {plan.card.title}, {plan.card.memory / 2**30:.0f} GiB{where}", hang=8)
    console.say(f"model   {planner.model}, configuration from {plan.found.source}", hang=8)
    console.say(f"image   {option.cell} ({option.where}{_size(planner, plan)})", hang=8)
    for line in _why(plan.choice):
        console.say(f"          {line}", hang=12)
    for other in plan.others[:_OTHERS]:
        console.say(f"  or    {other.option.cell}: {_why(other)[0]}", hang=8)
    for line in plan.left:
        console.say(f"  not   {line}", hang=8)
    memory = plan.deployment.plan
    if memory is not None and memory.shares:
        share = memory.shares[0]
        console.say(
            f"memory  weights {share.weights / 2**30:.1f} GiB, cache {share.cache / 2**30:.1f} GiB "
            f"({share.cache_tokens} tokens), in all {share.total / 2**30:.1f} of {plan.card.memory / 2**30:.1f} GiB",
            hang=8,
        )
    for note in plan.deployment.notes[2:]:
        if note.startswith(("off:", "attention", "off by")):
            console.say(f"flags   {note}", hang=8)
    console.say(f"command {shlex.join(service.command.told.argv(host='0.0.0.0', port='8000'))}")  # noqa: S104


def _size(planner: Planner, plan: Planned) -> str:
    from assay.pipeline.disk import wheel_bytes

    lock = planner.files.lock(plan.cell) if plan.cell is not None else None
    if lock is None or plan.choice.option.where == "here":
        return ""
    return f", wheels of {wheel_bytes([lock]) / 1e9:.1f} GB"


def _checks(planner: Planner, plan: Planned) -> EngineError | None:
    """Check engine, driver, container toolkit and disk, and say what is wrong; return an error if it will fail."""
    from assay.cli.composition import doctor
    from assay.pipeline.disk import build_bytes, likely_assembled
    from assay.pipeline.doctor import CheckState, Needs

    matrix = planner.plan.project.matrix
    lock = planner.files.lock(plan.cell) if plan.cell is not None else None
    build = 0
    if lock is not None and plan.choice.option.where == "to be built":
        build = build_bytes([lock], assembled=likely_assembled(matrix))
    weights = 0 if planner.folder else plan.found.weight_bytes or 0
    needs = Needs(
        gpu=planner.gpu,
        disk_bytes=build + weights,
        disk_for="image and model",
        targets={plan.card.target: matrix.targets[plan.card.target]},
    )
    bad: list[Check] = []
    for check in doctor(matrix).for_serving(needs):
        if check.state in {CheckState.FAIL, CheckState.WARN}:
            console.status(check.state.value, f"{check.name}: {check.found}")
            if check.mend:
                console.say(f"          to fix: {check.mend}", hang=10)
        bad += [check] if check.state is CheckState.FAIL else []
    if not bad:
        return None
    kind = GpuMissing if all(check.name.startswith("gpu") for check in bad) else EngineError
    return kind(
        f"{planner.model} cannot be served on this machine: {'; '.join(check.found for check in bad)}",
        hint="fix that, or add --dry-run to see what another machine would do",
    )


def _run(planner: Planner, plan: Planned) -> int:
    """Get the image, start the server, ask it, and say how it is used."""
    from assay.adapters.files.records import FileStore
    from assay.cli.serving_composition import api_client, services
    from assay.foundation.versions import public
    from assay.pipeline.up import UpRequest, bring_up

    known = services()
    service = plan.deployment.services[0]
    running = known.servers()
    if mine := next((one for one in running if one.name == service.name), None):
        if mine.running:
            console.say(f"{service.name} is already running; `assay down {service.name}` stops it")
            console.data(f"{mine.base}/v1")
            return 0
        known.remove(mine, grace=1)
    if others := [one.name for one in running if one.running and one.name != service.name]:
        console.warn(f"{', '.join(others)} may use memory of the GPU; `assay down {others[0]}` stops it")
    if code := _obtain(planner, plan):
        return code
    facts = planner.facts(plan.choice.option.reference, gpus=planner.gpus)
    version = public(facts.packages.get(plan.choice.option.engine.package, ""))
    if public(plan.choice.option.version) != version:
        # An image that no lock describes: now its release is known, and its flags with it.
        plan = _again(planner, plan, version, facts)
        service = plan.deployment.services[0]
    planner.cache.mkdir(parents=True, exist_ok=True)
    request = UpRequest(
        service=service,
        facts=facts,
        cell=plan.choice.option.cell,
        image=plan.cell.image if plan.cell else "",
        gpus=planner.gpus,
        start_timeout=planner.given["start_timeout"],
        request_timeout=900.0,
    )
    console.say(f"starting {service.name}; the first start downloads the model if it is not in {planner.cache}")
    store = FileStore(planner.files.root / "build_logs")
    served = bring_up(known, api_client(), store, request, say=console.say)
    return _told(served, plan, service.name)


def _obtain(planner: Planner, plan: Planned) -> int:
    """Build or pull the image, unless it is here; return the exit code of the build."""
    option = plan.choice.option
    if option.where == "here":
        return 0
    if plan.cell is None:
        console.say(f"pulling {option.reference}")
        planner.engine.pull(option.reference, progress=console.say)
        return 0
    from assay.cli.build import build_cells

    code = build_cells(planner.files, planner.plan, [plan.cell])
    if code:
        console.fail(
            f"{plan.cell.id} could not be built", hint="its log has the reason; name another --engine or --image"
        )
    return code


def _again(planner: Planner, plan: Planned, version: str, facts: ServerFacts) -> Planned:
    if not version:
        package = plan.choice.option.engine.package
        raise UsageError(f"{package} is not installed in {plan.choice.option.reference}", hint="name another --image")
    option = replace(plan.choice.option, version=version, digest=facts.image_digest)
    deployment = planner.deployment(option, plan.card, planner.records)
    return replace(plan, choice=replace(plan.choice, option=option), deployment=deployment)


def _why(choice: Choice) -> list[str]:
    """Return the evidence for an image on the card, one line each; only what speaks against it, if anything does."""
    if choice.against:
        return [str(one) for one in choice.against]
    counts = {"record": 0, "record of these versions": 0, "audit": 0}
    for standing in choice.standings.values():
        if standing.outcome.value == "works" and standing.basis in counts:
            counts[standing.basis] += 1
    words = [
        f"{count} features {word}"
        for word, count in zip(
            ("measured here", "measured in another image", "predicted"), counts.values(), strict=True
        )
        if count
    ]
    return [f"{choice.serves}" if choice.serves.basis != "nothing" else "no measurement or prediction of its server",
            *map(str, choice.needs), *([", ".join(words)] if words else [])]  # fmt: skip


def _told(served: Served, plan: Planned, name: str) -> int:
    record = served.record
    for answer in served.answers:
        text = answer.text[:200] if answer.passed else f"FAILED: {answer.text}"
        console.say(f"{answer.name}: {text} ({answer.seconds:.1f} s)")
    if not served.answers:
        console.fail(f"{name} did not start: {record.reason}", hint=f"the log: build_logs/{record.log}")
        return 1
    path = served.answers[-1].path
    service = plan.deployment.services[0]
    body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}'
    if not path.endswith("chat/completions"):
        body = '{"model": "%s", "prompt": "Hello", "max_tokens": 32}'
    console.data(
        f"curl {served.base}{path} -H 'Content-Type: application/json' \\\n  -d '{body % service.command.served_name}'"
    )
    console.say(f"metrics    {served.base}/metrics")
    model = shlex.quote(service.command.model)
    launch = f"assay launch {plan.choice.option.cell} --model {model} --target {plan.card.target}"
    if plan.cell is None:
        launch += f" --engine {plan.choice.option.engine.name} --engine-version {plan.choice.option.version}"
    console.say(f"dashboard  {launch} --format compose --output {name}")
    console.say(f"logs       assay logs {name} --follow")
    console.say(f"stop       assay down {name}")
    console.say(f"permanent  {launch} --format systemd")
    if not served.ok:
        console.fail(f"{name} runs, but an answer was wrong: {record.reason}")
    return 0 if served.ok else 1

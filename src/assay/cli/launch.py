"""assay launch: write the command or manifest that the evidence supports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay import resources
from assay.cli import console
from assay.cli.common import project_option
from assay.cli.completing import cells
from assay.cli.serving import ServerPlace, extra_env, extra_flags, owner_of, profile_named, resolve_place
from assay.cli.targets import GPU, beside, local_gpus, system_share
from assay.engines.names import engine_names
from assay.errors import UsageError
from assay.foundation.nearest import suggestion
from assay.serving.formats import FORMATS

if TYPE_CHECKING:
    from assay.foundation.platforms import Platform
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.serving.deploy import Deployment

__all__ = ["command"]


@click.command("launch")
@click.argument("image", shell_complete=cells)
@click.option(
    "--model", "models", multiple=True, help="Model on the Hugging Face Hub, or a folder; several share the GPU."
)
@click.option("--profile", "profiles", multiple=True, help="Profile for all models, or one per model.")
@click.option(
    "--target",
    type=GPU,
    metavar="GPU",
    help='GPU to run on: "RTX 5090", "DGX Spark", sm_120, ...  [default: this machine\'s, else sm_120]',
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="docker", show_default=True, help="Kind of files to write."
)
@click.option("--memory-gib", type=click.FloatRange(min=0.5), help="Memory of the GPU.  [default: the target's]")
@click.option("--context", type=click.IntRange(1), help="Longest request, in tokens.")
@click.option("--requests", type=click.IntRange(1), help="Concurrent requests.")
@click.option(
    "--keep-fraction", is_flag=True, help="Keep the profile's memory fraction; check it instead of choosing one."
)
@click.option("--engine", type=click.Choice(engine_names()), help="Serving engine.  [default: detected from IMAGE]")
@click.option("--engine-version", help="Release of the engine, if IMAGE has no record.")
@click.option("--reference", help="Image reference to write.  [default: IMAGE as the local engine names it]")
@click.option(
    "--port", type=click.IntRange(1, 65000), default=8000, show_default=True, help="Port of the first server."
)
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address to publish the ports on.")
@click.option("--gpu", default="all", show_default=True, help="GPU index, or all.")
@click.option(
    "--gpu-resource", default="nvidia.com/gpu", show_default=True, help="Resource name of a GPU (kubernetes)."
)
@click.option("--cache", default="~/.cache/huggingface", show_default=True, help="Hugging Face cache folder to mount.")
@click.option("--no-metrics", is_flag=True, help="Leave out Prometheus and Grafana (compose).")
@click.option("--strict", is_flag=True, help="Also switch off features without any record or claim.")
@click.option("--offline", is_flag=True, help="Read nothing from the hub or a package index.")
@click.option("--set", "sets", multiple=True, metavar="FLAG[=VALUE]", help="Add a server flag (repeatable).")
@click.option(
    "--env",
    "envs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an environment variable of the servers (repeatable).",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.  [default: stdout]"
)
@project_option
def command(image: str, *, form: Any, output: Path | None, project: Path | None, **given: Any) -> int:
    """Write the command or manifest that runs IMAGE, with the flags that the evidence supports.

    Each flag comes with its reason.
    """
    from assay.adapters.files.records import write_whole
    from assay.adapters.files.regular import read_config
    from assay.serving.deploy import render, secrets_of

    place = resolve_place(image, given["engine"], project)
    if place.local:
        raise UsageError("launch writes containers; name a cell or an image reference")
    deployment = _deployment(place, form, project, given)
    shipped = resources.files("templates", place.root, below="launch")
    texts = {path.name: read_config(path) for path in shipped.values()}
    files = render(form, deployment, texts)
    if form == "kubernetes" and place.cell != place.reference == deployment.services[0].image:
        console.warn(
            f"{place.reference} is a tag of this machine, which no other node can pull; "
            "push the image and name it: --reference REGISTRY/REPOSITORY@sha256:..."
        )
    # What is printed has the reasons in its comments.
    _say(deployment, notes=output is not None or not console.at_terminal(sys.stdout))
    if output is None:
        for name, text in files.items():
            if len(files) > 1:
                console.data(f"# ==> {name} <==")
            console.data(text)
        return 0
    # What holds a secret is for its owner alone, from its first byte on.
    readable = 0o600 if secrets_of(deployment) else 0o644
    for name, text in files.items():
        path = output / name
        write_whole(path, text.encode(), mode=(readable | readable >> 2 & 0o111) if name.endswith(".sh") else readable)
        console.say(f"wrote {path}")
    return 0


def _deployment(place: ServerPlace, form: str, project: Path | None, given: dict[str, Any]) -> Deployment:
    from assay.adapters.files.model_files import ModelFiles
    from assay.cli.common import load_or_example
    from assay.cli.predicting import all_claims, known_records, predictions
    from assay.pipeline.launch import LaunchRequest, launch

    files, plan = load_or_example(project)
    targets = plan.project.matrix.targets
    target: str = given["target"] or next((one.target for one in local_gpus() if one.target in targets), "sm_120")
    if target not in targets:
        raise UsageError(f"{beside(target)} is not a target in matrix.yaml{suggestion(target, targets)}")
    memory = given["memory_gib"] or targets[target].memory_gib
    cell = next((cell for cell in plan.cells if cell.id == place.cell), None)
    platform = _platform(cell, plan, target)
    axis = cell.point.get(place.engine) if cell is not None else None
    cache = Path(given["cache"]).expanduser()
    request = LaunchRequest(
        cell=place.cell,
        reference=given["reference"] or place.reference,
        engine=place.engine,
        version=given["engine_version"] or (axis.version if axis is not None else None),
        target=target,
        platform=platform,
        card_bytes=int(memory * (1 << 30)),
        system_share=system_share(target),
        wanted=_wanted(place, given["models"], given["profiles"]),
        context=given["context"],
        requests=given["requests"],
        keep_fraction=given["keep_fraction"],
        port=given["port"],
        listen=given["listen"],
        gpu=given["gpu"],
        gpu_resource=given["gpu_resource"],
        cache=str(cache),
        user=owner_of(cache),
        metrics=form == "compose" and not given["no_metrics"],
        strict=given["strict"],
        extra=extra_flags(given["sets"]),
        env=extra_env(given["envs"]),
    )
    claims = [one for one in all_claims(place.root) if one.image in ("", place.image)]
    finder = ModelFiles(resources.find("knowledge", "models.yaml", place.root), cache=cache, offline=given["offline"])
    # A record that was edited counts nowhere.
    records = known_records(files, plan)
    cells = [cell] if cell is not None else []
    records += predictions(files, plan, cells, target, records, offline=given["offline"])
    return launch(request, place.knowledge, claims, records, finder)


def _platform(cell: Cell | None, plan: Plan, target: str) -> Platform:
    """Return the platform of the machines that a deployment is for: the cell's, else this machine's if the GPU allows.

    Raises:
        UsageError: the GPU does not come with the cell's platform.
    """
    from assay.cli.predicting import platforms_for

    there = plan.project.matrix.targets[target].platforms or ()
    if cell is None:
        return min(platforms_for(plan.project.matrix, target))
    if cell.platform in there:
        return cell.platform
    others = [one.id for one in plan.cells if one.id.startswith(cell.id) and one.platform in there]
    raise UsageError(
        f"{cell.id} is for {cell.platform}, and {beside(target)} comes with {' and '.join(there)}",
        hint=f"the same for that platform: {others[0]}" if others else "name a cell for that platform: `assay plan`",
    )


def _wanted(place: ServerPlace, models: tuple[str, ...], profiles: tuple[str, ...]) -> list[Any]:
    from assay.pipeline.launch import LaunchTarget

    if not models and not profiles:
        raise UsageError("name a --model, a --profile, or both")
    count = max(len(models), len(profiles))
    if len(models) not in {0, 1, count} or len(profiles) not in {0, 1, count}:
        raise UsageError(
            f"{len(models)} models and {len(profiles)} profiles: give one profile for all, or one for each model"
        )
    wanted: list[LaunchTarget] = []
    for number in range(count):
        model = models[min(number, len(models) - 1)] if models else None
        profile = profiles[min(number, len(profiles) - 1)] if profiles else None
        folder = Path(model).expanduser() if model else None
        is_folder = folder is not None and folder.is_dir()
        wanted.append(
            LaunchTarget(
                profile_name=profile or "",
                profile=profile_named(place, profile),
                model=str(folder.resolve()) if is_folder and folder else model,
                folder=str(folder.resolve()) if is_folder and folder else None,
            )
        )
    return wanted


def _say(deployment: Deployment, *, notes: bool) -> None:
    from assay.serving.deploy import secrets_of

    for note in deployment.notes if notes else ():
        console.say(note)
    if names := secrets_of(deployment):
        console.warn(
            f"{', '.join(names)}: the output contains this secret; leave it out here and set it where the server runs "
            "(an env_file, a Secret with secretKeyRef)"
        )
    if deployment.plan is None:
        return
    console.say("memory, GiB: server, weights, cache, tokens in it, the rest, total, fraction")
    for row in deployment.plan.table():
        console.say("  " + "  ".join(row))

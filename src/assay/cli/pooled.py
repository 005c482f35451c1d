"""Runs on pools, as commands show them: planned, watched, detached from, collected."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from assay.cli import console
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import ProbeRecord
    from assay.matrix.plan import Plan
    from assay.pipeline.pooled import Coordinator
    from assay.pipeline.pooled_values import Board
    from assay.pipeline.probe import ProbeOptions
    from assay.pipeline.probe_record import ProbeSubject
    from assay.ports.pools import PoolRun, ProbePool

__all__ = ["PoolRequest", "coordinating", "pool_options", "probe_on"]

_INTERRUPTED: Final = 130
_TELL_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """Where probes go, and how long this process stays with them."""

    pool: str
    models: tuple[str, ...] = ()
    detach: bool = False
    run: str | None = None
    render: Path | None = None
    interpreter: str | None = None


def pool_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of runs on pools; the command gets them as `request`, None without `--on`."""

    @wraps(command)
    def wrapper(
        *,
        on: str | None,
        models: tuple[str, ...],
        detach: bool,
        run: str | None,
        render: Path | None,
        interpreter: str | None,
        **rest: Any,
    ) -> int:
        if on is None and (models or detach or run or render):
            raise UsageError("--gpu, --detach, --run and --render belong to --on POOL")
        request = PoolRequest(
            pool=on or "", models=models, detach=detach, run=run, render=render, interpreter=interpreter
        )
        return command(request=request if on else None, interpreter=interpreter, **rest)

    for option in (
        click.option(
            "--render",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Write what would be submitted; submit nothing (--on).",
        ),
        click.option("--run", metavar="NAME", help="Name of the run; the name of an existing run resumes it (--on)."),
        click.option("--detach", is_flag=True, help="Submit and return; `assay collect` records the results (--on)."),
        click.option("--gpu", "models", multiple=True, metavar="PRODUCT", help="Use this GPU (--on; repeatable)."),
        click.option("--on", metavar="POOL", help="Run on a pool of pools.yaml instead of this machine."),
    ):
        wrapper = option(wrapper)
    return wrapper


class _Teller:
    """Tells how far a run is, when that has changed."""

    def __init__(self, run: str, total: int) -> None:
        self._run, self._total = run, total
        self._told = ""
        self._at = 0.0

    def __call__(self, board: Board) -> None:
        lost = f", {board.lost} not measured" if board.lost else ""
        again = f", {board.retried} submitted again" if board.retried else ""
        words = f"{board.done} of {self._total} done{lost}, {board.running} running, {board.waiting} waiting{again}"
        moment = time.monotonic()
        if words != self._told and moment - self._at > _TELL_SECONDS:
            self._told, self._at = words, moment
            console.say(f"{self._run}: {words}")


@contextmanager
def coordinating(files: ProjectFiles, plan: PoolRun, pool: ProbePool) -> Iterator[Coordinator]:
    """Give what brings the jobs of a run home, with the run's folder open."""
    from assay.adapters.files.pool_runs import FilePoolBook, PoolRuns
    from assay.cli.composition import store_of
    from assay.cli.pool_composition import pool_suite
    from assay.cli.probe_composition import cause_of_probe
    from assay.pipeline.pooled import Coordinator
    from assay.pipeline.pooled_probes import PoolRecorder
    from assay.pipeline.pooled_values import PoolLimits

    store = store_of(files)
    suite, known = pool_suite(PoolRuns(store.root).suite(plan.run))
    given = files.pools().pools.get(plan.pool)
    limits = PoolLimits(attempts=given.attempts, patience=given.patience) if given else PoolLimits()
    with store.named_run(plan.run) as folder:
        book = FilePoolBook(folder)
        recorder = PoolRecorder(
            store=store,
            book=book,
            known=known,
            diagnose=lambda text: cause_of_probe(text, files.root),
            say=console.say,
        )
        show = _Teller(plan.run, len(plan.jobs))
        yield Coordinator(pool, plan, book, suite=suite, record=recorder, limits=limits, say=console.say, show=show)


def probe_on(
    here: tuple[ProjectFiles, Plan], select: tuple[str, ...], options: ProbeOptions, request: PoolRequest
) -> tuple[list[ProbeRecord], int]:
    """Probe on a pool; return the records and the exit code.

    Args:
        here: the project and its plan.
    """
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of
    from assay.cli.pool_composition import pool_suite, probe_pool

    files, plan = here
    pool = probe_pool(files, request.pool, interpreter=request.interpreter)
    made = _planned(files, plan, select, options, request)
    if request.render is not None:
        zipped, _ = pool_suite(PoolRuns(store_of(files).root).suite(made.run))
        return [], _rendered(pool, made, zipped, request.render)
    console.say(f"{made.run}: {len(made.jobs)} jobs on {request.pool}")
    with coordinating(files, made, pool) as coordinator:
        code = _followed(coordinator, made, detach=request.detach)
    for end in coordinator.ends:
        if end.loss is not None:
            console.warn(f"{end.planned.cell} {end.planned.job.devices.model}: {end.words}")
    return [end.record for end in coordinator.ends if end.record is not None], code


def _followed(coordinator: Coordinator, plan: PoolRun, *, detach: bool) -> int:
    """Submit, stay until all is done, unless asked otherwise; return the exit code."""
    from assay.pipeline.pooled_probes import pooled_exit_code

    if detach:
        _detached(plan.run, coordinator.submit_all())
        return 0
    try:
        return pooled_exit_code(coordinator.run(), len(plan.jobs))
    except KeyboardInterrupt:
        _leave(coordinator, plan.run)
        return _INTERRUPTED


def _planned(
    files: ProjectFiles, plan: Plan, select: tuple[str, ...], options: ProbeOptions, request: PoolRequest
) -> PoolRun:
    """Return the jobs, written into the run's folder."""
    from assay.adapters.files.pool_runs import PoolRuns
    from assay.cli.composition import store_of
    from assay.cli.pool_composition import gpus_of
    from assay.cli.probe_composition import shipped_suite
    from assay.evidence.suite import declarations, order
    from assay.matrix.pools import chosen_gpus
    from assay.pipeline.pooled_probes import plan_run

    gpus = chosen_gpus(request.pool, gpus_of(files, request.pool), request.models)
    if options.gpus and not gpus:
        console.say(f"the pool {request.pool} has no GPU: probes that need one are not run; see `gpus` in pools.yaml")
    suite, digest = shipped_suite(files.root)
    known = declarations({path: data.decode() for path, data in suite.items() if path.startswith("features/")})
    made = plan_run(
        _subjects(files, plan, select, request),
        options,
        pool=request.pool,
        suite=digest,
        chosen=order(known, options.features),
        gpus=gpus,
        run=request.run,
    )
    return PoolRuns(store_of(files).root).start(made, suite)


def _subjects(files: ProjectFiles, plan: Plan, select: tuple[str, ...], request: PoolRequest) -> list[ProbeSubject]:
    """Return what is probed: by the registry's digest, or, on this machine, what is here."""
    from assay.cli.composition import store_of
    from assay.cli.probe_composition import probe_flow
    from assay.cli.registry_composition import digest_of_image
    from assay.matrix.pools import LocalPool
    from assay.pipeline.pooled_probes import registry_subjects
    from assay.pipeline.probe_subjects import environment, subjects_of

    pools, store = files.pools(), store_of(files)
    entry = pools.pool(request.pool)
    if isinstance(entry, LocalPool):
        _, executor = probe_flow(files.root, say=console.say, where=entry.executor, interpreter=request.interpreter)
        if entry.executor == "local":
            return environment(select, executor)
        return subjects_of(select, plan, store, executor, warn=console.warn)
    staging = plan.project.matrix.policy.repositories.staging_of

    def repository(image: str) -> str:
        return pools.registry.replace("{image}", image) if pools.registry else staging(image)

    def digest(reference: str) -> str:
        return digest_of_image(reference, patient=False)

    return registry_subjects(select, plan, store, repository=repository, digests=digest, warn=console.warn)


def _rendered(pool: ProbePool, plan: PoolRun, suite: bytes, folder: Path) -> int:
    """Write what would be submitted."""
    from assay.adapters.files.records import write_whole
    from assay.ports.pools import Submission

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="name a new folder")
    jobs = [Submission(job=item.job, suite=suite) for item in plan.jobs]
    for path, data in pool.render(jobs).items():
        write_whole(folder / path, data, mode=0o755 if path.endswith(".sh") else 0o644)
    console.say(f"{plan.run}: {len(jobs)} jobs written to {folder}; nothing is submitted")
    console.say(f"when they have run: assay collect {plan.run}, or with their results in a folder: --from FOLDER")
    return 0


def _detached(run: str, left: int) -> None:
    console.say(f"{run}: detached; `assay jobs` shows the jobs, `assay collect {run}` records the results")
    if left:
        console.say(f"{run}: the pool has no room for {left} jobs yet; run the same command again to submit them")


def _leave(coordinator: Coordinator, run: str) -> None:
    """Ask after Ctrl-C whether the jobs continue; without a terminal they do."""
    if console.at_terminal(sys.stdin, sys.stderr):
        words = f"\n{coordinator.open} jobs are open. Detach from them, or cancel them?"
        choice = click.prompt(words, type=click.Choice(["detach", "cancel"]), default="detach", err=True)
        if choice == "cancel":
            coordinator.cancel()
            coordinator.give_up()
            console.say(f"{run}: cancelled; what was measured is recorded")
            return
    _detached(run, 0)

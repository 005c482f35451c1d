"""Starting a server and waiting until it is well: shared by serve-check and bench."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from assay import __version__
from assay.diagnose import examine
from assay.diagnose.model import Stage
from assay.engines.engine import ServingEngine
from assay.engines.knowledge import EngineFlags
from assay.engines.logs import Chosen
from assay.engines.table import engine_named
from assay.errors import EngineError, UsageError
from assay.evidence.record import SHARED_GPU, ServeRecord, ServeStatus, now
from assay.foundation.secret import hide
from assay.ports.api import ApiClient
from assay.ports.engine import Bind, Gpus
from assay.ports.jobs import Place
from assay.ports.server import RunningServer, ServerFacts, ServerJob, read_output, running_server
from assay.ports.task import LOCAL, Network, TaskHost
from assay.serving.command import ServerCommand
from assay.serving.helptext import HelpOption, parse_help

__all__ = [
    "Later",
    "ServerFailure",
    "Started",
    "chosen_by",
    "container_job",
    "diagnosed",
    "engine_version",
    "job_of",
    "local_job",
    "others_on_gpu",
    "serve_record",
    "server_help",
    "started",
    "wait_until_healthy",
]

_POLL_SECONDS: Final = 0.25
_HEALTH_TIMEOUT: Final = 5.0
_SAY_EVERY: Final = 10.0
_OTHERS_BYTES: Final = 2 << 30
"""More memory than a desktop holds on a GPU: where it is in use before a server starts, another process computes."""
_CACHE: Final = "/assay-cache/huggingface"


@dataclass(frozen=True, kw_only=True)
class Started:
    """What came of starting a server."""

    server: RunningServer
    status: ServeStatus
    """OK once it answers health; CRASHED or TIMED_OUT otherwise."""
    seconds: float
    reason: str = ""


def engine_version(facts: ServerFacts, engine: EngineFlags) -> str:
    """Return the engine's version where the server runs.

    Raises:
        UsageError: the engine is not installed there.
    """
    version = facts.packages.get(engine.package)
    if version is None:
        raise UsageError(
            f"{engine.package} is not installed there", hint="name the engine with --engine, or another image"
        )
    return version


def local_job(*, port: int | None = None, cache: Path | None = None) -> ServerJob:
    """Return the job of a server in a Python environment of this machine, before its command is known."""
    env = {} if cache is None else {"HF_HOME": str(cache)}
    return ServerJob(run=LOCAL, place=Place(reference=LOCAL), port=port, env=env)


def container_job(
    image: str,
    *,
    run: str,
    gpus: Gpus = "all",
    network: Network = "auto",
    port: int | None = None,
    cache: Path | None = None,
    model: Path | None = None,
    mounts: Sequence[Bind] = (),
) -> ServerJob:
    """Return the job of a server in a container of an image, before its command is known.

    Args:
        image: a reference.
        run: the run it belongs to.
        gpus: those that it gets.
        network: how it is reached.
        port: on this machine; None: a free one.
        cache: a Hugging Face cache of this machine that the container may use and fill.
        model: a model folder of this machine, given under the same path, read-only.
        mounts: other folders of this machine.
    """
    own = [Bind(source=str(cache), target=_CACHE, read_only=False)] if cache is not None else []
    own += [Bind(source=str(model), target=str(model))] if model is not None else []
    # An engine refuses two mounts at one place; what the user mounts there wins.
    theirs = {bind.target for bind in mounts}
    return ServerJob(
        run=run,
        place=Place(reference=image),
        gpus=gpus,
        network=network,
        port=port,
        mounts=(*mounts, *(bind for bind in own if bind.target not in theirs)),
        env={"HF_HOME": _CACHE} if cache is not None else {},
    )


def job_of(
    base: ServerJob, command: ServerCommand, *, digest: str | None, start_seconds: float, stop_seconds: float
) -> ServerJob:
    """Return the job that starts a command.

    Args:
        base: where it runs, and with what.
        command: the server's.
        digest: of the image, as it was read there.
        start_seconds: until it is healthy.
        stop_seconds: from SIGTERM until it is killed.
    """
    # Not `model_copy`: all of it is checked, as if it came from elsewhere.
    return ServerJob.model_validate(
        {
            **base.model_dump(),
            "place": {"reference": base.place.reference, "digest": digest},
            "argv": tuple(command.argv()),
            "env": {**base.env, **command.env},
            "ports_beside": engine_named(command.engine.name).ports_beside,
            "health": command.engine.health,
            "limits": {"shm_bytes": command.shm},
            "deadlines": {"start_seconds": start_seconds, "stop_seconds": stop_seconds},
        }
    )


def serve_record(
    command: ServerCommand, facts: ServerFacts, *, run: str, cell: str, image: str, executor: str, profile: str = ""
) -> ServeRecord:
    """Return the record of a server that was not started yet.

    Args:
        command: the server's.
        facts: read where it runs.
        run: the name of its folder in build_logs/.
        cell: the cell or image reference.
        image: the recipe, or empty.
        executor: the name of its host.
        profile: the name of the profile, or empty.
    """
    return ServeRecord(
        created=now(),
        run=run,
        cell=cell,
        image=image,
        image_digest=facts.image_digest,
        platform=facts.platform,
        assay_version=__version__,
        engine=command.engine.name,
        executor=executor,
        profile=profile,
        model=command.model,
        argv=tuple(command.told.argv()),
        env=dict(command.told.env),
        status=ServeStatus.ABORTED,
        flag_findings=(*command.notes, *(finding.message for finding in command.findings)),
        devices=facts.devices,
        packages=dict(facts.packages),
    )


def server_help(
    host: TaskHost,
    job: ServerJob,
    engine: EngineFlags,
    program: tuple[str, ...],
    *,
    env: Mapping[str, str],
    timeout: float = 300.0,
) -> tuple[Mapping[str, HelpOption], str]:
    """Return the options in the server's help, and the text, or the reason why there are none."""
    answer = read_output(host, job, [*(program or engine.command), *engine.help], env=env, timeout=timeout)
    options = parse_help(answer.text)
    if not options and not program and engine.help_without_driver:
        other = read_output(host, job, engine.help_without_driver, env=env, timeout=timeout)
        if options := parse_help(other.text):
            return options, other.text
    return options, answer.text


class Later:
    """Holds a server's log beyond the server's end."""

    def __init__(self) -> None:
        self.text = ""

    def keep(self, text: str) -> None:
        """Take the log."""
        self.text = text


@contextmanager
def started(
    host: TaskHost,
    client: ApiClient,
    job: ServerJob,
    command: ServerCommand,
    *,
    say: Callable[[str], None],
    keep: Callable[[str], None],
) -> Iterator[Started]:
    """Start the server of a job and wait until it answers health, it ends, or its time to start is over.

    The server is gone when the context ends, also by Ctrl-C, and `keep` has been given its whole log, without the
    secrets of `command`.
    """
    began = time.monotonic()
    with running_server(host, job) as server:
        try:
            yield wait_until_healthy(server, client, job, began=began, say=say)
        finally:
            keep(command.redacted(server.log(), os.environ))


def wait_until_healthy(
    server: RunningServer, client: ApiClient, job: ServerJob, *, began: float, say: Callable[[str], None]
) -> Started:
    """Return how a started server came up: it answers health, it ended, or its time to start is over.

    Args:
        server: was started.
        client: asks it.
        job: names the path to ask, and the time.
        began: when it was started, `time.monotonic()`.
        say: shows progress.
    """
    health, patience = job.health, job.deadlines.start_seconds
    told, said = 0.0, ""
    while True:
        passed = time.monotonic() - began
        if not server.running():
            ended = server.stop(grace=0)
            reason = f"the server ended with {ended} before it was healthy"
            return Started(server=server, status=ServeStatus.CRASHED, seconds=passed, reason=reason)
        try:
            reply = client.call("GET", server.base + health, timeout=_HEALTH_TIMEOUT)
        except EngineError:
            if server.running():
                raise
            continue  # it ended since it was looked at, and its port with it
        if reply.status == 200:
            return Started(server=server, status=ServeStatus.OK, seconds=time.monotonic() - began)
        if passed > patience:
            answer = f"HTTP {reply.status}" if reply.status else (reply.error or "nothing")
            reason = f"the server was not healthy within {patience:g} s; {health} last gave: {answer}"
            return Started(server=server, status=ServeStatus.TIMED_OUT, seconds=passed, reason=reason)
        if passed - told >= _SAY_EVERY:
            told, line = passed, hide(_last_line(server.log()))
            say(f"waiting for the server, {passed:.0f} s" + (f": {line}" if line != said else ""))
            said = line
        time.sleep(_POLL_SECONDS)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:140] if lines else "no output yet"


class ServerFailure(NamedTuple):
    """Why a server ended or did not become healthy."""

    cause: str | None
    """An entry of knowledge/failures/."""
    words: str
    """For a person: cause, fix and evidence; starts with a semicolon."""
    status: ServeStatus


def others_on_gpu(host: TaskHost, facts: ServerFacts) -> str:
    """Return the note of a record on a GPU that another process uses before a server starts; empty if none does."""
    used = host.gpu_memory_bytes([device.uuid for device in facts.devices]) or 0
    held = f"{used / 2**30:.1f} GiB in use before the server started"
    return f"{SHARED_GPU} ({held}): times are not those of the image alone" if used >= _OTHERS_BYTES else ""


def diagnosed(log: str, status: ServeStatus) -> ServerFailure:
    """Return what a server's log says of its failure.

    A log that speaks for no known cause gives the line that looks most like a failure, if there is one.

    status: what came of the server. A cause beside the image makes it inconclusive.
    """
    report = examine(log.encode(), stage=Stage.SERVE)
    for found in report.diagnoses:
        if found.known:
            line = f" (log line {found.evidence[0].line}: {found.evidence[0].text})" if found.evidence else ""
            status = ServeStatus.INCONCLUSIVE if found.inconclusive else status
            return ServerFailure(found.cause, f"; {found.cause}: {found.fix}{line}", status)
    if report.telling:
        last = report.telling[-1]
        return ServerFailure(None, f"; no known cause; log line {last.line}: {last.text}", status)
    return ServerFailure(None, "", status)


def chosen_by(engine: ServingEngine, client: ApiClient, base: str, log: str) -> Chosen:
    """Return what the server really chose: its own account where it gives one, else its log."""
    chosen = engine.chosen_in_log(log)
    for path in engine.account_paths:
        reply = client.call("GET", base + path, timeout=_HEALTH_TIMEOUT * 4)
        if reply.status == 200:
            return chosen | engine.chosen_in_account(reply.body)
    return chosen

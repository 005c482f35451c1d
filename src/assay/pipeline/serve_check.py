"""serve-check: does a server start in an image, is its API right, and what did it choose?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from assay.engines.knowledge import Flags, ServerFlags
from assay.engines.table import engine_named
from assay.errors import UsageError
from assay.evidence.record import SHARED_GPU, ServeRecord, ServeStatus, shared_gpu
from assay.pipeline.api_answers import ApiQuestion
from assay.pipeline.api_checks import NOT_ASKED, run_checks
from assay.pipeline.serve import (
    Later,
    ServerFailure,
    Started,
    chosen_by,
    diagnosed,
    engine_version,
    job_of,
    others_on_gpu,
    serve_record,
    server_help,
    started,
)
from assay.ports.api import ApiClient
from assay.ports.models import ModelFinder
from assay.ports.server import ServerFacts, ServerJob, read_facts
from assay.ports.store import RunFolder, Store
from assay.ports.task import TaskHost
from assay.serving.bisect import smallest
from assay.serving.command import ServerCommand, prepare, with_features_off
from assay.serving.memory import CONTEXT_BYTES
from assay.serving.modelshape import shape_of
from assay.serving.profile import Profile

__all__ = ["PreparedServer", "ServeRequest", "prepared", "serve_check"]


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What is to be checked."""

    cell: str
    """The cell id or image reference under which it is recorded."""
    image: str = ""
    engine: str
    job: ServerJob
    """Where the server runs, and with what; its command is added when the place was read."""
    facts_program: Path
    """probes/probelib/facts.py."""
    profile_name: str = ""
    profile: Profile | None = None
    model: str | None = None
    extra: Flags = field(default_factory=dict)
    """Flags laid over the profile's."""
    env: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ()
    as_written: bool = False
    """Take the profile's flags word for word; a wrong one refuses the start."""
    bisect: bool = False
    bisect_budget: int = 64
    models: ModelFinder | None = None
    """Finds the model's configuration, to report beforehand that it does not fit; None: nothing is reported."""
    start_timeout: float = 900.0
    request_timeout: float = 120.0
    stop_grace: float = 30.0

    def job_for(self, command: ServerCommand, facts: ServerFacts) -> ServerJob:
        """Return the job that starts a command where the facts were read."""
        return job_of(
            self.job,
            command,
            digest=facts.image_digest,
            start_seconds=self.start_timeout,
            stop_seconds=self.stop_grace,
        )


@dataclass(frozen=True, kw_only=True)
class PreparedServer:
    """A command that is ready, and what was read where it will run."""

    command: ServerCommand
    facts: ServerFacts
    help_read: bool
    help_text: str


def prepared(
    host: TaskHost, knowledge: ServerFlags, request: ServeRequest, say: Callable[[str], None]
) -> PreparedServer:
    """Read the place, its server's help, and make the command for it.

    Raises:
        UsageError: the engine is not there, or no model is named.
        EngineError: the place cannot be used.
    """
    facts = read_facts(host, request.job, request.facts_program)
    engine = knowledge.engines[request.engine]
    version = engine_version(facts, engine)
    say(f"{request.engine} {version}; reading its --help")
    options, text = server_help(host, request.job, engine, request.program, env=request.env)
    if not options:
        say(f"its help could not be read: {' '.join(text.split())[:200] or 'it said nothing'}")
    command = prepare(
        engine,
        version,
        request.profile,
        model=request.model,
        extra=request.extra,
        options=options or None,
        as_written=request.as_written,
        program=request.program,
    )
    for note in command.notes:
        say(note)
    for finding in command.findings:
        say(("wrong flag: " if finding.fatal else "note: ") + finding.message)
    command = replace(command, env={**command.env, **request.env})
    _fits(request, command, facts, say)
    return PreparedServer(command=command, facts=facts, help_read=bool(options), help_text=text)


def _fits(request: ServeRequest, command: ServerCommand, facts: ServerFacts, say: Callable[[str], None]) -> None:
    """Refuse a model whose weights alone are more than the cards it is to be spread over."""
    if request.models is None:
        return
    found = request.models.find(command.model)
    if found is None:
        say(f"{command.model} is not a folder, not in the Hugging Face cache or on the hub; the server must find it")
        return
    if not facts.devices:
        return
    shape = shape_of(found.config, weight_bytes=found.weight_bytes)
    parallel = engine_named(request.engine).memory.parallel
    asked = next((command.flags[name] for name in parallel if name in command.flags), "1")
    count = int(asked) if isinstance(asked, str) and asked.isdigit() else 1
    there = sum(sorted((device.memory_bytes for device in facts.devices), reverse=True)[:count])
    needed = shape.weight_bytes + count * CONTEXT_BYTES
    if needed > there:
        raise UsageError(
            f"{command.model} does not fit: its weights are {shape.weight_bytes / 2**30:.1f} GiB, and "
            f"{facts.devices[0].name} has {there / 2**30:.1f} GiB",
            hint="a model in 4 bits, or more cards with --set tensor-parallel-size=2",
        )


def serve_check(
    host: TaskHost,
    client: ApiClient,
    knowledge: ServerFlags,
    store: Store,
    request: ServeRequest,
    *,
    say: Callable[[str], None],
) -> ServeRecord:
    """Start the server, check it, stop it, and keep the record and the log.

    Raises:
        UsageError: the engine is not there, or no model is named.
        EngineError: the place cannot be used.
    """
    with store.new_run() as run:
        ready = prepared(host, knowledge, request, say)
        scene = _Scene(host=host, client=client, request=request, facts=ready.facts, run=run, say=say)
        run.write("help.txt", ready.help_text.encode())
        record = _base(scene, ready)
        wrong = tuple(finding for finding in ready.command.findings if finding.fatal)
        try:
            if wrong:
                reason = "; ".join(finding.message for finding in wrong)
                record = record.model_copy(update={"status": ServeStatus.REFUSED, "reason": reason, "starts": 0})
            else:
                record = scene.attempt(ready.command, record, "server.log")
                if request.bisect and record.status in {ServeStatus.CRASHED, ServeStatus.TIMED_OUT}:
                    record = scene.bisected(ready.command, record)
        except KeyboardInterrupt:
            log = f"{run.name}/server.log"
            aborted = {"status": ServeStatus.ABORTED, "reason": "interrupted", "log": log}
            store.append(record.model_copy(update=aborted))
            raise
        store.append(record)
        return record


def _base(scene: _Scene, ready: PreparedServer) -> ServeRecord:
    request = scene.request
    record = serve_record(
        ready.command,
        ready.facts,
        run=scene.run.name,
        cell=request.cell,
        image=request.image,
        executor=scene.host.name,
        profile=request.profile_name,
    )
    unread = "the server's --help could not be read; its flags were checked against knowledge/server_flags.yaml alone"
    notes = ("" if ready.help_read else unread, others_on_gpu(scene.host, ready.facts))
    return record.model_copy(update={"notes": tuple(note for note in notes if note)})


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """Everything that stays the same over the starts of one check."""

    host: TaskHost
    client: ApiClient
    request: ServeRequest
    facts: ServerFacts
    run: RunFolder
    say: Callable[[str], None]

    def attempt(self, command: ServerCommand, record: ServeRecord, log_name: str) -> ServeRecord:
        """Start once and check; the log is kept on every path, Ctrl-C too."""
        self.say(f"starting {self.request.engine} with {command.model}")
        job, log = self.request.job_for(command, self.facts), Later()
        try:
            with started(self.host, self.client, job, command, say=self.say, keep=log.keep) as start:
                record = record.model_copy(update={"log": f"{self.run.name}/{log_name}"})
                if start.status is not ServeStatus.OK:
                    return self._not_started(record, start)
                return self._checked(command, record, start)
        finally:
            self.run.write(log_name, log.text.encode())

    def _not_started(self, record: ServeRecord, start: Started) -> ServeRecord:
        ended = start.server.stop(grace=self.request.stop_grace)
        failure = diagnosed(start.server.log(), start.status)
        reason = start.reason + failure.words
        if failure.status is ServeStatus.TIMED_OUT and shared_gpu(record):
            failure = failure._replace(status=ServeStatus.INCONCLUSIVE)
            reason = f"{SHARED_GPU}: {reason}"
        self.say(reason)
        return record.model_copy(
            update={
                "start_seconds": round(start.seconds, 3),
                "status": failure.status,
                "reason": reason,
                "cause": failure.cause,
                "stopped": str(ended),
            }
        )

    def _checked(self, command: ServerCommand, record: ServeRecord, start: Started) -> ServeRecord:
        request, server = self.request, start.server
        self.say(f"healthy after {start.seconds:.1f} s")
        engine = engine_named(request.engine)
        told = engine.chosen_in_log(server.log())
        chunk, pool = told.get("prefill_chunk"), told.get("kv_cache_tokens")
        asked = ApiQuestion(
            base=server.base,
            model=command.served_name,
            engine=engine,
            health=command.engine.health,
            timeout=request.request_timeout,
            chunk=int(chunk) if chunk else None,
            pool=int(pool) if pool else None,
        )
        checks = run_checks(self.client, asked, metrics=command.metrics, alive=server.running, progress=self.say)
        chosen = chosen_by(engine, self.client, server.base, server.log())
        alive = server.running()
        ended = server.stop(grace=request.stop_grace)
        failed = [check for check in checks if not check.passed]
        reasons = [f"{check.name}: {check.detail}" for check in failed if not check.detail.startswith(NOT_ASKED)]
        failure = ServerFailure(None, "", ServeStatus.FAILED)
        if not alive:
            failure = diagnosed(server.log(), failure.status)
            reasons.insert(0, f"the server died while it was checked ({ended}){failure.words}")
        elif ended.forced:
            if not reasons and shared_gpu(record):
                failure = failure._replace(status=ServeStatus.INCONCLUSIVE)
            reasons.append(f"it did not stop within {request.stop_grace:g} s of SIGTERM")
        return record.model_copy(
            update={
                "start_seconds": round(start.seconds, 3),
                "status": failure.status if reasons else ServeStatus.OK,
                "reason": "; ".join(reasons),
                "cause": failure.cause,
                "checks": checks,
                "chosen": chosen,
                "stopped": str(ended),
                "stop_seconds": round(ended.seconds, 3),
            }
        )

    def bisected(self, command: ServerCommand, record: ServeRecord) -> ServeRecord:
        """Find the fewest features that have to be off for the server to become healthy, and check that server."""
        features = [name for name in command.engine.features if with_features_off(command, [name]) != command]
        tried = 0

        def works(off: frozenset[str]) -> bool:
            nonlocal tried
            if not off:
                return False
            tried += 1
            self.say(f"try {tried}: without {', '.join(sorted(off))}")
            return self._starts(with_features_off(command, off), f"bisect-{tried:02d}.log")

        found = smallest(features, works, budget=self.request.bisect_budget)
        notes = [*record.notes, f"the start as asked: {record.reason}"]
        if found.changes is None:
            notes.append("switching off every feature that assay knows does not make it start")
            return record.model_copy(update={"starts": 1 + tried, "notes": tuple(notes)})
        if not found.proven:
            notes.append("each of these is required; a smaller set was not ruled out")
        self.say(f"it starts without {', '.join(found.changes)}; checking that server")
        changed = with_features_off(command, found.changes)
        fixed = record.model_copy(update={"argv": tuple(changed.told.argv()), "env": dict(changed.told.env)})
        result = self.attempt(changed, fixed, "server-needed.log")
        return result.model_copy(
            update={"needed": found.changes, "starts": 2 + tried, "cause": record.cause, "notes": tuple(notes)}
        )

    def _starts(self, command: ServerCommand, log_name: str) -> bool:
        job, log = self.request.job_for(command, self.facts), Later()
        try:
            with started(self.host, self.client, job, command, say=self.say, keep=log.keep) as start:
                start.server.stop(grace=self.request.stop_grace)
                self.say(f"  {start.status}")
                return start.status is ServeStatus.OK
        finally:
            self.run.write(log_name, log.text.encode())

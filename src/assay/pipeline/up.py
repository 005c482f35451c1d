"""Serve a model now: start a server that stays, wait until it is healthy, and ask it two questions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assay.engines.table import engine_named
from assay.evidence.record import ServeCheck, ServeRecord, ServeStatus
from assay.foundation.strict import Value
from assay.pipeline.api_answers import PROMPT, ApiQuestion, Refused, Wrong, choice_of, document_of, need
from assay.pipeline.serve import Started, chosen_by, diagnosed, serve_record, wait_until_healthy
from assay.ports.api import ApiClient
from assay.ports.engine import Bind, Gpus
from assay.ports.jobs import Place
from assay.ports.server import ServerDeadlines, ServerFacts, ServerJob, ServerLimits
from assay.ports.services import KeptServer, Services
from assay.ports.store import RunFolder, Store
from assay.serving.deploy import CACHE, Service

__all__ = ["Served", "UpAnswer", "UpRequest", "bring_up", "kept_job"]

_TOKENS: Final = 24
_GRACE: Final = 30.0
_SAMPLED: Final = {"temperature": 0.8, "top_p": 0.9}


@dataclass(frozen=True, kw_only=True)
class UpRequest:
    """A server to bring up."""

    service: Service
    facts: ServerFacts
    """Read in the image, before the start."""
    cell: str
    image: str
    """The recipe, or empty."""
    gpus: Gpus
    start_timeout: float
    request_timeout: float


class UpAnswer(Value):
    """How the server answered one request."""

    name: str
    path: str
    """The path of the API that was asked."""
    passed: bool
    text: str
    """The answer, or why there is none."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Served:
    """What came of it."""

    record: ServeRecord
    base: str
    answers: tuple[UpAnswer, ...]

    @property
    def ok(self) -> bool:
        """Whether the server runs and answered both requests."""
        return self.record.status is ServeStatus.OK


def kept_job(request: UpRequest) -> ServerJob:
    """Return the job that starts the server of a deployment."""
    service = request.service
    model = [Bind(source=service.folder, target=service.folder)] if service.folder else []
    return ServerJob(
        run="up",
        name=service.name,
        place=Place(reference=service.image, digest=request.facts.image_digest),
        argv=tuple(service.command.argv()),
        port=service.port,
        env=service.env,
        mounts=(Bind(source=service.cache, target=CACHE, read_only=False), *model),
        user=service.user or None,
        gpus=request.gpus,
        health=service.command.engine.health,
        limits=ServerLimits(shm_bytes=service.command.shm),
        deadlines=ServerDeadlines(start_seconds=request.start_timeout, stop_seconds=_GRACE),
        labels={
            "assay.up.model": service.command.model,
            "assay.up.cell": request.cell,
            "assay.up.engine": service.command.engine.name,
            "assay.up.health": service.command.engine.health,
            "assay.up.served": service.command.served_name,
        },
    )


def bring_up(
    services: Services, client: ApiClient, store: Store, request: UpRequest, *, say: Callable[[str], None]
) -> Served:
    """Start the server, wait, ask, and keep a record; a server that does not become healthy is removed.

    Raises:
        EngineError: the image is not there, the port is in use, or the engine refuses.
        GpuMissing: the engine cannot give a GPU to a container.
    """
    command = request.service.command
    job = kept_job(request)
    with store.new_run() as run:
        server = services.start(job)
        kept = next(one for one in services.servers() if one.name == job.name)
        try:
            start = wait_until_healthy(server, client, job, began=time.monotonic(), say=say)
        except BaseException:
            # Interrupted before it served: nobody knows of it, and it would hold the card.
            _end(services, kept, run, command.redacted)
            raise
        record = _record(request, run, start)
        if start.status is not ServeStatus.OK:
            log = server.log()
            _end(services, kept, run, command.redacted)
            failure = diagnosed(log, start.status)
            record = record.model_copy(
                update={
                    "cause": failure.cause,
                    "reason": start.reason + failure.words,
                    "status": failure.status,
                }
            )
            store.append(record)
            return Served(record=record, base=server.base, answers=())
        say(f"healthy after {start.seconds:.0f} s; asking it; the first answers may compile kernels for minutes")
        asked = ApiQuestion(
            base=server.base, model=command.served_name, engine=engine_named(command.engine.name),
            health=command.engine.health, timeout=request.request_timeout,
        )  # fmt: skip
        answers = _answers(client, asked)
        run.write("server.log", command.redacted(server.log(), os.environ).encode())
        failed = [f"{one.name}: {one.text}" for one in answers if not one.passed]
        record = record.model_copy(
            update={
                "status": ServeStatus.FAILED if failed else ServeStatus.OK,
                "reason": "; ".join(failed),
                "chosen": chosen_by(asked.engine, client, server.base, server.log()),
                "checks": tuple(
                    ServeCheck(name=one.name, passed=one.passed, detail=one.text[:200], seconds=one.seconds)
                    for one in answers
                ),
            }
        )
        store.append(record)
        return Served(record=record, base=server.base, answers=answers)


def _end(services: Services, kept: KeptServer, run: RunFolder, redacted: Callable[..., str]) -> None:
    try:
        run.write("server.log", redacted(services.log(kept), os.environ).encode())
    finally:
        services.remove(kept, grace=_GRACE)


def _record(request: UpRequest, run: RunFolder, start: Started) -> ServeRecord:
    record = serve_record(
        request.service.command,
        request.facts,
        run=run.name,
        cell=request.cell,
        image=request.image,
        executor="docker",
    )
    return record.model_copy(
        update={
            "status": start.status,
            "reason": start.reason,
            "start_seconds": round(start.seconds, 3),
            "log": f"{run.name}/server.log",
            "notes": ("assay up: two requests were sent; serve-check asks more",),
        }
    )


def _answers(client: ApiClient, asked: ApiQuestion) -> tuple[UpAnswer, ...]:
    """Ask once greedily and once with sampling: as a chat if the model has a chat template, else as a completion."""
    path = "/v1/chat/completions"
    greedy = _ask(client, asked, "greedy", path, {"temperature": 0})
    if not greedy.passed and "HTTP 4" in greedy.text:
        path = "/v1/completions"
        greedy = _ask(client, asked, "greedy", path, {"temperature": 0})
    return greedy, _ask(client, asked, "sampled", path, _SAMPLED)


def _ask(client: ApiClient, asked: ApiQuestion, name: str, path: str, parameters: Mapping[str, Any]) -> UpAnswer:
    chat = path.endswith("chat/completions")
    question: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": PROMPT}
    body = {"model": asked.model, "max_tokens": _TOKENS, **question, **parameters}
    reply = client.call("POST", asked.base + path, body=body, timeout=asked.timeout)
    try:
        text = _text(choice_of(document_of(reply)))
    except (Refused, Wrong) as error:
        return UpAnswer(name=name, path=path, passed=False, text=str(error), seconds=reply.seconds)
    return UpAnswer(name=name, path=path, passed=True, text=text, seconds=reply.seconds)


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    said: Sequence[Any] = (
        [message.get("content"), message.get("reasoning_content"), message.get("reasoning")]
        if isinstance(message, Mapping)
        else [choice.get("text")]
    )
    found = next((one for one in said if isinstance(one, str) and one.strip()), None)
    need(found is not None, "the answer has no text")
    return " ".join(str(found).split())

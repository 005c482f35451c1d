"""The client of OpenAI-compatible servers: one connection per user, times taken on arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

from assay.adapters.http.exchange import Connection, HttpAnswer, request_bytes
from assay.foundation.foreign import read_json
from assay.ports.api import Reply, Stream
from assay.serving.load import LoadJob, Sample, Workload

__all__ = ["OpenAiClient"]

_END: Final = b"[DONE]"


class OpenAiClient:
    """Implements `assay.ports.api.ApiClient`. It goes to the server itself, whatever proxy the shell knows."""

    def __init__(self, *, api_key: str | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def call(self, method: str, url: str, *, body: Any = None, timeout: float) -> Reply:
        """Send one request and return the answer."""
        answer = self._asked(method, url, body, timeout, Connection(url))
        seconds = answer.ended - answer.started
        if answer.error is not None:
            return Reply(status=0, error=answer.error, seconds=seconds)
        return Reply(status=answer.status, body=answer.body(), headers=answer.headers, seconds=seconds)

    def stream(self, url: str, *, body: Any, timeout: float, events: int | None = None) -> Stream:
        """Post a request and return its stream of events; the connection is closed after so many `events`."""

        def enough(answer: HttpAnswer) -> bool:
            return events is not None and sum(1 for _ in _events(answer)) >= events

        answer = self._asked("POST", url, body, timeout, Connection(url, end_mark=_END, enough=enough))
        if answer.error is None and "event-stream" not in answer.headers.get("content-type", ""):
            return Stream(status=answer.status, body=answer.body())
        told: list[str] = []
        times: list[float] = []
        for moment, data in _events(answer):
            if data == _END:
                return Stream(status=answer.status, events=tuple(told), times=tuple(times), finished=True)
            told.append(data.decode(errors="replace"))
            times.append(moment - answer.started)
        status = 0 if answer.error is not None else answer.status
        return Stream(status=status, events=tuple(told), times=tuple(times), error=answer.error)

    def load(
        self, base: str, workload: Workload, *, timeout: float, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Sample, ...]:
        """Run the warm-up, then every job with `workload.users` at once."""
        answers = asyncio.run(self._load(base, workload, timeout, progress))
        # Only now, when nobody waits for the client: parsing an event takes it longer than taking it in.
        began = min((answer.started for answer in answers), default=0.0)
        return tuple(_sample(answer, began) for answer in answers)

    def _asked(self, method: str, url: str, body: Any, patience: float, connection: Connection) -> HttpAnswer:
        async def once() -> HttpAnswer:
            try:
                return await connection.ask(request_bytes(method, url, body, self._headers), patience)
            finally:
                connection.close()

        return asyncio.run(once())

    async def _load(
        self, base: str, workload: Workload, patience: float, progress: Callable[[int, int], None] | None
    ) -> list[HttpAnswer]:
        connections = [Connection(base, end_mark=_END) for _ in range(workload.users)]
        try:
            await self._run(connections, base, workload.warm_up, patience, None)
            return await self._run(connections, base, workload.jobs, patience, progress)
        finally:
            for connection in connections:
                connection.close()

    async def _run(
        self,
        connections: list[Connection],
        base: str,
        jobs: tuple[LoadJob, ...],
        patience: float,
        progress: Callable[[int, int], None] | None,
    ) -> list[HttpAnswer]:
        requests = [request_bytes("POST", base + job.path, job.body, self._headers) for job in jobs]
        answers: dict[int, HttpAnswer] = {}
        numbers = iter(range(len(jobs)))

        async def user(connection: Connection) -> None:
            for number in numbers:
                answers[number] = await connection.ask(requests[number], patience)
                if progress is not None:
                    progress(len(answers), len(jobs))

        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(user(connection))
        return [answers[number] for number in range(len(jobs))]


def _events(answer: HttpAnswer) -> Iterator[tuple[float, bytes]]:
    """Yield (moment, data) of each server-sent event; it came when its line was complete, and a part of one is none."""
    rest = b""
    moment = answer.ended
    for moment, piece in answer.pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield moment, line[5:].strip()
    if rest.startswith(b"data:") and rest[5:].strip() == _END:
        yield moment, _END


class _Tally:
    """What the events of one stream come to."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.ended: float | None = None
        """When the end mark came."""
        self.pieces = 0
        self.usage: dict[str, Any] | None = None
        self.error: str | None = None

    def add(self, moment: float, data: bytes) -> None:
        try:
            event = read_json(data, constants=True)
        except ValueError:
            self.error = "an event is not JSON"
            return
        if not isinstance(event, dict):
            self.error = "an event is not an object"
            return
        if event.get("error"):
            self.error = _error_text(event)
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        choices = event.get("choices")
        if not choices:
            return
        text = choices[0].get("text")
        if text is None:
            text = (choices[0].get("delta") or {}).get("content")
        # A token that decodes to nothing yet still is one; an event that only ends the stream is none.
        if text or (text is not None and choices[0].get("finish_reason") is None):
            self.pieces += 1
            if self.first is None:
                self.first = moment


def _sample(answer: HttpAnswer, began: float) -> Sample:
    tally = _Tally()
    failed = answer.error
    if answer.status == 200:
        for moment, data in _events(answer):
            if data == _END:
                tally.ended = moment
                failed = None
                break
            tally.add(moment, data)
        failed = tally.error or failed or (None if tally.ended else "the stream was cut before its end")
    elif failed is None:
        failed = f"HTTP {answer.status}: {_first_words(answer.body())}"
    usage = tally.usage or {}
    told = usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details") or {}
    return Sample(
        status=answer.status,
        started=answer.started - began,
        first=None if tally.first is None else tally.first - began,
        ended=(answer.ended if tally.ended is None else tally.ended) - began,
        tokens=told if isinstance(told, int) else tally.pieces,
        pieces=tally.pieces,
        counted=isinstance(told, int),
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=details.get("cached_tokens"),
        error=failed,
    )


def _error_text(event: dict[str, Any]) -> str:
    error = event["error"]
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]


def _first_words(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:160]

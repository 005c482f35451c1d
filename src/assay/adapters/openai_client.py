"""The client of OpenAI-compatible servers, on aiohttp: one connection per user, times taken on arrival."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from assay.ports.api import Reply, Stream
from assay.serving.load import Job, Sample, Workload

__all__ = ["OpenAiClient"]

_END: Final = b"[DONE]"
_KEPT_BODY: Final = 4 << 20


class OpenAiClient:
    """Implements `assay.ports.api.ApiClient`."""

    def __init__(self, *, api_key: str | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def call(self, method: str, url: str, *, body: Any = None, timeout: float) -> Reply:
        """Send one request and return the answer."""
        return asyncio.run(self._call(method, url, body, timeout))

    def stream(self, url: str, *, body: Any, timeout: float) -> Stream:
        """Post a request and return its stream of events."""
        return asyncio.run(self._stream(url, body, timeout))

    def load(
        self, base: str, workload: Workload, *, timeout: float, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Sample, ...]:
        """Run the warm-up, then every job with `workload.users` at once."""
        return asyncio.run(self._load(base, workload, timeout, progress))

    def _session(self, patience: float, connections: int = 4) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=patience),
            connector=aiohttp.TCPConnector(limit=connections),
            # The load must reach the server itself, whatever proxy the shell knows.
            trust_env=False,
        )

    async def _call(self, method: str, url: str, body: Any, patience: float) -> Reply:
        began = time.perf_counter()
        try:
            async with self._session(patience) as session, _request(session, method, url, body) as answer:
                content = await answer.content.read(_KEPT_BODY)
                while more := await answer.content.read(_KEPT_BODY - len(content)):
                    content += more
                return Reply(
                    status=answer.status,
                    body=content,
                    headers={name.lower(): value for name, value in answer.headers.items()},
                    seconds=time.perf_counter() - began,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Reply(status=0, error=_words(error, patience), seconds=time.perf_counter() - began)

    async def _stream(self, url: str, body: Any, patience: float) -> Stream:
        began = time.perf_counter()
        events: list[str] = []
        times: list[float] = []
        try:
            async with self._session(patience) as session, _request(session, "POST", url, body) as answer:
                if "event-stream" not in answer.headers.get("content-type", ""):
                    return Stream(status=answer.status, body=await answer.content.read(_KEPT_BODY))
                async for moment, data in _events(answer):
                    if data == _END:
                        return Stream(status=answer.status, events=tuple(events), times=tuple(times), finished=True)
                    events.append(data.decode(errors="replace"))
                    times.append(moment - began)
                return Stream(status=answer.status, events=tuple(events), times=tuple(times))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Stream(status=0, events=tuple(events), times=tuple(times), error=_words(error, patience))

    async def _load(
        self, base: str, workload: Workload, patience: float, progress: Callable[[int, int], None] | None
    ) -> tuple[Sample, ...]:
        async with self._session(patience, workload.users) as session:
            await self._run(session, base, workload.warm_up, users=workload.users, patience=patience, progress=None)
            return await self._run(
                session, base, workload.jobs, users=workload.users, patience=patience, progress=progress
            )

    async def _run(
        self,
        session: aiohttp.ClientSession,
        base: str,
        jobs: tuple[Job, ...],
        *,
        users: int,
        patience: float,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Sample, ...]:
        samples: list[Sample | None] = [None] * len(jobs)
        numbers = iter(range(len(jobs)))
        began = time.perf_counter()
        done = 0

        async def user() -> None:
            nonlocal done
            for number in numbers:
                samples[number] = await _ask(session, base, jobs[number], began, patience)
                done += 1
                if progress is not None:
                    progress(done, len(jobs))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(users, len(jobs))):
                group.create_task(user())
        return tuple(sample for sample in samples if sample is not None)


def _request(session: aiohttp.ClientSession, method: str, url: str, body: Any) -> Any:
    if isinstance(body, bytes):
        return session.request(method, url, data=body, headers={"Content-Type": "application/json"})
    return session.request(method, url, json=body)


async def _events(answer: aiohttp.ClientResponse) -> Any:
    """Yield (moment, data) of each server-sent event; one moment for all that came together."""
    rest = b""
    async for chunk in answer.content.iter_any():
        moment = time.perf_counter()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield moment, line[5:].strip()
    if rest.startswith(b"data:"):
        yield time.perf_counter(), rest[5:].strip()


async def _count(answer: aiohttp.ClientResponse, tally: _Tally) -> None:
    """Read a stream to its end mark; without generators between, which cost more here than the parsing does."""
    rest = b""
    read = answer.content.readany
    while not tally.finished:
        chunk = await read()
        if not chunk:
            break
        moment = time.perf_counter()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                tally.add(moment, line[5:].strip())


class _Tally:
    """What a stream has told so far. Most events carry one token and are counted without being parsed in full."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.pieces = 0
        self.usage: dict[str, Any] | None = None
        self.finished = False
        self.error: str | None = None

    def add(self, moment: float, data: bytes) -> None:
        if data == _END:
            self.finished = True
            return
        try:
            event = json.loads(data)
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


async def _ask(session: aiohttp.ClientSession, base: str, job: Job, began: float, patience: float) -> Sample:
    started = time.perf_counter()
    tally = _Tally()
    failed: str | None = None
    try:
        async with _request(session, "POST", base + job.path, job.body) as answer:
            if answer.status != 200:
                body = await answer.content.read(2000)
                failed = f"HTTP {answer.status}: {_first_words(body)}"
            else:
                await _count(answer, tally)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        failed = _words(error, patience)
    ended = time.perf_counter()
    if failed is None:
        failed = tally.error or (None if tally.finished else "the stream was cut before its end")
    usage = tally.usage or {}
    told = usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details") or {}
    return Sample(
        started=started - began,
        first=None if tally.first is None else tally.first - began,
        ended=ended - began,
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


def _words(error: BaseException, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {patience:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection refused"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError)):
        return "the connection was cut"
    return f"{type(error).__name__}: {error}"[:200]

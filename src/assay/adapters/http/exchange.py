"""HTTP/1.1 requests whose answers are kept piece by piece, each with the moment at which it was read.

While a load runs, nothing but the framing of HTTP is parsed: what the pieces say is read when nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

__all__ = ["Connection", "HttpAnswer", "request_bytes"]

_GRACE: Final = 1.0
"""Seconds that an answer may take to end after its stream's end mark."""
LARGEST: Final = 256 << 20
"""Bytes of the largest answer: a server that never ends must not fill the memory."""


@dataclass(kw_only=True)
class HttpAnswer:
    """What came back; times are those of `time.perf_counter`."""

    started: float
    ended: float = 0.0
    """When it was complete, or was given up."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """The body, and when each part of it was read."""
    complete: bool = False
    error: str | None = None
    """Why it is not complete."""

    def body(self) -> bytes:
        """Return what came of the body."""
        return b"".join(piece for _, piece in self.pieces)


def request_bytes(method: str, url: str, body: Any, headers: dict[str, str]) -> bytes:
    """Return a request; `body` is bytes or a JSON document, None for no body."""
    parts = urlsplit(url)
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"{method} {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Accept: */*",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


class Connection(asyncio.Protocol):
    """One connection to a server, opened when it is needed and kept as long as the server keeps it.

    Beside `ask` and `close` its methods are called by asyncio and by the parser.
    """

    def __init__(
        self, url: str, *, end_mark: bytes | None = None, enough: Callable[[HttpAnswer], bool] | None = None
    ) -> None:
        """Prepare. An answer that does not end after `end_mark` is not waited for, nor one that is `enough`."""
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._mark, self._overlap = end_mark, len(end_mark or b"") - 1
        self._enough = enough
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[str | None] | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._moment = 0.0
        self._await(HttpAnswer(started=0.0))

    def _await(self, answer: HttpAnswer) -> None:
        self._answer = answer
        self._framed = False
        self._room = LARGEST
        self._tail = b""

    async def ask(self, request: bytes, patience: float) -> HttpAnswer:
        """Send a request and return what came back within `patience` seconds; whatever goes wrong is in the answer."""
        answer = HttpAnswer(started=time.perf_counter())
        try:
            async with asyncio.timeout(patience):
                loop = asyncio.get_running_loop()
                if self._transport is None or self._transport.is_closing():
                    self._transport = None
                    self._fresh()
                    await loop.create_connection(
                        lambda: self, self._host, self._port, ssl=True if self._secure else None
                    )
                assert self._transport is not None
                self._await(answer)
                self._waiter = loop.create_future()
                self._transport.write(request)
                answer.error = await self._waiter
        except TimeoutError:
            answer.error = f"no answer within {patience:g} s"
        except ConnectionRefusedError:
            answer.error = "connection refused"
        except OSError as error:
            answer.error = f"{type(error).__name__}: {error}"[:200]
        finally:
            self._waiter = None
            if not answer.complete:
                self.close()
        if not answer.complete:
            answer.ended = time.perf_counter()
        return answer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._moment = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._settle(f"the answer is not HTTP: {error}"[:200])

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        # Without a length and without chunks, the end of the connection is the end of the answer.
        if self._answer.status != 0 and not self._framed and error is None:
            self._end(time.perf_counter())
        else:
            self._settle("the connection was cut")

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        self._answer.headers[key] = value.decode("latin-1")
        self._framed |= key in {"content-length", "transfer-encoding"}

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._answer.pieces.append((self._moment, data))
        self._room -= len(data)
        if self._room < 0:
            self._settle(f"the answer is larger than {LARGEST >> 20} MiB")
            self.close()
        if self._enough is not None and self._enough(self._answer):
            self._settle(None)
            self.close()
        if self._mark is not None:
            if self._mark in self._tail + data:
                asyncio.get_running_loop().call_later(_GRACE, self._give_up, self._answer, self._mark)
            self._tail = data[-self._overlap :]

    def on_message_complete(self) -> None:
        if self._answer.status < 200:  # an announcement; the answer follows
            self._answer.headers.clear()
            self._framed = False
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._end(self._moment)

    def _end(self, moment: float) -> None:
        self._answer.complete, self._answer.ended = True, moment
        self._settle(None)
        # Whatever comes now belongs to no request.
        self._await(HttpAnswer(started=0.0))

    def _give_up(self, answer: HttpAnswer, mark: bytes) -> None:
        # Text may hold the mark too; then it is not what the answer ends with.
        if answer is self._answer and answer.body().rstrip().endswith(mark):
            self._settle("the answer did not end after the end mark of its stream")

    def _settle(self, error: str | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(error)

"""Talking to an OpenAI-compatible server: single calls, one stream, and a load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from assay.serving.load import Sample, Workload

__all__ = ["ApiClient", "Reply", "Stream"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer; `status` 0 means that there was none, and `error` has the reason."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A streamed answer: the data of its events in order, and when each came."""

    status: int
    events: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    finished: bool = False
    """Whether the end mark `[DONE]` came."""
    body: bytes = b""
    """The answer, where it was not a stream of events."""
    error: str | None = None


class ApiClient(Protocol):
    """What assay needs to say to a server. A server that does not answer is a value, not an exception."""

    def call(self, method: str, url: str, *, body: Any = None, timeout: float) -> Reply:
        """Send one request and return the answer."""

    def stream(self, url: str, *, body: Any, timeout: float, events: int | None = None) -> Stream:
        """Post a request and return its stream of events; the connection is closed after so many `events`."""

    def load(
        self, base: str, workload: Workload, *, timeout: float, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Sample, ...]:
        """Run the warm-up, then every job with `workload.users` at once, and return a sample for each, in job order.

        `timeout` is for each request, seconds. A request that fails is a sample with an error.
        """

"""How long a server of files is waited for: a deadline for the headers, a floor for the rate, a ceiling for pauses.

The timeout of a socket restarts with every byte, so a server that sends one a second would never time out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, cast

import requests
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from assay.adapters.http.deadline import WatchedAdapter, watched
from assay.errors import PackageIndexError
from assay.foundation.foreign import read_pause

__all__ = ["ConnectionBroken", "PatientAdapter", "Rate", "TooSlow", "body_chunks", "session"]

CHUNK: Final = 1 << 20
DECODED: Final = 16 << 10
"""Packed bytes of a page that are unpacked at once."""
FIRST_BYTES: Final = 30.0
"""Seconds from the request to the last of the headers."""
WINDOW: Final = 30.0
"""Seconds over which the rate is looked at."""
FLOOR: Final = 8 << 10
"""Bytes a second below which a server is given up: a wheel of 1 MB would take two minutes."""
LONGEST_PAUSE: Final = 15.0
"""Seconds that a server's Retry-After is obeyed for at most; there are four retries."""


class TooSlow(PackageIndexError):
    """The server sends too slowly."""


class ConnectionBroken(PackageIndexError):
    """The connection broke while bytes came; what is missing can be asked for again."""


class Rate:
    """Watches that bytes come fast enough, seen over each stretch of `window` seconds, and end before a deadline.

    Args:
        name: what is read, for the message.
        seconds: in all, by the clock; None for no deadline.
    """

    def __init__(
        self,
        name: str,
        *,
        seconds: float | None = None,
        window: float = WINDOW,
        floor: float = FLOOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._window = window
        self._floor = floor
        self._clock = clock
        self._seconds = seconds
        self._begun = self._since = clock()
        self._came = 0

    def pause(self) -> None:
        """Start a new interval, because the reader was busy and the server waited."""
        self._since, self._came = self._clock(), 0

    def take(self, count: int) -> None:
        """Note bytes that came.

        Raises:
            TooSlow: there are too few of them.
        """
        now = self._clock()
        self._came += count
        spent = now - self._since
        if spent >= self._window:
            if self._came < self._floor * spent:
                raise TooSlow(
                    f"{self._name}: the server is too slow: {self._came} bytes in {spent:.0f} s",
                    hint="try again later, or from another index or mirror",
                )
            self._since, self._came = now, 0
        if self._seconds is not None and now - self._begun > self._seconds:
            raise TooSlow(f"{self._name}: not read within {self._seconds:.0f} s", hint="try again on a faster network")


def body_chunks(raw: Any, rate: Rate, *, decode: bool = False) -> Iterator[bytes]:
    """Yield the body of an answer as it comes; raises `TooSlow` where it comes too slowly."""
    response = cast("BaseHTTPResponse", raw)
    parts: list[bytes] = []
    size = 0
    # read() would wait until all of a chunk is there, unseen. What is packed may become a thousand times as much.
    while piece := response.read1(DECODED if decode else CHUNK, decode_content=decode):
        rate.take(len(piece))
        parts.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
            rate.pause()
    if parts:
        yield b"".join(parts)


class _BoundedRetry(Retry):
    """Obeys Retry-After as far as a person would."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Return the seconds to wait; None where the server asks for none, or for nonsense."""
        text = response.headers.get("Retry-After")
        return None if text is None else read_pause(text, now=datetime.now(UTC), most=LONGEST_PAUSE)


class PatientAdapter(WatchedAdapter):
    """Retry temporary failures, with limits for headers and for the pauses between attempts."""

    def __init__(self) -> None:
        self.header_seconds = FIRST_BYTES
        retry = _BoundedRetry(
            total=4,
            read=1,
            backoff_factor=0.4,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
            respect_retry_after_header=True,
        )
        super().__init__(max_retries=retry, pool_maxsize=16)


def session() -> requests.Session:
    """Return a session that retries what may pass by itself; proxies and certificates come from the environment."""
    made = watched(requests.Session(), PatientAdapter)
    # Wheels are compressed already; a second encoding would make ranges mean something else.
    made.headers["Accept-Encoding"] = "identity"
    return made


FAULTS: Final = (requests.RequestException, HTTPError, OSError, ValueError)
"""What a request can end in; an invalid address in a redirect is a plain ValueError."""

"""Files over HTTP, read in parts where the server allows it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final, Self, cast

import requests
from urllib3.exceptions import HTTPError

from assay.adapters.http.patience import FAULTS, ConnectionBroken, Rate, body_chunks, session
from assay.errors import PackageIndexError, WheelError
from assay.foundation.foreign import ForeignError, read_integer

__all__ = ["HttpFile", "session"]

TIMEOUT: Final = (10, 30)
"""Seconds to connect, and to wait for the next byte."""
RESUMES: Final = 5
PROGRESS: Final = 1 << 20
"""Bytes after which a break counts as the first one again."""
TAIL: Final = 128 * 1024
MAX_WITHOUT_RANGES: Final = 4 << 30
MAX_FILE: Final = 64 << 30
"""Bytes of the largest file that is read at all; the largest known wheels have 3 GB."""
SECONDS: Final = 600.0
SLOWEST: Final = 64 << 10
"""A file may take `SECONDS`, and one more for each so many bytes: 900 MB four hours."""
_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")


class HttpFile:
    """One file on a server. The first request asks for the last bytes, where a wheel has its directory.

    A file that changes underway (other size, other ETag) is an error, as is a server that sends another range than
    it was asked for. A server without ranges is read from the start each time, up to 4 GiB.
    """

    def __init__(self, http: requests.Session, url: str, *, size: int | None = None) -> None:
        self._http = http
        self._url = url
        self._lock = threading.Lock()
        self.fetched = 0
        self.requests = 0
        self.ranges = True
        self._etag: str | None = None
        self._tail = b""
        self._begun = time.monotonic()
        self._seconds = SECONDS
        self.size = self._open()
        self._seconds += self.size / SLOWEST
        if self.size > MAX_FILE:
            raise PackageIndexError(f"{self._name}: the server has {self.size} bytes, more than {MAX_FILE >> 30} GiB")
        if size is not None and size != self.size:
            raise PackageIndexError(f"{self._name}: the server has {self.size} bytes, the index says {size}")

    @property
    def _name(self) -> str:
        return self._url.rpartition("/")[2].partition("#")[0] or self._url

    def _open(self) -> int:
        with closing(self._get(f"bytes=-{TAIL}")) as answer:
            if answer.status_code == 206:
                first, last, total = self._content_range(answer)
                if last != total - 1:
                    raise PackageIndexError(f"{self._name}: asked for the end, got bytes {first} to {last} of {total}")
                self._etag = answer.headers.get("ETag")
                self._tail = self._body(answer, last - first + 1)
                return total
            if answer.status_code == 416:
                # A file shorter than the range, for some servers.
                return self._length(answer)
            self.ranges = False
            self._etag = answer.headers.get("ETag")
            return self._length(answer)

    def _length(self, answer: requests.Response) -> int:
        try:
            length = read_integer(answer.headers.get("Content-Length", ""), most=MAX_WITHOUT_RANGES)
        except ForeignError:
            length = -1
        if answer.status_code != 200 or length < 0:
            raise PackageIndexError(
                f"{self._name}: the server offers no ranges and tells no size that could be read wholly"
            )
        return length

    def _get(self, wanted: str | None) -> requests.Response:
        headers = {"Range": wanted} if wanted else {}
        with self._lock:
            self.requests += 1
        try:
            answer = self._http.get(self._url, headers=headers, stream=True, timeout=TIMEOUT)
        except FAULTS as error:
            raise PackageIndexError(f"{self._name}: {_brief(error)}", hint="check the network and the index") from error
        if answer.status_code not in {200, 206, 416}:
            answer.close()
            raise PackageIndexError(f"{self._name}: the server answers {answer.status_code} {answer.reason}")
        return answer

    def _content_range(self, answer: requests.Response) -> tuple[int, int, int]:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if not match or match.group(3) == "*":
            raise PackageIndexError(
                f"{self._name}: the server sent a part without saying which "
                f"(Content-Range: {answer.headers.get('Content-Range', '')[:80]!r})"
            )
        first, last, total = int(match.group(1)), int(match.group(2)), int(match.group(3))
        if not 0 <= first <= last < total:
            raise PackageIndexError(f"{self._name}: the server sent a part that cannot be: {match.group()}")
        return first, last, total

    def _body(self, answer: requests.Response, length: int) -> bytes:
        data = bytearray()
        for chunk in self._chunks(answer):
            data += chunk
            if len(data) > length:
                raise PackageIndexError(f"{self._name}: the server sent more than the {length} bytes it announced")
        if len(data) != length:
            raise PackageIndexError(f"{self._name}: {len(data)} of {length} bytes came")
        return bytes(data)

    def _chunks(self, answer: requests.Response) -> Iterator[bytes]:
        try:
            left = self._begun + self._seconds - time.monotonic()
            for chunk in body_chunks(answer.raw, Rate(self._name, seconds=max(left, 0.0))):
                with self._lock:
                    self.fetched += len(chunk)
                yield chunk
        except (HTTPError, OSError, ValueError) as error:
            raise ConnectionBroken(f"{self._name}: the connection broke: {_brief(error)}") from error

    def _part(self, offset: int, length: int | None) -> requests.Response:
        """Ask for a part and check that just this part of this very file comes."""
        last = self.size - 1 if length is None else offset + length - 1
        answer = self._get(f"bytes={offset}-{last}")
        try:
            if answer.status_code != 206:
                raise PackageIndexError(f"{self._name}: the server gave ranges before and now does not")
            if self._content_range(answer) != (offset, last, self.size):
                raise PackageIndexError(
                    f"{self._name}: asked for bytes {offset}-{last}/{self.size}, "
                    f"got {answer.headers.get('Content-Range', '')[:80]}; the file changed or the server is wrong"
                )
            self._same_file(answer)
        except PackageIndexError:
            answer.close()
            raise
        return answer

    def _same_file(self, answer: requests.Response) -> None:
        etag = answer.headers.get("ETag")
        if self._etag and etag and etag != self._etag:
            raise PackageIndexError(f"{self._name}: the file changed on the server while it was read")

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise WheelError(f"{self._name}: bytes {offset} to {offset + length} of a file of {self.size}")
        if length == 0:
            return b""
        start = self.size - len(self._tail)
        if offset >= start and self._tail:
            return self._tail[offset - start : offset - start + length]
        if not self.ranges:
            return self._read_through(offset, length)
        for attempt in range(RESUMES):
            try:
                with closing(self._part(offset, length)) as answer:
                    return self._body(answer, length)
            except ConnectionBroken:
                if attempt == RESUMES - 1:
                    raise
        raise AssertionError

    def _read_through(self, offset: int, length: int) -> bytes:
        kept = bytearray()
        at = 0
        for chunk in self.stream():
            low = max(0, offset - at)
            if low < len(chunk):
                kept += chunk[low : low + length - len(kept)]
            at += len(chunk)
            if len(kept) >= length:
                break
        return bytes(kept)

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the file from `offset`; a broken connection is taken up again where it broke."""
        at = offset
        failures = 0
        while at < self.size:
            resumed = at
            try:
                for chunk in self._stream_once(at):
                    at += len(chunk)
                    # A server that breaks off after a byte each time makes no progress.
                    if at - resumed >= PROGRESS:
                        failures = 0
                    yield chunk
                if at < self.size:
                    raise ConnectionBroken(f"{self._name}: the connection broke: {at} of {self.size} bytes came")
            except ConnectionBroken:
                failures += 1
                if failures >= RESUMES or not self.ranges:
                    raise

    def _stream_once(self, at: int) -> Iterator[bytes]:
        if self.ranges:
            with closing(self._part(at, None)) as answer:
                yield from self._bounded(answer, self.size - at)
            return
        with closing(self._get(None)) as answer:
            if self._length(answer) != self.size:
                raise PackageIndexError(f"{self._name}: the file changed on the server while it was read")
            self._same_file(answer)
            skip = at
            for chunk in self._bounded(answer, self.size):
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def _bounded(self, answer: requests.Response, length: int) -> Iterator[bytes]:
        for chunk in self._chunks(answer):
            length -= len(chunk)
            if length < 0:
                raise PackageIndexError(f"{self._name}: the server sent more than it announced")
            yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail = b""


def _brief(error: BaseException) -> str:
    """The innermost reason: nested library messages are unreadable."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = cast("BaseException", error.__cause__ or error.__context__)
    text = str(error) or type(error).__name__
    return text if len(text) < 300 else text[:300] + "..."

"""Servers that answer for ever, a byte at a time, or ask to be waited for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

import pytest
from urllib3.response import HTTPResponse

from assay.adapters.http import deadline, patience
from assay.adapters.http.patience import Rate, TooSlow, body_chunks, session


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def steadily(rate: Rate, clock: Clock, count: int) -> None:
    """Take bytes once a second, for a quarter of an hour."""
    for _ in range(1000):
        clock.now += 1
        rate.take(count)


def test_a_byte_a_second_is_given_up_after_one_window() -> None:
    clock = Clock()
    rate = Rate("x.whl", clock=clock)
    with pytest.raises(TooSlow, match=r"x\.whl: the server is too slow: 30 bytes in 30 s"):
        steadily(rate, clock, 1)

    assert patience.WINDOW == clock.now


def test_a_slow_but_steady_server_is_read_to_the_end() -> None:
    clock = Clock()
    rate = Rate("x.whl", clock=clock)
    steadily(rate, clock, 10_000)


def test_busy_client_does_not_blame_the_server() -> None:
    clock = Clock()
    rate = Rate("x.whl", clock=clock)
    for _ in range(5):
        rate.take(1 << 20)
        clock.now += 300
        rate.pause()


def test_the_whole_has_a_deadline_however_fast_it_comes() -> None:
    clock = Clock()
    rate = Rate("x.whl", seconds=100, clock=clock)
    with pytest.raises(TooSlow, match="not read within 100 s"):
        steadily(rate, clock, 1 << 20)


class Pieces(io.RawIOBase):
    """A body that comes a few bytes at a time."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, into: object) -> int:
        piece = next(self._pieces, b"")
        cast("memoryview", into)[: len(piece)] = piece
        return len(piece)


def test_the_rate_is_seen_while_a_chunk_is_incomplete() -> None:
    clock = Clock()

    def trickle() -> Iterator[bytes]:
        while True:
            clock.now += 1
            yield b"x"

    raw = HTTPResponse(body=io.BufferedReader(Pieces(trickle())), preload_content=False)
    with pytest.raises(TooSlow):
        list(body_chunks(raw, Rate("x.whl", clock=clock)))


def test_pieces_are_put_together() -> None:
    raw = HTTPResponse(body=io.BufferedReader(Pieces(iter([b"a" * 1000] * 3000))), preload_content=False)
    chunks = list(body_chunks(raw, Rate("x.whl")))

    assert b"a" * 3_000_000 == b"".join(chunks)
    assert len(chunks) < 5


@pytest.mark.parametrize(
    ("asked", "most"),
    [("3600", 15.0), ("1", 1.0), ("Fri, 31 Dec 2199 23:59:59 GMT", 15.0), ("²", None), ("-5", None), ("1e9", None)],
)
def test_a_server_is_waited_for_some_seconds_whatever_it_asks(asked: str, most: float | None) -> None:
    retry = session().get_adapter("https://x.example/").max_retries  # type: ignore[attr-defined]

    assert most == retry.get_retry_after(HTTPResponse(headers={"Retry-After": asked}))


def test_connections_break_where_headers_do_not_come() -> None:
    for address in ("http://x.example/", "https://x.example/"):
        adapter = cast("patience.PatientAdapter", session().get_adapter(address))
        pool = adapter.poolmanager.connection_from_url(address)

        assert issubclass(pool.ConnectionCls, deadline._TimedConnection)
        assert adapter.header_seconds == patience.FIRST_BYTES

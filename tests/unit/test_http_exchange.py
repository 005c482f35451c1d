"""An answer is the same however its bytes were cut on the way."""

from __future__ import annotations

import asyncio
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from assay.adapters.http.exchange import Connection, HttpAnswer, request_bytes
from assay.adapters.http.openai import _events, _sample


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


TEXTS = ("서울", "🙂", " [DONE]", "")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [{"choices": [{"text": text, "finish_reason": None}]} for text in TEXTS]
USAGE = {"choices": [], "usage": {"completion_tokens": 4}}
LINES = [b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in (*EVENTS, USAGE)]
WHOLE = HEAD + b"".join(map(chunk, [*LINES, b"data: [DONE]\n\n"])) + b"0\r\n\r\n"


class _Transport(asyncio.Transport):
    """Hands the answer to the protocol in the reads that it was cut into."""

    def __init__(self, connection: Connection, reads: list[bytes]) -> None:
        super().__init__()
        self._connection, self._reads = connection, reads

    def write(self, data: object) -> None:
        for read in self._reads:
            self._connection.data_received(read)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing is open."""


async def answered(reads: list[bytes]) -> HttpAnswer:
    connection = Connection("http://server:1", end_mark=b"[DONE]")
    connection.connection_made(_Transport(connection, reads))
    return await connection.ask(request_bytes("POST", "http://server:1/v1/completions", {}, {}), 5.0)


@given(st.sets(st.integers(1, len(WHOLE) - 1), max_size=60))
def test_reads_may_be_cut_anywhere(places: set[int]) -> None:
    cuts = [0, *sorted(places), len(WHOLE)]
    reads = [WHOLE[start:end] for start, end in itertools.pairwise(cuts)]

    answer = asyncio.run(answered(reads))

    assert (200, True, None) == (answer.status, answer.complete, answer.error)
    moments, data = zip(*_events(answer), strict=True)
    assert [*EVENTS, USAGE] == [json.loads(one) for one in data[:-1]]
    assert b"[DONE]" == data[-1]
    assert list(moments) == sorted(moments)
    sample = _sample(answer, answer.started)
    assert (4, 4, True, None) == (sample.tokens, sample.pieces, sample.counted, sample.error)


@given(st.binary(max_size=300))
def test_invalid_http_response_is_reported(data: bytes) -> None:
    """Whatever comes, the answer ends with an error or, where it happens to be HTTP, without one."""

    async def asked() -> HttpAnswer:
        connection = Connection("http://server:1")
        transport = _Transport(connection, [data])
        connection.connection_made(transport)
        asyncio.get_running_loop().call_soon(connection.connection_lost, ConnectionError())
        return await connection.ask(b"GET / HTTP/1.1\r\n\r\n", 5.0)

    answer = asyncio.run(asked())

    assert answer.complete == (answer.error is None)

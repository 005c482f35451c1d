"""A server that answers every request with a stream made beforehand, one write for each token, as fast as it can.

Every connection has a process of its own, so that none waits for another.

Run: python bench/instant_server.py PORT TOKENS SECONDS_PER_TOKEN
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document: dict[str, object]) -> bytes:
    """As long as an event of vLLM."""
    head = {"id": "cmpl-0123456789abcdef0123456789abcdef", "object": "text_completion", "created": 1, "model": "tiny"}
    return b"data: " + json.dumps({**head, **document}).encode() + b"\n\n"


def token(number: int) -> bytes:
    choice = {"index": 0, "text": f" w{number}", "logprobs": None, "finish_reason": None, "stop_reason": None}
    return chunk(event({"choices": [choice], "usage": None}))


def requests(connection: socket.socket):
    """Yield once for each whole request."""
    data = b""
    while more := connection.recv(1 << 16):
        data += more
        while (end := data.find(b"\r\n\r\n")) >= 0:
            place = data[:end].lower().find(b"content-length:")
            length = 0 if place < 0 else int(data[place + 15 : end].split(b"\r\n")[0])
            if len(data) < end + 4 + length:
                break
            data = data[end + 4 + length :]
            yield


def main() -> None:
    port, count, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
    tokens = [token(number) for number in range(count)]
    tail = (chunk(event({"choices": [], "usage": usage})), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")
    listening = socket.create_server(("127.0.0.1", port), backlog=128)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            break
        connection.close()
    listening.close()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for _ in requests(connection):
            connection.send(HEAD)
            due = time.perf_counter()
            for data in tokens:
                if pause:
                    due += pause
                    time.sleep(max(due - time.perf_counter(), 0))
                connection.send(data)
            for data in tail:
                connection.send(data)
    except ConnectionError:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()

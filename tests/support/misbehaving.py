"""For tests: an HTTP server that answers whatever a test likes, as slowly as it likes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Mapping[str, str], bytes | Iterable[bytes]]


@dataclass(kw_only=True)
class Misbehaving:
    """What listens on `host`, and the requests it got: method, path, Authorization."""

    host: str
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def misbehaving(answer: Callable[[str, str], Reply | None]) -> Iterator[Misbehaving]:
    """Run a server; `answer` gets method and path, None hangs up without a word.

    A body that is no bytes is sent piece by piece as it comes, without a length unless the headers name one.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def _serve(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.command, self.path, self.headers.get("Authorization")))
            reply = answer(self.command, self.path)
            if reply is None:
                self.close_connection = True
                return
            status, headers, body = reply
            pieces = [body] if isinstance(body, bytes) else body
            names = {name.lower() for name in headers}
            with suppress(OSError):
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if isinstance(body, bytes) and "content-length" not in names:
                    self.send_header("Content-Length", str(len(body)))
                elif "content-length" not in names:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                for piece in pieces if self.command != "HEAD" else ():
                    self.wfile.write(piece)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what these tests are about."""

    with Server(("127.0.0.1", 0), Handler) as listener:
        server = Misbehaving(host=f"127.0.0.1:{listener.server_address[1]}")
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            listener.shutdown()


def trickle(data: bytes, seconds: float) -> Iterator[bytes]:
    """Give one byte at a time."""
    for number in range(len(data)):
        time.sleep(seconds)
        yield data[number : number + 1]

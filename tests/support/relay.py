"""A relay between clients and a server, which can be watched and cut, and leaves no socket and no thread behind."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Relay:
    """Listens on a port of loopback and passes what comes to a server, until it is closed.

    `passed` sees how many bytes went to the server each time, once they went; where it returns False, that connection
    is reset on both sides.
    """

    def __init__(self, upstream: Callable[[], socket.socket], passed: Callable[[int], bool] = lambda _: True) -> None:
        self._upstream = upstream
        self._passed = passed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._copiers: list[threading.Thread] = []
        self._taker = threading.Thread(target=self._take, daemon=True)
        self._taker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, it: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                server = self._upstream()
                self._open.append(server)
                for source, target, upwards in ((client, server, True), (server, client, False)):
                    copier = threading.Thread(target=self._copy, args=(source, target, upwards), daemon=True)
                    copier.start()
                    self._copiers.append(copier)

    def _copy(self, source: socket.socket, target: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if upwards and not self._passed(len(data)):
                    for end in (source, target):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # The other copier still reads from the server: a shutdown wakes it, closing would not.
                    target.shutdown(socket.SHUT_RDWR)
                    source.close()
                    return
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut every connection, take no more, and wait until nothing is copied any more."""
        # Closing alone does not wake a thread that waits in accept or recv.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._taker.join(5)
        self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for copier in self._copiers:
            copier.join(5)
        for end in self._open:
            end.close()

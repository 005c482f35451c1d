"""End HTTP exchanges at a deadline, because a time limit per read allows one byte a second for ever.

A watch hangs up the connection of the exchange that its thread is in. It works for requests' sessions that were given
the adapter of this module, from connecting to the last byte of the body.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["Watch", "WatchedAdapter", "watched"]

LOG: Final = logging.getLogger("assay.http")
SAID_AFTER: Final = 10.0
"""Seconds after which a message names what is waited for."""
_local: Final = threading.local()


class Watch:
    """A time limit for a `with` block; `expired` is true if it closed the connection.

    Args:
        seconds: how long the block may take.
        what: what is waited for, named in a message when it takes long; no message if empty.
    """

    def __init__(self, seconds: float, what: str = "") -> None:
        self.expired = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timers = [self._timer(seconds, self._end)]
        if what and seconds > SAID_AFTER:
            self._timers.append(
                self._timer(SAID_AFTER, lambda: LOG.warning("still waiting for %s, for %.0f s at most", what, seconds))
            )

    @staticmethod
    def _timer(seconds: float, then: Callable[[], None]) -> threading.Timer:
        timer = threading.Timer(max(seconds, 0.0), then)
        timer.daemon = True
        return timer

    def __enter__(self) -> Self:
        self._outer: Watch | None = getattr(_local, "watch", None)
        _local.watch = self
        for timer in self._timers:
            timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        _local.watch = self._outer
        for timer in self._timers:
            timer.cancel()

    def hold(self, connection: socket.socket) -> None:
        """Take note of a connection that the block uses."""
        with self._lock:
            self._sockets.append(connection)
            if self.expired:
                self._hang_up()

    def _end(self) -> None:
        with self._lock:
            self.expired = True
            self._hang_up()

    def _hang_up(self) -> None:
        for one in self._sockets:
            # The class's own method: that of a TLS socket would take its state away under the reader's feet.
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)


def _hold(connection: Any) -> None:
    watch: Watch | None = getattr(_local, "watch", None)
    if watch is not None and isinstance(connection.sock, socket.socket):
        watch.hold(connection.sock)


class _TimedConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _hold(self)

    def request(self, *args: Any, **options: Any) -> None:
        _hold(self)
        super().request(*args, **options)

    def getresponse(self) -> Any:
        seconds: float | None = getattr(_local, "headers", None)
        if seconds is None:
            return super().getresponse()
        with Watch(seconds):
            _hold(self)
            return super().getresponse()


class _TimedTls(_TimedConnection, HTTPSConnection):
    """The same over TLS: all that `_TimedConnection` calls is HTTPSConnection's."""


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TimedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


_POOLS: Final[dict[str, Any]] = {"http": _TimedPool, "https": _TimedTlsPool}


class WatchedAdapter(HTTPAdapter):
    """Makes connections that a watch can hang up."""

    header_seconds: float | None = None
    """Seconds that the headers of an answer may take, in however many bytes they come; None: no limit of their own."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request and return the answer once its headers are here."""
        _local.headers = self.header_seconds
        try:
            return super().send(*args, **options)
        finally:
            _local.headers = None


def watched(session: requests.Session, adapter: Callable[[], WatchedAdapter] = WatchedAdapter) -> requests.Session:
    """Make the exchanges of a session ones that a watch can end; returns the session."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter())
    return session

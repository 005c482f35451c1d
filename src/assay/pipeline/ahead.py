"""Run an iterator in its own thread, so that two steps of a pipeline overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Ahead"]

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Takes items a few ahead of who asks for them; what goes wrong there is raised here. To be closed in the end."""

    def __init__(self, items: Iterable[Item], *, ahead: int = 8) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[Item] | Exception | None] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: Exception | None = None
        try:
            for item in self._items:
                if not self._put((item,)):
                    break
        except Exception as error:  # noqa: BLE001 - handed to the thread that takes the items
            last = error
        finally:
            if isinstance(self._items, Generator):
                self._items.close()
        self._put(last)

    def _put(self, item: tuple[Item] | Exception | None) -> bool:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return True
        return False

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item[0]

    def close(self) -> None:
        """End the thread, whatever it still has."""
        self._stop.set()
        self._thread.join()

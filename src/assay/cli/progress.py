"""How a run of many cells is shown: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from assay.cli import console
from assay.foundation.printable import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from assay.evidence.record import BuildRecord

__all__ = ["BuildProgress"]

_QUIET_SECONDS: Final = 20.0
"""Without a terminal, a cell that came to another step says so at most this often."""
_SAME_SECONDS: Final = 60.0
"""And one that is still at the same step this often."""

_BESIDE_NAME: Final = 12
"""Characters of a row beside name and words: the seconds and the gaps."""


def _fitted(name: str, width: int) -> str:
    """Return a cell's id in at most `width` characters: cells of one run differ most at the end."""
    if len(name) <= width:
        return name
    kept = max(width - 1, 9)
    return f"{name[: kept // 3]}…{name[-(kept - kept // 3) :]}"


class BuildProgress:
    """Show the progress of builds on stderr."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._told: dict[str, tuple[float, str]] = {}
        """Cell -> time and text of its last message."""
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell_on, daemon=True)
        self._running: dict[str, tuple[float, str]] = {}
        live = console.shows_progress() and console.at_terminal(sys.stderr) and not os.environ.get("CI")
        self._live = self._made() if live else None

    @cached_property
    def _console(self) -> Console:
        return console.err()

    def _made(self) -> Live:
        from rich.live import Live

        return Live(get_renderable=self._table, console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._running.clear()
            self._live.stop()
        else:
            self._over.set()
            self._teller.join()

    def started(self, name: str) -> None:
        """A cell is begun."""
        with self._lock:
            self._running[name] = (time.monotonic(), "")
        if self._live is None:
            console.say(f"... {name}")

    def step(self, name: str, words: str) -> None:
        """A cell is at another step."""
        with self._lock:
            began, _ = self._running.get(name, (time.monotonic(), ""))
            self._running[name] = (began, words)
        if self._live is None:
            self.tell()

    def _tell_on(self) -> None:
        # A step that came soon after another one is told when its time has come, whether or not more follows.
        while not self._over.wait(1.0):
            self.tell()

    def tell(self) -> None:
        """Print progress at intervals if there is no terminal."""
        if not console.shows_progress():
            return
        moment = time.monotonic()
        lines = []
        with self._lock:
            for name, (began, words) in self._running.items():
                told, before = self._told.get(name, (began, ""))
                if words and moment - told > (_QUIET_SECONDS if words != before else _SAME_SECONDS):
                    self._told[name] = (moment, words)
                    lines.append(f"    {moment - began:4.0f} s {name}: {words[:100]}")
        for line in lines:
            console.say(line)

    def finished(self, name: str, record: BuildRecord) -> None:
        """A cell is done."""
        from assay.evidence.record import BuildStatus
        from assay.evidence.report import size_text

        with self._lock:
            self._running.pop(name, None)
            self._done += 1
            done = self._done
        if record.status is BuildStatus.CACHED:
            return
        size = f", {size_text(record.size_bytes)}" if record.size_bytes else ""
        ended = f"({record.seconds:.0f} s{size}) {done}/{self._total}"
        console.status(record.status.value, f"{name} {ended}")

    def _table(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        words_width = min(70, max(12, self._console.width // 3))
        with self._lock:
            shown = [(began, name, one_line(words[:words_width])) for name, (began, words) in self._running.items()]
            room = self._console.width - _BESIDE_NAME - max((len(words) for _, _, words in shown), default=0)
            for began, name, words in shown:
                table.add_row(
                    f"{time.monotonic() - began:5.0f} s", escape(_fitted(name, room)), f"[dim]{escape(words)}[/]"
                )
            waiting = self._total - self._done - len(self._running)
        if waiting > 0:
            table.add_row("", f"[dim]{waiting} more[/]", "")
        return table

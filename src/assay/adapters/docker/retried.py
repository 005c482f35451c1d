"""Builds that are tried again while the builder or a registry, and not the cell, is at fault."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from assay.ports.builder import PATIENCE, BuildEnd, Builder, BuildOutcome, BuildTask

__all__ = ["RetriedBuilder"]

LOG: Final = logging.getLogger("assay.build")
LONGEST_PAUSE: Final = 30.0


class RetriedBuilder:
    """Satisfies `assay.ports.builder.Builder` with another one, which it asks again after a fault that may pass.

    A failure of the cell is never tried again. The logs of earlier tries are kept: `build-1.log`, `build-2.log`.

    Args:
        builder: builds.
        patience: seconds from the first fault in which another try may begin.
        wait: waits for so many seconds; returns True at once when the event is set.
    """

    def __init__(
        self,
        builder: Builder,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._builder = builder
        self._patience = patience
        self._clock = clock
        self._wait = wait

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line; see the port."""
        return self._builder.command(task, dockerfile=dockerfile)

    def build(self, task: BuildTask) -> BuildOutcome:
        """Build one image; see the port."""
        stop = task.stop or threading.Event()
        deadline: float | None = None
        tried = 0
        while True:
            outcome = self._builder.build(task)
            if outcome.fault is None:
                return outcome
            deadline = self._clock() + self._patience if deadline is None else deadline
            pause = min(2.0 * 2**tried, LONGEST_PAUSE)
            if tried >= outcome.fault.tries or self._clock() + pause > deadline:
                return outcome
            tried += 1
            words = f"{outcome.fault.kind.value.replace('_', ' ')}: try {tried + 1} in {pause:.0f} s"
            LOG.info("%s: %s", words, outcome.fault.said)
            if task.progress is not None:
                task.progress(words)
            if self._wait(stop, pause):
                return BuildOutcome(end=BuildEnd.STOPPED, seconds=outcome.seconds, reason="stopped")
            task.keep_log()

"""A builder without BuildKit, for tests of whatever builds; as unkind as the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final, Literal

from assay.adapters.files.locks import no_space
from assay.errors import StoreError
from assay.foundation.digest import sha256_of
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask

__all__ = ["FakeBuilder"]

_HANGS: Final = 600.0


class FakeBuilder:
    """A builder with prepared results; see `assay.ports.builder.Builder`.

    Args:
        ends: first tag -> how its build ends: an outcome, an error, or not by itself; the others are built.
    """

    def __init__(self, ends: Mapping[str, BuildOutcome | Exception | Literal["hangs"]] | None = None) -> None:
        self.ends = dict(ends or {})
        self.tasks: list[BuildTask] = []
        """All that were asked for, in order."""

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return a command line; see the port."""
        tags = [word for tag in task.tags for word in ("--tag", tag)]
        return ["docker", "buildx", "build", *tags, "--file", dockerfile]

    def build(self, task: BuildTask) -> BuildOutcome:
        """Build nothing, and say what came of it."""
        self.tasks.append(task)
        began = time.monotonic()
        end = self.ends.get(task.tags[0])
        if isinstance(end, Exception):
            raise end
        text = end.reason if isinstance(end, BuildOutcome) else "some output"
        try:
            task.log.write_text(f"{text}\n")
        except OSError as error:
            raise StoreError(f"{task.log} cannot be written: {error.strerror}", hint=no_space(error)) from error
        if task.progress is not None:
            task.progress("image 1/1")
        stop = task.stop or threading.Event()
        if stop.wait(0 if end != "hangs" else _HANGS if task.timeout is None else task.timeout):
            return BuildOutcome(end=BuildEnd.STOPPED, seconds=time.monotonic() - began, reason="stopped")
        if end == "hangs":
            reason = f"still building after {task.timeout:g} s"
            return BuildOutcome(end=BuildEnd.TIMED_OUT, seconds=time.monotonic() - began, reason=reason)
        built = BuildOutcome(end=BuildEnd.BUILT, digest=sha256_of(task.dockerfile.encode()), seconds=2.0)
        return end if end is not None else built

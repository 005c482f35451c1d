"""One user per GPU: a lock file each, held by the kernel as long as this process lives."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from assay.adapters.files.locks import locked
from assay.errors import GpuMissing, Interrupted

__all__ = ["FileLeases"]


class FileLeases:
    """Leases as locked files in a folder all users of the machine share."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / "assay-gpu-leases"

    @contextmanager
    def take(
        self, gpus: tuple[str, ...], count: int, *, wait_seconds: float, stop: threading.Event | None = None
    ) -> Iterator[tuple[str, ...]]:
        """Hold `count` of the GPUs; see `assay.ports.executor.Leases`."""
        if count > len(gpus):
            raise GpuMissing(f"{count} GPUs are needed, {len(gpus)} can be given")
        deadline = time.monotonic() + wait_seconds
        while True:
            with ExitStack() as held:
                got: list[str] = []
                for name in gpus:
                    path = self._folder / f"gpu-{name.replace('/', '_')}.lock"
                    if len(got) < count and held.enter_context(locked(path, for_everyone=True)):
                        got.append(name)
                if len(got) == count:
                    kept = held.pop_all()
                    break
            if time.monotonic() > deadline:
                raise GpuMissing(
                    f"no {count} of {len(gpus)} GPUs became free within {wait_seconds:g} s",
                    hint="another run of assay holds them; wait for it, or give --wait more seconds",
                )
            if stop is None:
                time.sleep(0.2)
            elif stop.wait(0.2):
                raise Interrupted("stopped while waiting for a GPU")
        with kept:
            yield tuple(got)

"""A builder that assembles images from their wheels, and hands to another what only a build can make."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TextIO

from assay.errors import EngineError, Interrupted, RegistryError, SourceBroken, StoreError, ToolTimedOut
from assay.pipeline.assembly.assemble import Assembler
from assay.pipeline.assembly.destinations import Destination, image_info
from assay.ports.builder import BuildEnd, Builder, BuildOutcome, BuildTask
from assay.ports.layers import SourceArchive

__all__ = ["AssemblingBuilder"]


class AssemblingBuilder:
    """Satisfies `assay.ports.builder.Builder`, and tells beforehand what it will do.

    Args:
        assembler: makes the layers.
        destination: takes the images.
        otherwise: builds what cannot be assembled; None refuses it.
    """

    def __init__(self, assembler: Assembler, destination: Destination, otherwise: Builder | None) -> None:
        self._assembler = assembler
        self._destination = destination
        self._otherwise = otherwise
        self._archives: dict[str, str] = {}

    def obstacle(self, dockerfile: str) -> str:
        """Return what keeps an image from being assembled; empty where nothing does.

        That a requirement of the lock is a source archive is known once `build` has met it.
        """
        found = self._archives.get(dockerfile)
        return found or self._destination.obstacle() or self._assembler.obstacle(dockerfile)

    def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
        """Return the digest that an image will have; None where the catalogue lacks a layer."""
        return self._assembler.digest(dockerfile, labels)

    def begin(self, dockerfile: str) -> None:
        """Begin to make the base of an image in the background."""
        self._assembler.begin(dockerfile)

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line that builds the same Dockerfile; see the port."""
        if self._otherwise is not None:
            return self._otherwise.command(task, dockerfile=dockerfile)
        tags = [word for tag in task.tags for word in ("--tag", tag)]
        return ["docker", "buildx", "build", *tags, "--file", dockerfile]

    def build(self, task: BuildTask) -> BuildOutcome:
        """Assemble one image, or let it be built; see the port.

        Raises:
            SourceArchive: nobody here makes a wheel of it; where images are built, `obstacle` tells so from now on.
        """
        if why := self.obstacle(task.dockerfile):
            if self._otherwise is not None:
                return self._otherwise.build(task)
            reason = f"it cannot be assembled: {why}\n  try: --builder auto, into the engine or with --push"
            _write(task, reason)
            return BuildOutcome(end=BuildEnd.FAILED, reason=reason)
        started = time.monotonic()
        try:
            with task.log.open("w") as log:
                progress = _Progress(task, log, started)
                try:
                    return self._assemble(task, progress, started)
                except Exception as error:
                    if isinstance(error, SourceBroken):
                        progress.log(error.log)
                    progress.log(f"ERROR: {error}")
                    raise
        except Interrupted:
            end, reason = BuildEnd.STOPPED, "stopped"
        except ToolTimedOut:
            end, reason = BuildEnd.TIMED_OUT, f"still building after {task.timeout:g} s"
        except SourceArchive as archive:
            if self._otherwise is not None:
                self._archives[task.dockerfile] = archive.message
            raise
        except SourceBroken as error:
            end, reason = BuildEnd.FAILED, str(error)
        except EngineError as error:
            end, reason = BuildEnd.ENGINE, str(error)
        except RegistryError as error:
            end, reason = BuildEnd.REGISTRY, str(error)
        except OSError as error:
            raise StoreError(f"{error.filename or task.log} cannot be written: {error.strerror}") from error
        return BuildOutcome(end=end, seconds=time.monotonic() - started, reason=reason)

    def _assemble(self, task: BuildTask, progress: _Progress, started: float) -> BuildOutcome:
        assembler = replace(self._assembler, say=progress.say, check=progress.check)
        image = assembler.assemble(task.dockerfile, task.labels, elsewhere=self._destination.has)
        made = sum(layer.new for layer in image.layers)
        progress.say(f"{image.manifest.digest}: {len(image.layers)} layers, {made} of them new")
        for tag in task.tags:
            self._destination.take(image.manifest, image.config, tag, say=progress.say, check=progress.check)
        return BuildOutcome(
            end=BuildEnd.BUILT,
            digest=image.manifest.digest,
            seconds=time.monotonic() - started,
            image=image_info(image.manifest, image.config, task.tags[0]),
        )


def _write(task: BuildTask, text: str) -> None:
    try:
        task.log.write_text(f"{text}\n")
    except OSError as error:
        raise StoreError(f"{task.log} cannot be written: {error.strerror}") from error


class _Progress:
    """Writes each step to the log and the terminal, and ends the work when its time is up."""

    def __init__(self, task: BuildTask, log: TextIO, started: float) -> None:
        self._stop = task.stop or threading.Event()
        self._deadline = None if task.timeout is None else started + task.timeout
        self._tell: Callable[[str], None] = task.progress or (lambda _: None)
        self._log = log
        self._started = started
        self._guard = threading.Lock()

    def log(self, words: str) -> None:
        with self._guard:
            self._log.write(f"{time.monotonic() - self._started:8.2f} {words}\n")
            self._log.flush()

    def say(self, words: str) -> None:
        self.check()
        self.log(words)
        self._tell(words)

    def check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("stopped")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise ToolTimedOut("the time is up")

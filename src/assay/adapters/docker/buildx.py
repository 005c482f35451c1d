"""Building with `docker buildx build`: the Docker SDK cannot speak BuildKit's session protocol (docker-py#2230)."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay.adapters.docker.build_faults import explain, find_fault
from assay.adapters.files.locks import no_space
from assay.adapters.host import process
from assay.errors import EngineMissing, Interrupted, StoreError, ToolError, ToolTimedOut
from assay.evidence.reference import Reference
from assay.ports.builder import BuildEnd, BuildFault, BuildOutcome, BuildTask, FaultKind

__all__ = ["Buildx", "RemoteBuilder", "failure_lines"]

_STEP: Final = re.compile(r"^#(\d+) \[([^\]]+)\] (.*)$")
_EXPORT: Final = re.compile(r"^#\d+ (exporting layers|unpacking|pushing layers)")
_NOISE: Final = re.compile(r"^#\d+ (?:sha256:|CACHED|DONE|extracting|transferring)")
_MISSING: Final = ("is not a docker command", "unknown flag: --progress", "unknown command: docker buildx")


def failure_lines(log: str, *, count: int = 15) -> list[str]:
    """Return the decisive lines of a failed build: BuildKit's excerpt between rules, else the end."""
    lines = [line.rstrip() for line in log.splitlines()]
    # Six dashes frame the excerpt of the output, twenty the excerpt of the Dockerfile.
    rules = [position for position, line in enumerate(lines) if line == "------"]
    if len(rules) >= 2:
        chosen = [line for line in lines[rules[-2] + 1 : rules[-1]] if line.strip()]
        if chosen:
            return chosen[-count:]
    return [line for line in lines if line.strip() and not _NOISE.match(line)][-count:]


@dataclass(frozen=True, kw_only=True)
class RemoteBuilder:
    """A builder of buildx that is not a part of the user's settings."""

    builder: str
    """Its name there."""
    place: str
    """Its address, for messages."""
    settings: Path
    """The folder of those settings."""

    @property
    def environment(self) -> dict[str, str]:
        """What buildx needs to find it."""
        return {"BUILDX_CONFIG": str(self.settings)}


class Buildx:
    """The `docker buildx` on PATH, with its selected builder or a named one.

    Args:
        builder: name of a buildx builder; None takes the selected one.
        zstd: whether to pack layers with zstd, asked when something is built; the store must be containerd's. Level 1
            took half of gzip's time for the same size (13 s against 25 s for 600 MB of libraries, on 2 cores).
        push: whether the image goes to the registry that its tags name.
        archive: the image is written to this OCI archive and goes nowhere else.
        folder: the files of the last stage are written into this folder, and there is no image.
        remote: a builder of its own settings, which pushes by digest and sets no tag; excludes `builder`.
    """

    def __init__(
        self,
        *,
        builder: str | None = None,
        zstd: Callable[[], bool] = lambda: False,
        push: bool = False,
        archive: Path | None = None,
        folder: Path | None = None,
        remote: RemoteBuilder | None = None,
    ) -> None:
        self._archive = archive
        self._files = folder
        self._remote = remote
        self._builder = remote.builder if remote else builder
        self._zstd = zstd
        self._push = push

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line; see the port."""
        argv = ["docker", "buildx", "build", "--progress", "plain", "--provenance", "false"]
        if self._builder:
            argv += ["--builder", self._builder]
        names = ",".join(task.tags)
        if self._files is not None:
            argv += ["--output", f"type=local,dest={self._files}"]
        elif self._archive is not None:
            argv += ["--output", f"type=oci,dest={self._archive},compression=gzip"]
        elif self._remote is not None and not task.tags:
            argv += ["--output", "type=cacheonly"]
        elif self._remote is not None:
            repository = Reference.parse(task.tags[0]).repository
            argv += ["--output", f'type=image,"name={repository}",push=true,push-by-digest=true,oci-mediatypes=true']
        elif self._push:
            # Docker's own media types have no name for zstd, which layers of a base may be packed with.
            argv += ["--output", f'type=image,"name={names}",push=true,oci-mediatypes=true']
        elif self._builder is None and self._zstd():
            argv += ["--output", f'type=image,"name={names}",compression=zstd,compression-level=1,oci-mediatypes=true']
        else:
            argv += ["--load"] if self._builder else []
            argv += [word for tag in task.tags for word in ("--tag", tag)]
        if task.platform:
            argv += ["--platform", task.platform]
        for name, value in (*task.labels.items(), *task.provenance.items()):
            argv += ["--label", f"{name}={value}"]
        for name, path in task.secrets.items():
            argv += ["--secret", f"id={name},src={path}"]
        for name, argument in task.build_args.items():
            argv += ["--build-arg", name if argument is None else f"{name}={argument}"]
        argv += [word for cache in task.cache_from for word in ("--cache-from", f"type=registry,ref={cache}")]
        if task.cache_to:
            # Mode `min` names the layers of the image, which are pushed anyway. A cache that is lost costs time alone.
            argv += ["--cache-to", f"type=registry,ref={task.cache_to},mode=min,ignore-error=true"]
        # The Dockerfile needs no context; an empty one stands for it.
        return [*argv, "--file", dockerfile]

    def build(self, task: BuildTask) -> BuildOutcome:
        """Build one image; see the port."""
        try:
            return self._build(task)
        except OSError as error:
            # The log, or the few files that buildx is given, cannot be written.
            raise StoreError(
                f"{error.filename or task.log} cannot be written: {error.strerror}", hint=no_space(error)
            ) from error

    def _build(self, task: BuildTask) -> BuildOutcome:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="assay-build-") as folder, task.log.open("wb") as log:
            work = Path(folder)
            (work / "context").mkdir()
            (work / "Dockerfile").write_text(task.dockerfile)
            metadata = work / "metadata.json"
            argv = self.command(task, dockerfile=str(work / "Dockerfile"))
            argv += ["--metadata-file", str(metadata), str(work / "context")]

            def sink(data: bytes) -> None:
                log.write(data)
                log.flush()
                if task.progress is not None:
                    for line in data.decode(errors="replace").splitlines():
                        if words := _step(line):
                            task.progress(words)

            try:
                done = process.run(
                    argv,
                    env=self._remote.environment if self._remote else None,
                    timeout=task.timeout,
                    check=False,
                    merge=True,
                    sink=sink,
                    stop=task.stop,
                )
            except Interrupted:
                return BuildOutcome(end=BuildEnd.STOPPED, seconds=time.monotonic() - started, reason="stopped")
            except ToolTimedOut:
                reason = f"still building after {task.timeout:g} s"
                return BuildOutcome(end=BuildEnd.TIMED_OUT, seconds=time.monotonic() - started, reason=reason)
            except ToolError as error:
                raise EngineMissing(error.message, hint="install Docker, or run ./quickstart engine") from error
            seconds = time.monotonic() - started
            if done.returncode == 0:
                return BuildOutcome(end=BuildEnd.BUILT, digest=_digest(metadata), seconds=seconds)
            return self._failed(done.text, seconds, killed=done.returncode < 0)

    def _failed(self, text: str, seconds: float, *, killed: bool = False) -> BuildOutcome:
        if any(sign in text for sign in _MISSING):
            raise EngineMissing(
                "docker has no buildx here, so BuildKit cannot be reached",
                hint="install docker-buildx (or docker-buildx-plugin), or run ./quickstart engine",
            )
        lines = failure_lines(text)
        fault = find_fault(text, lines)
        if killed and fault is None:
            fault = BuildFault(kind=FaultKind.CLIENT, said="docker buildx was killed", tries=1)
        if fault is None:
            return BuildOutcome(end=BuildEnd.FAILED, seconds=seconds, reason="\n".join(lines))
        end = BuildEnd.REGISTRY if fault.kind.of_registry else BuildEnd.ENGINE
        named = self._remote.place if self._remote else self._builder
        return BuildOutcome(end=end, seconds=seconds, reason=explain(fault, builder=named), fault=fault)


def _step(line: str) -> str | None:
    """Return in few words what BuildKit is at: the stage, and for the last stage the step; the rest is in the log."""
    if step := _STEP.match(line):
        stage, _, number = step[2].rpartition(" ")
        if step[2].startswith("internal"):
            return None
        return f"{stage.strip()} {number}" if stage.strip() == "image" else stage.strip()
    found = _EXPORT.match(line)
    return found[1] if found else None


def _digest(metadata: Path) -> str | None:
    try:
        value = json.loads(metadata.read_text()).get("containerimage.digest")
    except (OSError, ValueError):
        return None
    return value if isinstance(value, str) else None

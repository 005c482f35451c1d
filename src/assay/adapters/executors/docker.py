"""Probes in containers: as little privilege as works, files in and out through the engine's API."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from assay.adapters.executors.local import cuda_devices_in_child
from assay.errors import EngineError, EngineMissing, GpuMissing, UsageError
from assay.foundation.nearest import suggestion
from assay.ports.engine import Bind, Container, ContainerSpec, Engine, Exit
from assay.ports.executor import Place, ProbeRequest, Ran

__all__ = ["DockerExecutor"]

_WORK: Final = "/assay/work"
_CACHE: Final = "/assay-cache"
_PYTHONS: Final = (
    "python3",
    "/usr/bin/python3",
    "/usr/local/bin/python3",
    "/opt/venv/bin/python3",
    "/opt/conda/bin/python3",
    "python",
)
"""Where images keep their Python, tried in this order; the first that starts is the one their PATH means."""


class DockerExecutor:
    """Runs the harness in containers of an engine, this machine's or a remote one.

    Args:
        engine: the container engine.
        cache: a folder of this machine for what is compiled at run time; used with an engine of this machine only.
    """

    name: Literal["docker"] = "docker"

    def __init__(self, engine: Engine, *, cache: Path | None = None) -> None:
        self._engine = engine
        self._cache = cache

    def gpus(self) -> tuple[str, ...]:
        """Return the indexes of the GPUs that the engine can give."""
        info = self._engine.info()
        names, why = cuda_devices_in_child() if info.local else (("0",), "")
        if names and info.gpu is not None:
            return names
        missing, steps = [], []
        if info.local and not names:
            missing.append(f"driver: {why}")
            steps.append("install the NVIDIA driver (580 or later for CUDA 13 images); `nvidia-smi` must show the card")
        if info.gpu is None:
            toolkit = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-runtime")
            missing.append("device request: the engine knows neither NVIDIA's runtime nor a CDI description of a GPU")
            if toolkit is None:
                missing.append("toolkit: nvidia-ctk of the NVIDIA container toolkit is not on PATH")
                steps.append("install nvidia-container-toolkit")
            steps.append(
                "`nvidia-ctk runtime configure --runtime=docker` or `nvidia-ctk cdi generate "
                "--output=/etc/cdi/nvidia.yaml`, then restart the engine"
            )
        raise GpuMissing(
            "no GPU can be given to a container; missing:\n" + "\n".join(f"  {item}" for item in missing),
            hint="; ".join(steps),
        )

    def place(self, reference: str) -> Place:
        """Find an image that the engine holds."""
        image = self._engine.image(reference)
        if image is None:
            tags = [tag for item in self._engine.images() for tag in item.tags]
            raise UsageError(
                f"there is no image {reference!r} on this engine{suggestion(reference, tags)}",
                hint=f"`assay build` makes the images of cells; `docker pull {reference}` fetches a public one",
            )
        return Place(reference=reference, digest=image.digest or image.id)

    def sweep(self) -> Sequence[str]:
        """Remove the containers and workspaces of processes of this machine that are gone."""
        return self._engine.sweep()

    def run(self, request: ProbeRequest) -> Ran:
        """Run the harness in a container; see `assay.ports.executor.Executor`."""
        began = time.monotonic()
        tried: list[str] = []
        for python in _PYTHONS:
            ran = self._attempt(request, python, began)
            if ran is not None:
                return ran
            tried.append(python)
        return Ran(
            result=None,
            ended="no_python",
            message=f"the image has no Python that starts (tried {', '.join(tried)}): nothing in it can be probed",
            seconds=time.monotonic() - began,
        )

    def _attempt(self, request: ProbeRequest, python: str, began: float) -> Ran | None:
        """Run with one interpreter; None if the image does not have it."""
        last: bytes | None = None
        started = False
        try:
            with self._engine.container(self._spec(request, python)) as container:
                container.put(_WORK, self._files(request))
                container.start()
                started = True
                try:
                    end = self._watch(container, request)
                except EngineError as error:
                    # What was measured before may still be readable; if not, nothing is claimed.
                    last = _result(container)
                    return Ran(
                        result=last, ended="engine_lost", message=error.message, seconds=time.monotonic() - began
                    )
                if end.code in (126, 127) and end.seconds < 5 and _result(container) is None:
                    return None
                last = _result(container)
                log = container.logs(limit=256 << 10)
                ended, message = _how(end, stopped=request.stop is not None and request.stop.is_set())
                text = log.stderr + log.stdout
                if last is None and ended == "failed":
                    message += ": " + text.decode(errors="replace").strip()[-500:]
                return Ran(result=last, ended=ended, message=message, log=text, seconds=time.monotonic() - began)
        except GpuMissing:
            raise
        except EngineError as error:
            if isinstance(error, EngineMissing) and not started:
                raise
            # It died under a container that ran: what is left there is swept when the engine is back.
            return Ran(result=last, ended="engine_lost", message=error.message, seconds=time.monotonic() - began)

    def _spec(self, request: ProbeRequest, python: str) -> ContainerSpec:
        binds: Sequence[Bind] = ()
        if (cache := self._cache_folder(request)) is not None:
            binds = (Bind(source=str(cache), target=_CACHE, read_only=False),)
        limits = request.limits
        return ContainerSpec(
            image=request.place.reference,
            run=request.run,
            entrypoint=(python, "-u", f"{_WORK}/probes/harness.py", f"{_WORK}/job.json", f"{_WORK}/result.json"),
            command=(),
            env={"PYTHONDONTWRITEBYTECODE": "1", "HOME": f"{_WORK}/home"},
            workdir=_WORK,
            gpus=request.gpus,
            network="none",
            workspace=_WORK,
            binds=binds,
            tmpfs={"/tmp": 4 << 30, "/run": 64 << 20},  # noqa: S108 - inside the container
            read_only=True,
            memory_bytes=limits.memory_bytes,
            pids=limits.pids,
            shm_bytes=limits.shm_bytes,
        )

    def _files(self, request: ProbeRequest) -> dict[str, bytes | Path]:
        cache = _CACHE if self._cache_folder(request) is not None else f"{_WORK}/cache"
        job = {**request.job, "work": f"{_WORK}/run", "cache": cache}
        files: dict[str, bytes | Path] = {f"probes/{path}": data for path, data in request.suite.items()}
        files["job.json"] = json.dumps(job).encode()
        files["home/.keep"] = b""
        return files

    def _cache_folder(self, request: ProbeRequest) -> Path | None:
        if self._cache is None or not request.keep_cache or not self._engine.info().local:
            return None
        digest = (request.place.digest or request.place.reference).replace("sha256:", "").replace("/", "_")
        folder = self._cache / digest[:24]
        folder.mkdir(parents=True, exist_ok=True)
        # The image's user is not ours; what it compiles is only ever read by the same image again.
        folder.chmod(0o777)
        return folder

    def _watch(self, container: Container, request: ProbeRequest) -> Exit:
        if (stop := request.stop) is None:
            return self._followed(container, request)
        over = threading.Event()

        def kill_when_told() -> None:
            while not over.wait(0.2):
                if stop.is_set():
                    with suppress(EngineError):
                        container.kill()
                    return

        threading.Thread(target=kill_when_told, daemon=True).start()
        try:
            return self._followed(container, request)
        finally:
            over.set()

    def _followed(self, container: Container, request: ProbeRequest) -> Exit:
        if request.progress is None and request.keep is None:
            return container.wait(request.limits.seconds)

        def follow() -> None:
            rest = b""
            try:
                for data in container.follow():
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        if request.progress is not None:
                            request.progress(line.decode(errors="replace"))
                    # The harness says a line when it has written down how a probe ended.
                    if lines and request.keep is not None and (document := _result(container)) is not None:
                        request.keep(document)
            except EngineError:
                return

        reader = threading.Thread(target=follow, daemon=True)
        reader.start()
        end = container.wait(request.limits.seconds)
        reader.join(5)
        return end


def _result(container: Container) -> bytes | None:
    try:
        return next(iter(container.get(f"{_WORK}/result.json").values()), None)
    except EngineError:
        return None


def _how(
    end: Exit, *, stopped: bool
) -> tuple[Literal["finished", "killed", "out_of_memory", "timed_out", "failed", "stopped"], str]:
    if stopped and end.code != 0:
        return "stopped", "it was stopped"
    if end.timed_out:
        return "timed_out", f"the whole run took longer than its {end.seconds:.0f} s and was killed"
    if end.oom_killed and end.code != 0:
        return "out_of_memory", "the container used up the memory given to it"
    if end.signal is not None:
        return "killed", f"the container was killed from outside (signal {end.signal})"
    if end.code != 0:
        return "failed", f"the harness ended with code {end.code}" + (f": {end.error}" if end.error else "")
    return "finished", ""

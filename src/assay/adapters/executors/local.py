"""Programs in processes of this machine, with its own Python: where there is no container engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from assay.adapters.executors import this_machine
from assay.adapters.executors.probe_executor import ExecutorSettings, ProbeExecutor
from assay.adapters.host import process
from assay.errors import EngineError, GpuMissing, ToolError, UsageError
from assay.foundation.digest import digest_of
from assay.ports.engine import Exit
from assay.ports.jobs import Place
from assay.ports.task import LOCAL, TaskSpec

__all__ = ["LocalTask", "LocalTaskHost", "executor"]

_PACKAGES: Final = """
import json, sys
from importlib.metadata import distributions
print(json.dumps(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata['Name']})))
"""

_TETHERED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        print(sys.argv[2], "cannot be executed:", error.strerror, file=sys.stderr)
        sys.exit(126)
"""
"""Becomes another program, which the kernel asks to end when assay dies (PR_SET_PDEATHSIG): nobody else would."""


def executor(settings: ExecutorSettings) -> ProbeExecutor:
    """Return the executor that the table of executors calls `local`."""
    cache = None if settings.cache is None else settings.cache / "local"
    return ProbeExecutor(LocalTaskHost(python=settings.python, cache=cache), settings.suites)


class LocalTask:
    """A process in its own session with its output in a file; see `assay.ports.task.Task`."""

    def __init__(self, folder: Path, argv: Sequence[str], *, env: Mapping[str, str], cache: Path, port: int) -> None:
        self._work = folder / "work"
        self._work.mkdir()
        self._log = folder / "log"
        self._log.touch()
        cache.mkdir(parents=True, exist_ok=True)
        self.work = str(self._work)
        self.cache = str(cache)
        self.base = f"http://{this_machine.ADDRESS}:{port}"
        self._argv = [word.replace("{work}", self.work) for word in argv]
        self._env = env
        self._popen: subprocess.Popen[bytes] | None = None
        self._missing = ""
        self._began = self._ended = 0.0

    def put(self, files: Mapping[str, bytes | Path]) -> None:
        """Write files; see the port."""
        for name, content in files.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise EngineError(f"a file for a task cannot be named {name!r}")
            path = self._work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())

    def start(self) -> None:
        """Start it; see the port."""
        self._began = time.monotonic()
        if shutil.which(self._argv[0]) is None:
            self._missing = f"{self._argv[0]} is not installed on this machine"
            return
        with self._log.open("wb") as sink:
            self._popen = subprocess.Popen(
                [sys.executable, "-S", "-c", _TETHERED, str(os.getpid()), *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._env},
                start_new_session=True,
            )

    def read(self, name: str) -> bytes | None:
        """Return a file of the work folder."""
        try:
            return (self._work / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None

    def running(self) -> bool:
        """Say whether its process is there."""
        return self._popen is not None and self._popen.poll() is None

    def kill(self, name: str = "SIGKILL") -> None:
        """Send a signal to the process; after SIGKILL its group is gone too."""
        if self._popen is None or not self.running():
            return
        self._popen.send_signal(signal.Signals[name])
        if name == "SIGKILL":
            self._sweep()

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for its end; when time is up ask it to end, then kill it."""
        if self._popen is None:
            code = 127 if self._missing else 0
            return Exit(code=code, signal=None, oom_killed=False, timed_out=False, seconds=0.0, error=self._missing)
        timed_out = False
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.end()
        self._ended = self._ended or time.monotonic()
        code = self._popen.returncode
        return Exit(
            code=128 - code if code < 0 else code,
            signal=-code if code < 0 else None,
            oom_killed=False,
            timed_out=timed_out,
            seconds=self._ended - self._began,
        )

    def end(self) -> None:
        """End the process and all of its group."""
        if self._popen is None:
            return
        if self.running():
            self._popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(process.GRACE_SECONDS)
        self._sweep()
        self._popen.wait(30)

    def _sweep(self) -> None:
        # Engines start workers; they may outlive the process that was asked to end, and hold the GPU's memory.
        if self._popen is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def log(self, *, limit: int = 1 << 20) -> bytes:
        """Return what it wrote so far."""
        size = self._log.stat().st_size
        with self._log.open("rb") as file:
            if size <= limit:
                return file.read()
            head = file.read(limit // 2)
            file.seek(size - limit // 2)
            return head + b"\n[... %d bytes left out ...]\n" % (size - limit) + file.read()

    def follow(self) -> Iterator[bytes]:
        """Yield what it writes until it ends."""
        with self._log.open("rb") as file:
            while True:
                alive = self.running()
                if data := file.read(1 << 16):
                    yield data
                elif not alive:
                    return
                else:
                    time.sleep(0.05)


class LocalTaskHost:
    """Runs things with a Python of this machine; see `assay.ports.task.TaskHost`.

    Args:
        python: the interpreter with the packages (default: `python3` on PATH).
        cache: folder for what is compiled at run time, with one for each environment in it; a temporary one if None.
    """

    name = "local"
    pythons = ("python3",)

    def __init__(self, *, python: str | None = None, cache: Path | None = None) -> None:
        self._python = python or shutil.which("python3") or sys.executable
        self._cache = cache

    def gpus(self) -> tuple[str, ...]:
        """Return the names of this machine's GPUs."""
        names, why = this_machine.cuda_devices_in_child()
        if not names:
            raise GpuMissing(
                f"no GPU on this machine; missing: driver: {why}",
                hint="install the NVIDIA driver (580 or later for CUDA 13); `nvidia-smi` must show the card",
            )
        return names

    def place(self, reference: str) -> Place:
        """Return this environment; its digest is that of the names and versions of what is installed."""
        if reference != LOCAL:
            raise UsageError(
                f"the local executor probes its own environment, not {reference!r}",
                hint="assay probe --executor local, without naming an image",
            )
        try:
            done = process.run([self._python, "-c", _PACKAGES], timeout=120)
        except ToolError as error:
            raise UsageError(f"{self._python} cannot be probed: {error.message}") from error
        return Place(reference=LOCAL, digest=digest_of(["local", *json.loads(done.stdout)]))

    def labels(self, reference: str) -> Mapping[str, str]:  # noqa: ARG002 - the port names it
        """Return the labels of an image; none: this is not an image."""
        return {}

    def manifest(self, reference: str) -> None:
        """Return None: this is not an image."""

    def sweep(self) -> Sequence[str]:
        """Remove nothing: a process ends with the one that started it."""
        return ()

    @contextmanager
    def task(self, spec: TaskSpec) -> Iterator[LocalTask]:
        """Prepare a process."""
        if spec.mounts:
            raise UsageError("folders can be mounted in containers only", hint="leave the mounts out, or name an image")
        this_machine.need_free_port(spec.port)
        port = (spec.port or this_machine.free_port(spec.ports_beside)) if spec.network else 0
        argv = [word.replace("{port}", str(port)).replace("{host}", this_machine.ADDRESS) for word in spec.argv]
        if argv[0] in {"python", "python3"}:
            argv[0] = self._python
        env = dict(spec.env)
        if spec.gpus != "all":
            env.setdefault("CUDA_VISIBLE_DEVICES", ",".join(spec.gpus))
        with tempfile.TemporaryDirectory(prefix=f"assay-{'serve' if spec.network else 'probe'}-") as name:
            folder = Path(name)
            task = LocalTask(folder, argv, env=env, cache=self._cache_folder(spec) or folder / "cache", port=port)
            try:
                yield task
            finally:
                task.end()

    def _cache_folder(self, spec: TaskSpec) -> Path | None:
        """Return where what this environment compiles is kept: its build files name paths of the environment.

        Two that shared a folder would each compile anew what the other one had compiled.
        """
        if self._cache is None or spec.cache is None:
            return None
        key = digest_of([spec.cache, str(Path(self._python).absolute())])
        return self._cache / key.removeprefix("sha256:")[:24]

    def gpu_memory_bytes(self, uuids: Collection[str]) -> int | None:
        """Return the memory in use on these GPUs."""
        return this_machine.gpu_memory_bytes(uuids)

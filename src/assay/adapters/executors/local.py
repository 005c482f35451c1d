"""Probes in this machine's own Python, where there is no container engine."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from assay.adapters.host import process
from assay.errors import GpuMissing, Interrupted, ToolError, UsageError
from assay.foundation.digest import digest_of
from assay.ports.executor import Place, ProbeRequest, Ran

__all__ = ["LocalExecutor", "cuda_devices_in_child", "visible_gpus"]

_PACKAGES = """
import json, sys
from importlib.metadata import distributions
print(json.dumps(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata['Name']})))
"""


_DEVICES = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    print(0, "the NVIDIA driver's libcuda.so.1 is not found on this machine")
else:
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    told = f"the driver is there but answers with error {status} (user and kernel part of two versions?)"
    print(count.value, told if status else "" if count.value else "the driver shows no GPU")
"""

_TETHERED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes another program, which the kernel asks to end when assay dies (PR_SET_PDEATHSIG): nobody else would."""


def cuda_devices_in_child() -> tuple[tuple[str, ...], str]:
    """Return the names of the GPUs that the driver of this machine shows, and why there are none.

    Asked in a child: a CUDA context of ours would cost memory on the card, and a driver can crash.
    """
    done = process.run([sys.executable, "-c", _DEVICES], timeout=60, check=False)
    count, _, why = done.text.strip().partition(" ")
    return (visible_gpus(int(count)), why) if count.isdigit() else ((), "asking the driver ended the process")


def visible_gpus(count: int) -> tuple[str, ...]:
    """Return the names of the GPUs that a user leaves to us: those in CUDA_VISIBLE_DEVICES, or all `count` by index."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return tuple(name for name in named if name)[:count] or tuple(str(index) for index in range(count))


class LocalExecutor:
    """Runs the harness with a Python of this machine, in a child process of its own session.

    Args:
        python: the interpreter whose packages are probed (default: `python3` on PATH).
        cache: folder for what is compiled at run time, with one for each environment in it; a temporary one if None.
    """

    name: Literal["local"] = "local"

    def __init__(self, *, python: str | None = None, cache: Path | None = None) -> None:
        self._python = python or shutil.which("python3") or sys.executable
        self._cache = cache

    def gpus(self) -> tuple[str, ...]:
        """Return the indexes of this machine's GPUs."""
        names, why = cuda_devices_in_child()
        if not names:
            raise GpuMissing(
                f"no GPU on this machine; missing: driver: {why}",
                hint="install the NVIDIA driver (580 or later for CUDA 13); `nvidia-smi` must show the card",
            )
        return names

    def place(self, reference: str) -> Place:
        """Return this environment; its digest is that of the names and versions of what is installed."""
        if reference != "local":
            raise UsageError(
                f"the local executor probes its own environment, not {reference!r}",
                hint="assay probe --executor local, without naming an image",
            )
        try:
            done = process.run([self._python, "-c", _PACKAGES], timeout=120)
        except ToolError as error:
            raise UsageError(f"{self._python} cannot be probed: {error.message}") from error
        return Place(reference="local", digest=digest_of(["local", *json.loads(done.stdout)]))

    def sweep(self) -> tuple[str, ...]:
        """Remove nothing: a harness ends with the process that started it."""
        return ()

    def _cache_folder(self, request: ProbeRequest) -> Path | None:
        """Return where what this environment compiles is kept: its build files name paths of the environment.

        Two that shared a folder would each compile anew what the other one had compiled.
        """
        if self._cache is None or not request.keep_cache:
            return None
        key = digest_of([request.place.digest or "", str(Path(self._python).absolute())])
        return self._cache / key.removeprefix("sha256:")[:24]

    def run(self, request: ProbeRequest) -> Ran:
        """Run the harness; see `assay.ports.executor.Executor`."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="assay-probe-") as folder:
            root = Path(folder)
            for path, data in request.suite.items():
                target = root / "probes" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            cache = self._cache_folder(request) or root / "cache"
            cache.mkdir(parents=True, exist_ok=True)
            job = {**request.job, "work": str(root / "work"), "cache": str(cache)}
            (root / "job.json").write_text(json.dumps(job))
            (root / "tethered.py").write_text(_TETHERED)
            result = root / "result.json"
            # A path of the caller's own interpreter must not leak into the one that is probed.
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(request.gpus), "PYTHONDONTWRITEBYTECODE": "1"}
            log = bytearray()

            def sink(data: bytes) -> None:
                log.extend(data[: max(0, (1 << 20) - len(log))])
                if request.progress:
                    for line in data.decode(errors="replace").splitlines():
                        request.progress(line)
                # The harness says a line when it has written down how a probe ended.
                if request.keep and b"\n" in data and result.exists():
                    request.keep(result.read_bytes())

            argv: list[str | Path] = [self._python, "-S", root / "tethered.py", str(os.getpid())]
            argv += [self._python, root / "probes" / "harness.py", root / "job.json", result]
            ended: Literal["finished", "timed_out", "failed", "killed", "stopped"] = "finished"
            message = ""
            try:
                done = process.run(
                    argv,
                    env=environment,
                    timeout=request.limits.seconds,
                    check=False,
                    merge=True,
                    sink=sink,
                    stop=request.stop,
                )
                if done.returncode < 0:
                    ended, message = "killed", f"the harness was killed by signal {-done.returncode}"
                elif done.returncode:
                    ended, message = "failed", f"the harness ended with code {done.returncode}: {done.text[-500:]}"
            except Interrupted:
                ended, message = "stopped", "it was stopped"
            except ToolError as error:
                ended, message = "timed_out", error.message
            document = result.read_bytes() if result.exists() else None
            return Ran(result=document, ended=ended, message=message, log=bytes(log), seconds=time.monotonic() - began)

    @property
    def environment(self) -> dict[str, str]:
        """The interpreter and its search path, for notes."""
        return {"python": self._python, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

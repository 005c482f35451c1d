"""Servers in the Python environment of this machine: for machines without a container engine, and for trying out."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from assay.adapters.host import process
from assay.errors import EngineError, GpuMissing, ToolError
from assay.evidence.record import Device
from assay.ports.server import Output, RunningServer, ServerEnded, ServerFacts, ServerSpec

__all__ = ["LocalServer", "LocalServerHost", "devices_of", "free_port", "gpu_memory_bytes", "port_taken"]

_LOG_BYTES: Final = 8 << 20
_ADDRESS: Final = "127.0.0.1"


def port_taken(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
        except OSError:
            return True
        return False


def free_port(beside: Iterable[int] = ()) -> int:
    """Return a port that nobody listens on now, nor on those `beside` it (distances).

    It is lower than the ports that the system chooses by itself, and leaves room for some 30,000 above it.
    """
    for port in random.sample(range(20_000, 30_000), 200):
        if not any(port_taken(port + distance) for distance in (0, *beside)):
            return port
    raise ToolError("no free port was found between 20000 and 30000", hint="name one: --port")


def gpu_memory_bytes(uuids: Collection[str] = ()) -> int | None:
    """Return the memory in use on GPUs of this machine, as nvidia-smi tells it; on the first without `uuids`."""
    asked = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    try:
        rows = [line.partition(", ") for line in process.run(asked, timeout=20).text.splitlines() if line.strip()]
        used = {uuid.strip(): int(mebibytes) << 20 for uuid, _, mebibytes in rows}
    except (ToolError, ValueError):
        return None
    mine = [used[uuid] for uuid in uuids if uuid in used] or list(used.values())[:1]
    return sum(mine) if mine else None


class LocalServer:
    """A server that runs as a process group of its own, its output in a file."""

    def __init__(self, popen: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._popen = popen
        self._log = log
        self.base = f"http://{_ADDRESS}:{port}"

    def running(self) -> bool:
        """Say whether its process is there."""
        return self._popen.poll() is None

    def log(self) -> str:
        """Return what it wrote so far."""
        size = self._log.stat().st_size
        with self._log.open("rb") as file:
            if size <= _LOG_BYTES:
                return file.read().decode(errors="replace")
            head = file.read(_LOG_BYTES // 2)
            file.seek(size - _LOG_BYTES // 2)
            gap = b"\n[... %d bytes left out ...]\n" % (size - _LOG_BYTES)
            return (head + gap + file.read()).decode(errors="replace")

    def stop(self, *, grace: float) -> ServerEnded:
        """Ask it to end, then kill the whole group."""
        began = time.monotonic()
        forced = False
        was_running = self.running()
        if was_running:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                forced = True
        self._sweep()
        code = self._popen.wait(30)
        return ServerEnded(
            code=None if code < 0 else code,
            signal=-code if code < 0 else None,
            seconds=time.monotonic() - began if was_running else 0.0,
            forced=forced,
        )

    def _sweep(self) -> None:
        # Engines start workers; they may outlive the process that was asked to end, and hold the GPU's memory.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)


class LocalServerHost:
    """Implements `assay.ports.server.ServerHost` with this machine's processes."""

    executor: Literal["docker", "local"] = "local"
    reference = "local"

    def __init__(
        self,
        *,
        facts_program: Path,
        python: str | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`facts_program` is probes/probelib/facts.py; `python` the interpreter with the packages.

        `env` is laid over this process' environment for every server.
        """
        self._facts_program = facts_program
        self._python = python or sys.executable
        self._port = port
        self._env = dict(env or {})
        self._uuids: tuple[str, ...] = ()

    def facts(self) -> ServerFacts:
        """Read devices and packages with the interpreter that would run the server."""
        with tempfile.TemporaryDirectory(prefix="assay-facts-") as folder:
            answer = Path(folder) / "facts.json"
            try:
                process.run([self._python, self._facts_program, answer], timeout=300)
            except ToolError as error:
                raise EngineError(f"the Python environment could not be read: {error}") from error
            said = json.loads(answer.read_text())
        facts = ServerFacts(devices=devices_of(said), packages=said["packages"])
        self._uuids = tuple(device.uuid for device in facts.devices)
        return facts

    def output(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Output:
        """Run a short program to its end."""
        try:
            done = process.run(self._words(argv), env=env, timeout=timeout, check=False, merge=True)
        except ToolError as error:
            return Output(code=127, text=str(error))
        return Output(code=done.returncode, text=done.text)

    @contextmanager
    def start(self, spec: ServerSpec) -> Iterator[RunningServer]:
        """Start a server; it and all its processes are gone when the context ends."""
        port = self._port or free_port(spec.ports_beside)
        if port_taken(port):
            raise EngineError(f"port {port} is in use", hint="leave --port out, or stop what listens there")
        argv = [word.replace("{port}", str(port)).replace("{host}", _ADDRESS) for word in self._words(spec.argv)]
        if shutil.which(argv[0]) is None:
            raise EngineError(f"{argv[0]} is not installed here", hint="serve-check IMAGE runs it in a container")
        with tempfile.TemporaryDirectory(prefix="assay-serve-") as folder:
            log = Path(folder) / "server.log"
            with log.open("wb") as sink:
                popen = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self._env, **spec.env},
                    start_new_session=True,
                )
            server = LocalServer(popen, port, log)
            try:
                yield server
            finally:
                if popen.poll() is None:
                    server.stop(grace=10)
                server._sweep()
                popen.wait(30)

    def gpu_memory_bytes(self) -> int | None:
        """Return what is in use on the GPUs that `facts` saw."""
        return gpu_memory_bytes(self._uuids)

    def _words(self, argv: Sequence[str]) -> list[str]:
        return [self._python if argv[0] in {"python", "python3"} else argv[0], *argv[1:]]


def devices_of(said: Mapping[str, object]) -> tuple[Device, ...]:
    """Read the devices of a facts document.

    Raises:
        GpuMissing: the document is not what facts.py writes.
    """
    listed = said.get("devices")
    if not isinstance(listed, list):
        raise GpuMissing("the facts of the place name no list of devices")
    return tuple(
        Device(
            name=str(entry["name"]),
            capability=str(entry["capability"]),
            memory_bytes=int(entry["memory_bytes"]),
            uuid=str(entry.get("uuid", "")),
            driver=str(said.get("driver", "")),
            cuda=str(said.get("cuda", "")),
        )
        for entry in listed
    )

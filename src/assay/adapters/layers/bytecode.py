"""Bytecode compiled with the Python of an image's base, which runs from its unpacked files: no engine, no root."""

from __future__ import annotations

import hashlib
import os
import queue
import resource
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from assay.adapters.layers.compile_program import SECONDS
from assay.errors import ToolError

__all__ = ["Compilers", "SharedCompilers"]

PROGRAM: Final = Path(__file__).with_name("compile_program.py")
TIMEOUT: Final = 60.0
"""Seconds that ending a compiler may take."""
MEMORY: Final = 4 << 30
"""Bytes of address space of one process; 4 MB of the shortest statements take 1.7 GB."""


class Compilers:
    """Some processes of one Python, each compiling one source at a time.

    Args:
        command: runs the base's Python; a program's path is added.
        count: processes.
        environment: of the processes; nothing else is in it.
    """

    def __init__(self, command: Sequence[str], *, count: int, environment: dict[str, str]) -> None:
        self._command = [*command, "-I", "-S", "-B", str(PROGRAM)]
        self._environment = {**environment, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compile")
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=self._environment,
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        except OSError as error:
            raise ToolError(f"the base's Python cannot be run: {error}") from error
        with self._guard:
            self._all.append(process)
        self._idle.put(process)

    def submit(self, path: str, source: bytes) -> Future[bytes]:
        """Compile a source in the background; the result is empty where it cannot be compiled."""
        return self._pool.submit(self._one, path.encode("utf-8", "surrogateescape"), source)

    def _one(self, path: bytes, source: bytes) -> bytes:
        process = self._idle.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(struct.pack(">I", len(path)) + path + struct.pack(">I", len(source)) + source)
            process.stdin.flush()
            head = process.stdout.read(4)
            size = struct.unpack(">I", head)[0] if len(head) == 4 else -1
            data = process.stdout.read(size) if size >= 0 else b""
        except (OSError, ValueError):
            size, data = -1, b""
        if size < 0 or len(data) != size:
            # A source may crash the compiler (deep nesting): such a file has no bytecode, and the next a new process.
            process.kill()
            process.wait()
            # What ran out of memory or time would have bytecode on a larger machine: that is refused instead.
            if process.returncode not in (-6, -11):
                self._idle.put(process)
                raise ToolError(
                    f"the base's Python ended while it compiled {path.decode(errors='replace')}",
                    hint="is memory short? A file of a wheel that takes more than "
                    f"{MEMORY >> 30} GiB or {SECONDS} s to compile is refused",
                )
            self._start()
            return b""
        self._idle.put(process)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for process in self._all:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


class SharedCompilers:
    """Compilers for images that are assembled at once or one after the other: what two have in common is compiled once.

    The processes run while an image uses them. Bytecode is kept in a file without a name as long as this process lives.

    Args:
        make: starts compilers of one Python.
        scratch: is on the disk that bytecode is kept on.
    """

    def __init__(self, make: Callable[[], Compilers], scratch: Path) -> None:
        self._make = make
        self._running: Compilers | None = None
        self._users = 0
        self._guard = threading.Lock()
        self._scratch = scratch
        self._file: int | None = None
        """Descriptor; open until this process ends."""
        self._end = 0
        self._known: dict[bytes, Future[bytes] | tuple[int, int]] = {}
        """Digest of a path and a source -> its bytecode to come, or its length and where it begins in the file."""

    @contextmanager
    def used(self) -> Iterator[Self]:
        """Keep the processes running."""
        with self._guard:
            self._running = self._running or self._make()
            self._users += 1
        try:
            yield self
        finally:
            with self._guard:
                self._users -= 1
                ended = None if self._users else self._running
                self._running = self._running if self._users else None
            if ended is not None:
                ended.__exit__()

    def submit(self, path: str, source: bytes) -> Future[bytes]:
        """Compile a source in the background, unless that was done before; see the port."""
        key = hashlib.sha256(path.encode("utf-8", "surrogateescape") + b"\0" + source).digest()
        with self._guard:
            assert self._running is not None
            found = self._known.get(key)
            if isinstance(found, Future):
                return found
            if found is None:
                future = self._known[key] = self._running.submit(path, source)
        if found is None:
            future.add_done_callback(partial(self._keep, key))
        else:
            assert self._file is not None
            future = Future()
            future.set_result(os.pread(self._file, *found))
        return future

    def _keep(self, key: bytes, future: Future[bytes]) -> None:
        """Put bytecode into the file; what failed, or does not fit on the disk, is compiled again when it is needed."""
        with self._guard:
            del self._known[key]
            if future.cancelled() or future.exception() is not None:
                return
            data = future.result()
            with suppress(OSError):
                if self._file is None:
                    with tempfile.TemporaryFile(dir=self._scratch) as file:
                        self._file = os.dup(file.fileno())
                if os.pwrite(self._file, data, self._end) == len(data):
                    self._known[key] = len(data), self._end
                    self._end += len(data)

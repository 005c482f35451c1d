"""A container whose programs are Python functions; belongs to the engine in memory."""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from assay.errors import EngineError
from assay.foundation.digest import sha256_of
from assay.ports.engine import ContainerSpec, Exit, ImageLayer, Logs

__all__ = ["FakeContainer", "FakeImage", "Killed", "Process", "Program"]

_SIGNALS: Final = {"SIGKILL": 9, "SIGTERM": 15, "SIGINT": 2, "SIGHUP": 1}


class Killed(BaseException):
    """Raised inside a program that was sent a signal; a program does not catch it."""


@dataclass
class Process:
    """What a program in a container sees."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: dict[str, bytes]
    """Absolute path -> bytes; what is written here can be read back with `get`."""
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    signal: threading.Event = field(default_factory=threading.Event)
    oom: bool = False
    ignores_term: bool = False
    """Set by a program that goes on after SIGTERM."""

    def print(self, text: str, *, error: bool = False) -> None:
        """Write a line to standard output or error."""
        (self.stderr if error else self.stdout).extend(text.encode() + b"\n")

    def sleep(self, seconds: float) -> None:
        """Sleep as a real program would: a signal ends it."""
        if self.signal.wait(seconds):
            raise Killed

    def run_out_of_memory(self) -> None:
        """Be killed by the kernel for memory."""
        self.oom = True
        raise Killed


Program = Callable[[Process], int]


@dataclass(frozen=True, kw_only=True)
class FakeImage:
    """An image made of files and programs."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path -> bytes."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Absolute path -> target of a symlink."""
    programs: Mapping[str, Program] = field(default_factory=dict)
    """What is run when this is the first word of the command; with or without its folder."""
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    size_bytes: int = 1000
    layers: tuple[ImageLayer, ...] = ()
    digest: str = ""
    """Of the manifest, where it came with one."""

    @property
    def id(self) -> str:
        """A digest of what it holds."""
        return self.digest or sha256_of(
            repr((sorted(self.files.items()), sorted(self.labels.items()), sorted(self.env.items()))).encode()
        )


class FakeContainer:
    """A container whose program runs in a thread."""

    def __init__(self, answer: Callable[[], None], spec: ContainerSpec, image: FakeImage, *, number: int) -> None:
        self.spec = spec
        self.id = f"{number:064x}"
        self._answer = answer
        self._image = image
        entrypoint = image.entrypoint if spec.entrypoint is None else tuple(spec.entrypoint)
        # As in the real engine, a new entry point drops the image's own command.
        command = tuple(spec.command) or (image.command if spec.entrypoint is None else ())
        self._process = Process(argv=(*entrypoint, *command), env={**image.env, **spec.env}, files=dict(image.files))
        self._folders = {posixpath.dirname(path) for path in image.files} | {"/"}
        if spec.workspace:
            self._folders |= {spec.workspace, posixpath.dirname(spec.workspace)}
        self._thread: threading.Thread | None = None
        self._exit: Exit | None = None
        self._sent: int | None = None

    def start(self) -> None:
        """Start the program; one that is missing gives code 127."""
        self._answer()
        if not self._process.argv:
            raise EngineError(f"starting a container of {self.spec.image}: the engine says: no command specified")
        word = self._process.argv[0]
        program = self._image.programs.get(word) or self._image.programs.get(posixpath.basename(word))
        if program is None:
            said = f'exec: "{word}": executable file not found in $PATH'
            self._exit = Exit(code=127, signal=None, oom_killed=False, timed_out=False, seconds=0.0, error=said)
            return
        self._thread = threading.Thread(target=self._run, args=(program,), daemon=True)
        self._thread.start()

    def _run(self, program: Program) -> None:
        started = time.monotonic()
        try:
            code = program(self._process)
        except Killed:
            code = 128 + (9 if self._process.oom else self._sent or 9)
        self._exit = Exit(
            code=code,
            signal=code - 128 if code > 128 else None,
            oom_killed=self._process.oom,
            timed_out=False,
            seconds=time.monotonic() - started,
        )

    def put(self, folder: str, files: Mapping[str, bytes | Path]) -> None:
        """Write files into a folder that exists."""
        self._answer()
        folder = posixpath.normpath(folder)
        inside = self.spec.workspace is not None and (folder + "/").startswith(
            posixpath.dirname(self.spec.workspace) + "/"
        )
        doing = f"writing files to {folder} in a container of {self.spec.image}"
        if self.spec.read_only and not inside:
            raise EngineError(f"{doing}: the engine says: container rootfs is marked read-only")
        if folder not in self._folders:
            raise EngineError(f"{doing}: the engine says: could not find the file {folder}")
        for name, content in files.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise EngineError(f"a file for a container cannot be named {name!r}")
            path = posixpath.join(folder, name)
            self._folders.add(posixpath.dirname(path))
            self._process.files[path] = content if isinstance(content, bytes) else content.read_bytes()

    def get(self, path: str, *, limit: int = 64 << 20) -> dict[str, bytes]:
        """Read a file or a folder."""
        self._answer()
        path = posixpath.normpath(path)
        files = dict(self._process.files)
        if path in files:
            found = {posixpath.basename(path): files[path]}
        else:
            start = path.rstrip("/") + "/"
            found = {name.removeprefix(start): data for name, data in files.items() if name.startswith(start)}
        if sum(map(len, found.values())) > limit:
            raise EngineError(f"more than {limit} bytes lie in {path} of a container of {self.spec.image}")
        return found

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end; kill it when time is up."""
        self._answer()
        timed_out = False
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                timed_out = True
                self.kill()
                self._thread.join()
        if self._exit is None:
            return Exit(code=0, signal=None, oom_killed=False, timed_out=False, seconds=0.0)
        return replace(self._exit, timed_out=timed_out)

    def running(self) -> bool:
        """Say whether the program runs."""
        self._answer()
        return self._thread is not None and self._thread.is_alive()

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal; a fake program dies of any that it does not ignore."""
        self._answer()
        self.end(signal)

    def end(self, signal: str = "SIGKILL") -> None:
        """Kill the program, engine or not."""
        ignored = signal == "SIGTERM" and self._process.ignores_term
        if self._thread is not None and self._thread.is_alive() and not ignored:
            self._sent = _SIGNALS[signal]
            self._process.signal.set()

    def logs(self, *, limit: int = 1 << 20) -> Logs:
        """Return the output so far."""
        self._answer()
        out, err = bytes(self._process.stdout), bytes(self._process.stderr)
        return Logs(stdout=_cut(out, limit), stderr=_cut(err, limit), truncated=max(len(out), len(err)) > limit)

    def follow(self) -> Iterator[bytes]:
        """Yield output until the end."""
        seen = {"stdout": 0, "stderr": 0}
        while True:
            alive = self._thread is not None and self._thread.is_alive()
            for name, count in seen.items():
                new = bytes(getattr(self._process, name)[count:])
                seen[name] += len(new)
                if new:
                    yield new
            if not alive:
                return
            time.sleep(0.005)

    def host_port(self, port: int) -> int:
        """Return where it is published, else the port itself: a fake program serves on the loopback interface."""
        if port not in self.spec.ports or not self.running():
            raise EngineError(f"port {port} of a container of {self.spec.image} is not published; does it run?")
        return self.spec.publish_at or port


def _cut(data: bytes, limit: int) -> bytes:
    half = max(limit // 2, 1)
    dropped = len(data) - 2 * half
    return data if dropped <= 0 else data[:half] + b"\n[... %d bytes left out ...]\n" % dropped + data[-half:]

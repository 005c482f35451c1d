"""The one place through which every program runs: an argument list, never a shell; bounded output; a time limit."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from assay.errors import Interrupted, ToolError, ToolTimedOut
from assay.foundation.secret import hide, words_without

__all__ = ["Completed", "find", "run"]

LOG: Final = logging.getLogger("assay.process")
GRACE_SECONDS: Final = 5.0
"""How long a program may take to end after SIGTERM before it gets SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a program that ended left behind; a negative `returncode` is the number of the signal that killed it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    """Empty if it was merged into `stdout`."""
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")


class _Bounded:
    """Keeps the first and the last half of `limit` bytes; what lay between is named by its size."""

    def __init__(self, limit: int) -> None:
        self._half = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        if (over := len(self._tail) - self._half) > 0:
            del self._tail[:over]
            self._dropped += over

    def value(self) -> bytes:
        gap = b"\n[... %d bytes left out ...]\n" % self._dropped if self._dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


def find(program: str) -> str | None:
    """Return the path of a program on PATH, or None."""
    return shutil.which(program)


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
    merge: bool = False,
    limit: int = 4 << 20,
    sink: Callable[[bytes], None] | None = None,
    stop: threading.Event | None = None,
    hint: str | None = None,
) -> Completed:
    """Run a program to its end and return what it wrote.

    The command is logged, so no secret may stand in `argv`: use `stdin` or `env`, which is laid over the environment.
    The program gets a process group of its own, which is ended (SIGTERM, then SIGKILL) when time is up or when this
    call is left by an exception (Ctrl-C).

    Args:
        timeout: seconds; None waits for ever.
        check: raise on a return code other than 0.
        merge: send standard error into standard output, in order.
        limit: bytes kept of each stream; of longer output the middle is left out.
        sink: is given every chunk of both streams as it comes, from one thread at a time (for logs and progress). What
            it raises (a full disk) ends the program and comes out of this call.
        stop: ends the program when it is set, for programs that are run from other threads than the one Ctrl-C reaches.
        hint: what a person should try when the program is missing or fails.

    Raises:
        ToolError: the program is missing, could not be started, ran out of time, or (with `check`) failed.
        Interrupted: `stop` was set.
    """
    words = [str(word) for word in argv]
    shown = shlex.join(words_without(words))
    LOG.info("$ %s", shown)
    started = time.monotonic()
    process = _started(words, cwd=cwd, env=env, stdin=stdin is not None, merge=merge, hint=hint)
    kept = (_Bounded(limit), _Bounded(limit))
    failed: list[Exception] = []
    threads = _attend(process, kept, stdin, sink, failed)
    try:
        _wait(process, words[0], timeout, stop)
    except subprocess.TimeoutExpired:
        _end(process)
        raise ToolTimedOut(f"{shown}: still running after {timeout:g} s, stopped", hint=hint) from None
    except BaseException:
        _end(process)
        raise
    _join(threads)
    if failed:
        _end(process)
        raise failed[0]
    out, err = kept[0].value(), kept[1].value()
    spent = time.monotonic() - started
    done = Completed(argv=tuple(words), returncode=process.returncode, stdout=out, stderr=err, seconds=spent)
    if check and done.returncode != 0:
        raise ToolError(_failure(done), hint=hint)
    return done


def _started(
    words: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, stdin: bool, merge: bool, hint: str | None
) -> subprocess.Popen[bytes]:
    """Start a program with pipes for its streams; raises ToolError where that fails."""
    executable = find(words[0])
    if executable is None:
        raise ToolError(f"{words[0]} is not installed (not found on PATH)", hint=hint)
    try:
        return subprocess.Popen(
            [executable, *words[1:]],
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"{words[0]} could not be started: {error}", hint=hint) from error


def _wait(process: subprocess.Popen[bytes], name: str, timeout: float | None, stop: threading.Event | None) -> None:
    """Wait for the end. Raises TimeoutExpired when time is up, Interrupted when `stop` was set first."""
    if stop is None:
        process.wait(timeout)
        return
    deadline = None if timeout is None else time.monotonic() + timeout
    while process.poll() is None:
        if deadline is not None and time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, timeout or 0)
        if stop.wait(0.1):
            raise Interrupted(f"{name} was stopped")


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        # A grandchild may hold the pipe open for ever; what the program itself wrote is there by now.
        thread.join(GRACE_SECONDS)


def _attend(
    process: subprocess.Popen[bytes],
    kept: tuple[_Bounded, _Bounded],
    stdin: bytes | None,
    sink: Callable[[bytes], None] | None,
    failed: list[Exception],
) -> list[threading.Thread]:
    """Start one thread for each pipe of a process, so that none of them can fill up and block it.

    When the sink fails, its error goes to `failed`, the process group is asked to end, and the pipes are emptied on.
    """
    lock = threading.Lock()

    def drain(stream: IO[bytes], into: _Bounded) -> None:
        with stream:
            while data := os.read(stream.fileno(), 1 << 16):
                into.add(data)
                if sink is None or failed:
                    continue
                try:
                    with lock:
                        sink(data)
                except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
                    failed.append(error)
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGTERM)

    def feed(stream: IO[bytes], data: bytes) -> None:
        # A program that does not read its input is not a failure of ours.
        with suppress(BrokenPipeError), stream:
            stream.write(data)

    threads = [
        threading.Thread(target=drain, args=(stream, into), daemon=True)
        for stream, into in zip((process.stdout, process.stderr), kept, strict=True)
        if stream is not None
    ]
    if process.stdin is not None and stdin is not None:
        threads.append(threading.Thread(target=feed, args=(process.stdin, stdin), daemon=True))
    for thread in threads:
        thread.start()
    return threads


def _failure(done: Completed) -> str:
    code = done.returncode
    how = f"ended with code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"was killed by {signal.Signals(-code).name}"
    words = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace").splitlines()[-12:]
    return "\n".join([f"{shlex.join(words_without(done.argv))} {how}", *(f"  {hide(line)}" for line in words)])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group: ask first, then kill."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return

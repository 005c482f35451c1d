"""What surrounds every command: whatever happens inside becomes a message and an exit code, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import FrameType
from typing import Final, NoReturn

import click

from assay import __version__
from assay.cli import console
from assay.errors import AssayError, OutputError
from assay.foundation.secret import hide, values_of, words_without

__all__ = ["BUG", "guarded"]

BUG: Final = 70
"""The exit code of a bug in assay: EX_SOFTWARE of sysexits(3)."""
_OF_THE_MACHINE: Final = frozenset({
    errno.EACCES, errno.EDQUOT, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOSPC, errno.EPERM,
    errno.EROFS,
})  # fmt: skip
"""Errors that a person must fix, if the error names a file."""
_INTERRUPTED: Final = 130
_AGAIN: Final = 0.01
"""Seconds until an interrupt that was lost is sent once more."""


def guarded(work: Callable[[], int], argv: Sequence[str]) -> int:
    """Do the work of a command line and return its exit code; every error becomes a message for people.

    With `--format json`, the error is a document on stdout too, unless the answer is there already.

    Args:
        work: returns the exit code.
        argv: the command line, for the report of a bug.
    """
    try:
        with _signals(), _ready_streams():
            console.begin()
            code = work()
            console.flush()
            return code
    except (OutputError, BrokenPipeError) as error:
        return _unwritten(error)
    except AssayError as error:
        console.fail(error.message, hint=error.hint)
        return _ended(error.exit_code, argv, error.message, error.hint)
    except click.ClickException as error:
        return _misused(error, argv)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(argv)
    except Exception as error:  # noqa: BLE001 - the last catch
        if _stopped:
            # A signal inside an import comes out as whatever the importer makes of it.
            return _interrupted(argv)
        return _unexpected(error, argv)


def _unexpected(error: Exception, argv: Sequence[str]) -> int:
    """Tell of an error that no command expected: of the machine if that is where it comes from, else of a bug."""
    if isinstance(error, OSError) and _by_click(error):
        return _unwritten(OutputError(f"standard output cannot be written: {error.strerror}"))
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE and error.filename is not None:
        message = f"{os.fsdecode(error.filename)[:400]}: {error.strerror}"
        hint = "check the path, its permissions and the free space"
        console.fail(message, hint=hint)
        return _ended(1, argv, message, hint)
    return _bug(error, argv)


def _by_click(error: OSError) -> bool:
    """Return whether an error came from what click prints itself: --help, --version."""
    return any(frame.f_globals.get("__name__") == "click.utils" for frame, _ in traceback.walk_tb(error.__traceback__))


def _misused(error: click.ClickException, argv: Sequence[str]) -> int:
    said = io.StringIO()
    error.show(file=said)
    console.say(said.getvalue().rstrip("\n"))
    context = error.ctx if isinstance(error, click.UsageError) else None
    return _ended(2, argv, error.format_message(), f"{context.command_path} --help" if context else None)


def _interrupted(argv: Sequence[str]) -> int:
    console.say("interrupted")
    return _ended(_INTERRUPTED, argv, "interrupted")


def _unwritten(error: OutputError | BrokenPipeError) -> int:
    """Give up standard output, and say so unless the reader of a pipe (head, less) is gone: that is not a failure."""
    console.abandon(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return 0
    console.fail(error.message, hint=error.hint)
    return error.exit_code


def _ended(code: int, argv: Sequence[str], message: str, hint: str | None = None) -> int:
    """Write the error as a document where JSON is asked for (schemas/error.schema.json), and return the exit code.

    No model is used: whatever failed, this must not fail.
    """
    if _asks_for_json(argv) and not console.answered():
        told = {"message": hide(message), "hint": None if hint is None else hide(hint)}
        with suppress(OutputError):  # `_flushed` gives up what cannot be written.
            console.json_data({"version": 1, "kind": "error", "exit_code": code, **told})
    return _flushed(code)


def _asks_for_json(argv: Sequence[str]) -> bool:
    words = argv[: argv.index("--")] if "--" in argv else argv
    given = [word.partition("=")[2] for word in words if word.startswith("--format=")]
    given += [value for word, value in pairwise(words) if word == "--format"]
    return "json" in given


def _flushed(code: int) -> int:
    """Write out what is left of stdout after an error, and give up what cannot be written."""
    try:
        console.flush()
    except OutputError:
        console.abandon(sys.stdout)
    return code


_stopped: list[int] = []
"""The signals that asked this process to end."""


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    _stopped.append(number)
    raise KeyboardInterrupt


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Ask for the end once more where code in C was running, which prints an interrupt and goes on."""
    if not _stopped or not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    again = threading.Timer(_AGAIN, os.kill, (os.getpid(), _stopped[-1]))
    again.daemon = True
    again.start()


@contextmanager
def _signals() -> Iterator[None]:
    """End on SIGTERM, which service managers and CI systems send, and on SIGHUP, which a closed terminal sends, in
    the same clean way as on Ctrl-C."""
    _stopped.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    # Who starts a program with Ctrl-C ignored, as `nohup` and `&` in scripts do, means it.
    numbers = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    hook = sys.unraisablehook
    try:
        for number in numbers:
            signal.signal(number, _stop)
        sys.unraisablehook = _unraisable
        yield
    finally:
        sys.unraisablehook = hook
        for number in numbers:
            signal.signal(number, before[number])


class _ClosedOutput(io.TextIOBase):
    """Standard output that the caller closed: Python has None there, and click takes that for "print nothing"."""

    def write(self, _: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


@contextmanager
def _ready_streams() -> Iterator[None]:
    """Keep files off the numbers of closed standard streams, and let no character be one that cannot be written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given out: this one, as those below are taken by now.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if sys.stdout is not None:
        yield
        return
    sys.stdout = _ClosedOutput()
    try:
        yield
    finally:
        sys.stdout = None


def _bug(error: BaseException, argv: Sequence[str]) -> int:
    """Tell of a bug what a report of it needs, without secrets, and keep the traceback in a file."""
    secrets = values_of(os.environ)
    command = shlex.join(["assay", *words_without(argv, secrets)])
    system = os.uname()
    head = (
        f"assay {__version__}, Python {platform.python_version()}, {system.sysname} {system.release} {system.machine}\n"
        f"command: {command}"
    )
    trace = hide("".join(traceback.format_exception(error)), secrets)
    what = f"{type(error).__name__}: {hide(str(error), secrets)[:300]}".rstrip(": ")
    if isinstance(error, MemoryError):
        what = "memory ran out (MemoryError)"
    place = _kept(f"{head}\n\n{trace}")
    kept = f"and the file {place}, which holds the traceback" if place else "and the traceback below"
    message, hint = f"this is a bug in assay: {what}", f"report it with the two lines below {kept}"
    console.fail(message, hint=hint)
    console.say(head)
    if place is None:
        console.say(trace.rstrip("\n"))
    return _ended(BUG, argv, message, hint)


def _kept(text: str) -> str | None:
    """Write the report to a file that only its owner reads; return its path, or None where none can be written."""
    try:
        handle, path = tempfile.mkstemp(prefix="assay-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path

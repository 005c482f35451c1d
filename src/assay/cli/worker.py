"""The command line of workers, which do one job document on a node of a pool."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from assay.errors import AssayError, UsageError
from assay.foundation.printable import printable

__all__ = ["run_worker"]


def run_worker(argv: Sequence[str], *, program: str, description: str, do: Callable[[Path, Path], None]) -> int:
    """Do the job that the command line names; return the exit code.

    Args:
        do: is given the job document and the folder for what comes of it.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("job", type=Path, help="the job document")
    parser.add_argument("results", type=Path, help="folder for what comes of it")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        do(given.job, given.results)
    except AssayError as error:
        print(printable(f"error: {error}"), file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:
        print(printable(f"error: {error.filename}: {error.strerror}"), file=sys.stderr, flush=True)
        return UsageError.exit_code
    return 0

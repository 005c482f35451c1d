"""`python -m assay` and the program `assay`."""

from __future__ import annotations

import signal
import sys

__all__ = ["run"]


def run() -> None:
    """Run the command line of this process and end it."""
    # While modules are imported nothing is begun that would have to be ended: signals end the process, silently.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from assay.cli import main  # noqa: PLC0415 - after the signals

    sys.exit(main())


if __name__ == "__main__":
    run()

"""Runs cases of one attack in a process of its own, each within its memory and time: `attack_child.py JOB`.

The number of the case is written down before it runs, so that the parent knows which one killed or hung the process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["ADDRESS_SPACE", "MEMORY_KB", "Tally", "main"]

MEMORY_KB: Final = 500_000
"""What a process may have resident at most while it works on one input, itself included."""
ADDRESS_SPACE: Final = 4 << 30
"""Beyond it there is a MemoryError, so that no case takes the machine along."""
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_LIBC: Final = ctypes.CDLL(None)


class Overdue(BaseException):
    """The time of a case is over."""


def _peak_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


class Tally:
    """Counts what became of cases, and keeps those that did not survive."""

    def __init__(self, progress: int, deadline: float, *, stop: float) -> None:
        self.tried = self.refused = self.next = 0
        self.worst_kb, self.worst_seconds = 0, 0.0
        self.failures: list[dict[str, Any]] = []
        self._progress = progress
        self._deadline = deadline
        self._stop = stop
        self.is_spent = False
        """Whether a case has left this process with so much memory that another one has to go on."""

    @property
    def is_over(self) -> bool:
        """Tell whether this process is to run no more cases."""
        return self.is_spent or time.monotonic() > self._stop

    def case(self, number: int, work: Callable[[], None], refusals: tuple[type[BaseException], ...]) -> None:
        """Run one case: it comes back, or refuses with one of the named exceptions; all else is a failure."""
        self.next = number + 1
        os.pwrite(self._progress, f"{number:012d}".encode(), 0)
        _CLEAR_REFS.write_text("5")
        began = time.monotonic()
        found = ""
        signal.setitimer(signal.ITIMER_REAL, self._deadline)
        try:
            work()
        except refusals:
            self.refused += 1
        except Overdue:
            found = f"not done after {self._deadline:.0f} s"
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds, peak = time.monotonic() - began, _peak_kb()
        if not found and peak > MEMORY_KB:
            found = f"{peak // 1000} MB"
            self.is_spent = True
        elif peak > MEMORY_KB // 2:
            # What an allocator keeps of this case is not the next one's.
            gc.collect()
            _LIBC.malloc_trim(0)
        self.tried += 1
        self.worst_kb, self.worst_seconds = max(self.worst_kb, peak), max(self.worst_seconds, seconds)
        if found:
            self.failures.append({"case": number, "found": found})

    def document(self) -> dict[str, Any]:
        """Return the counts for the parent."""
        return {
            "tried": self.tried, "refused": self.refused, "failures": self.failures, "worst_kb": self.worst_kb,
            "worst_seconds": self.worst_seconds, "next": self.next,
        }  # fmt: skip


def _overdue(_number: int, _frame: object) -> None:
    raise Overdue


def main(job: dict[str, Any]) -> int:
    """Run the cases `first` to `last` of an attack; the result goes to the file `result`."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _overdue)
    from attack_table import attack

    chosen = attack(job["attack"])
    progress = os.open(job["progress"], os.O_RDWR | os.O_CREAT)
    tally = Tally(progress, job.get("deadline") or chosen.deadline, stop=time.monotonic() + job["seconds"])
    chosen.run(tally, job["seed"], range(job["first"], job["last"]), Path(job["folder"]))
    Path(job["result"]).write_text(json.dumps(tally.document()))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

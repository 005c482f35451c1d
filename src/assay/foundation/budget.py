"""What reading one thing that others made may cost: one place for every ceiling, and who has to keep to one. Pure.

A limit for each part is not a limit for their sum: a million names of 64 KB each, cut from one table of 64 KB, are all
allowed. So whoever reads foreign bytes takes what it does from a budget, which is asked before memory is taken. A
library's budget is a part of its wheel's: both are charged.

The ceilings leave room over what the largest real wheels were measured to need (`MEASURED`). Beyond them the library,
the wheel or the file is named and refused with `WheelError`; everything else goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from assay.errors import WheelError

__all__ = [
    "FACTS",
    "IMAGE",
    "INDEX_PAGE",
    "LIBRARY",
    "MEASURED",
    "PREFIX_AT_ONCE",
    "READERS",
    "WHEEL",
    "Budget",
    "BudgetLimits",
]


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """What may be spent."""

    unpacked: int
    """Bytes that come out of decompressors or are read as tables; most of them are gone at once."""
    kept: int
    """Bytes of names and texts that stay in memory."""
    steps: int
    """Structures walked, by Python, one at a time."""
    items: int
    """Symbols, names, containers, files: objects that stay in memory."""
    seconds: float
    """By the clock, waiting for a network included."""


MEASURED: Final = {
    "torch 2.8.0 (888 MB)": "13 libraries, 3.1 GB unpacked, 11 492 files, 14.1 MB of facts",
    "torch 2.8.0, libtorch_cuda.so": "34 555 symbols with 6.9 MB of names, 393 containers of GPU code, 3 073 kernels",
    "torch 2.14.1, libtorch_cpu.so": "75 765 symbols with 5.2 MB of names; 475 containers in libtorch_cuda.so",
    "names": "the longest symbol has 1 995 characters",
}
"""What was counted in the facts of real wheels on 2026-11-30: of 536 wheels the largest in each respect."""

LIBRARY: Final = BudgetLimits(unpacked=8 << 30, kept=48 << 20, steps=16_000_000, items=380_000, seconds=900)
"""One shared object: five times the symbols of torch's largest and seven times their names, in 400 MB of memory."""
WHEEL: Final = BudgetLimits(unpacked=32 << 30, kept=96 << 20, steps=64_000_000, items=3_000_000, seconds=6 * 3600)
"""One wheel: ten times what torch unpacks to, seven times its facts. The bytes of a slow network take hours."""
IMAGE: Final = BudgetLimits(unpacked=256 << 30, kept=1 << 30, steps=512_000_000, items=24_000_000, seconds=6 * 3600)
"""All libraries of one image: eight wheels like the largest allowed."""
FACTS: Final = BudgetLimits(unpacked=96 << 20, kept=96 << 20, steps=0, items=250_000, seconds=120)
"""Facts of one wheel, kept or shared: of 590 real wheels the largest has 12 700 texts, lists and objects."""
INDEX_PAGE: Final = BudgetLimits(unpacked=64 << 20, kept=64 << 20, steps=2_000_000, items=200_000, seconds=180)
"""One answer of a package index; the largest projects have some 20 000 files, with four `<` each (the steps)."""
PREFIX_AT_ONCE: Final = 8 << 20
"""Bytes of a library's beginning from which on a wheel has one such at a time in memory."""

READERS: Final = {
    "assay.adapters.files.facts_cache:FactsCache.take": FACTS,
    "assay.adapters.index.simple:parse_html": INDEX_PAGE,
    "assay.adapters.index.simple:parse_json": INDEX_PAGE,
    "assay.wheels.archive:read_directory": WHEEL,
    "assay.wheels.elf:read_elf": LIBRARY,
    "assay.wheels.elf:read_symbols": LIBRARY,
    "assay.wheels.elf_header:section_name_table": LIBRARY,
    "assay.wheels.elf_prefix:read_prefix": LIBRARY,
    "assay.wheels.facts_file:load_facts": FACTS,
    "assay.wheels.fatbin:FatbinWalker": LIBRARY,
    "assay.wheels.fatbin:walk": LIBRARY,
    "assay.wheels.kernels:kernel_names": LIBRARY,
    "assay.wheels.member:MemberReader": LIBRARY,
    "assay.pipeline.read_wheel:read_library": WHEEL,
    "assay.pipeline.read_wheel:read_wheel": WHEEL,
}
"""Everything that reads foreign bytes, and its ceiling; each takes a `budget`. A test looks for readers not named."""


class Budget:
    """What is left for reading one thing; may be charged by several threads.

    Args:
        what: names it in the refusal.
        limits: what may be spent.
        parent: of what this is a part; charged as well.
    """

    def __init__(
        self,
        what: str,
        limits: BudgetLimits,
        *,
        parent: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._limits = limits
        self._parent = parent
        self._clock = clock
        self._end = clock() + limits.seconds
        self._guard = threading.Lock()
        self.unpacked = 0
        self.kept = 0
        self.steps = 0
        self.items = 0
        self.spent = False
        """Whether it was exceeded."""

    def part(self, what: str, limits: BudgetLimits) -> Budget:
        """Return a budget for a part of this, which is charged too."""
        return Budget(what, limits, parent=self, clock=self._clock)

    def take(self, *, unpacked: int = 0, kept: int = 0, steps: int = 0, items: int = 0) -> None:
        """Spend; to be asked before the memory or the time is used.

        Raises:
            WheelError: more than there is; so does every later call.
        """
        with self._guard:
            self.unpacked += unpacked
            self.kept += kept
            self.steps += steps
            self.items += items
        limits = self._limits
        if self.unpacked > limits.unpacked:
            self._refuse(f"unpacks to more than {limits.unpacked >> 20} MiB")
        if self.kept > limits.kept:
            self._refuse(f"holds more than {limits.kept >> 20} MiB of names and texts")
        if self.steps > limits.steps:
            self._refuse(f"takes more than {limits.steps} steps to read")
        if self.items > limits.items:
            self._refuse(f"holds more than {limits.items} symbols, names or files")
        if self._clock() > self._end:
            self._refuse(f"takes longer than {limits.seconds:g} s to read")
        if self._parent is not None:
            self._parent.take(unpacked=unpacked, kept=kept, steps=steps, items=items)

    def _refuse(self, why: str) -> None:
        self.spent = True
        raise WheelError(
            f"{self._what} {why}: refused",
            hint="no known wheel needs as much; if this one is sound, report it with its address",
        )

"""Reads one shared object as its bytes stream by, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from ahocorasick_rs import BytesAhoCorasick

from assay.errors import WheelError
from assay.foundation.budget import LIBRARY, Budget
from assay.wheels.bytes_at import SparseImage, Unread
from assay.wheels.elf import data_ranges, read_elf, wanted_ranges
from assay.wheels.elf_header import ElfLibrary, is_elf
from assay.wheels.facts import Library
from assay.wheels.fatbin import FatbinContainer, FatbinWalker
from assay.wheels.gpu_code import CodeGroup, GpuCode, target_key
from assay.wheels.kernels import kernel_names
from assay.wheels.library_facts import library_facts

__all__ = ["MemberReader", "gpu_code"]

FRONT: Final = 24 << 20
"""Bytes kept from the start of each file: where linkers put the symbol tables."""
RECENT: Final = 8 << 20
"""Bytes kept of what came last: at the end of a file stand the tables that say where others are."""
KERNELS_PER_GROUP: Final = 3000
TOLD: Final = 8
"""Faults of GPU code that are told of one library."""
_ARCHS: Final = re.compile(rb"(?:sm_\d{2,3}[af]? ?|compute_\d{2,3}[af]? ?){2,}")
_LONGEST: Final = len(b"compute_120a ")
_PYBIND: Final = b"Python version mismatch: module was compiled for Python %s"
_GUARD: Final = BytesAhoCorasick([_PYBIND])
"""Finds it with the processor's vector instructions, several times faster than `in`."""
_MINOR: Final = re.compile(rb"\0(3\.\d{1,2})\0")
_OVERLAP: Final = 1024


class MemberReader:
    """Takes the bytes of one file in order and gives its facts at the end.

    Kept are the first 24 MiB and the last 8, what the program headers and the dynamic section ask for where it has
    not passed yet, and of each fatbin container its smallest entry. What is missing in the end is asked for again
    through `reread`.

    Args:
        path: where it lies in the wheel or image.
        size: bytes it has.
        ranges: (offset, length) to keep beside, for a second pass over what cannot be read again at will.
        budget: of the wheel or image, of which this file gets a part.
    """

    def __init__(
        self, path: str, size: int, *, ranges: Iterable[tuple[int, int]] = (), budget: Budget | None = None
    ) -> None:
        self._budget = budget.part("it", LIBRARY) if budget else Budget("it", LIBRARY)
        self._over: WheelError | None = None
        self.path = path
        self.size = size
        self._image = SparseImage(size)
        self._front_done = False
        self._recent: deque[bytes] = deque()
        self._recent_size = 0
        self._at = 0
        self._wanted = [(at, at + length) for at, length in ranges]
        self._asked: set[tuple[int, int]] = set()
        self._walker = FatbinWalker(budget=self._budget)
        self._notes: dict[str, str] = {}
        self._tail = b""
        self._kernels: dict[int, tuple[str, ...]] = {}
        self._by_target: defaultdict[_Targets, set[str]] = defaultdict(set)
        self._named = 0
        self._damage: list[str] = []
        self._is_elf: bool | None = None
        self._data: list[tuple[int, int]] | None = None
        """Where GPU code and strings may be, as far as that is known."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if not chunk:
            return
        start = self._at
        self._at += len(chunk)
        if not self._front_done:
            self._image.add(start, chunk[: FRONT - start])
            if self._is_elf is None and self._at >= min(4, self.size):
                self._is_elf = is_elf(self._image.read(0, min(4, self.size)))
                self._data = data_ranges(self._image) if self._is_elf else None
            if self._at >= FRONT:
                self._close_front()
        if self._at > FRONT:
            self._recent.append(chunk)
            self._recent_size += len(chunk)
            while self._recent_size - len(self._recent[0]) >= RECENT:
                self._recent_size -= len(self._recent.popleft())
        if not self._is_elf:
            return
        for first, last in self._wanted:
            low, high = max(first, start), min(last, self._at)
            if low < high:
                self._image.add(low, chunk[low - start : high - start])
        left = [wanted for wanted in self._wanted if wanted[1] > self._at]
        if len(left) < len(self._wanted):
            self._wanted = left
            self._plan()
        tail = self._tail
        self._tail = chunk[-_OVERLAP:] if len(chunk) >= _OVERLAP else (tail + chunk)[-_OVERLAP:]
        if not self._may_be_data(start) and self._walker.pass_over(len(chunk)):
            return
        try:
            if self._walk(chunk):
                self._look(chunk, tail)
        except WheelError as error:
            # Only the budget does that: the rest of the file passes unread, and `finish` tells.
            self._over, self._is_elf = error, False
            self._walker = FatbinWalker(budget=self._budget)

    def _walk(self, chunk: bytes) -> bool:
        """Look for GPU code; returns whether bytes lie outside of it."""
        outside = self._walker.feed(chunk)
        if len(self._walker.containers) > self._named:
            self._name_kernels()
        return outside

    def _may_be_data(self, start: int) -> bool:
        """Whether any of the bytes from `start` to here may be data that is loaded."""
        return self._data is None or any(low < self._at and start < high for low, high in self._data)

    def _close_front(self) -> None:
        self._front_done = True
        if self._is_elf:
            self._plan()

    def _plan(self) -> None:
        for offset, length in wanted_ranges(self._image):
            self._budget.take(steps=1)
            # What has passed already is either in the front or has to be read again.
            if length and offset >= self._at and (offset, length) not in self._asked:
                self._asked.add((offset, length))
                self._wanted.append((offset, offset + length))

    def wanted(self) -> list[tuple[int, int]]:
        """Return all ranges that reading the tables takes, for a second pass after `Unread`."""
        return wanted_ranges(self._image)

    def _name_kernels(self) -> None:
        containers = self._walker.containers
        for index in range(self._named, len(containers)):
            container = containers[index]
            # Unpacking is what costs: no more of it than names are kept.
            named = self._by_target[_targets(container)]
            if container.sample is not None and len(named) < KERNELS_PER_GROUP:
                try:
                    self._kernels[container.offset] = kernel_names(*container.sample, budget=self._budget)
                    self._budget.take(items=len(self._kernels[container.offset]))
                    named.update(self._kernels[container.offset])
                except WheelError as error:
                    if len(self._damage) < TOLD:
                        self._damage.append(str(error))
            containers[index] = container._replace(sample=None)
        self._named = len(containers)

    def _look(self, chunk: bytes, tail: bytes) -> None:
        """Look for the two strings that say something the tables do not.

        Args:
            tail: the bytes that came before.
        """
        # Plain search is many times faster than an expression, and this runs over gigabytes.
        if "libtorch_python" in self.path and "torch_archs" not in self._notes:
            joint = tail + chunk
            for mark in (b" sm_", b" compute_"):
                at = joint.find(mark)
                match = _ARCHS.search(joint, max(0, at - 16)) if at >= 0 else None
                # What ends with the chunk, or with half a word, may go on in the next one, and is found again there.
                if match and (match.end() + _LONGEST < len(joint) or self._at == self.size):
                    self._notes["torch_archs"] = match.group().decode().strip()
                    break
        if "pybind11_python" not in self._notes:
            joint = tail + chunk[:_OVERLAP]
            place = joint if _PYBIND in joint else chunk
            found = _GUARD.find_matches_as_indexes(place)
            if found:
                at = found[0][1]
                near = _MINOR.search(place, max(0, at - _OVERLAP), at + _OVERLAP)
                if near:
                    self._notes["pybind11_python"] = near.group(1).decode()

    def finish(self, reread: Callable[[int, int], bytes] | None = None) -> Library | None:
        """Return the facts, or None if the file is not an ELF file (a linker script, a text).

        Raises:
            WheelError: it is damaged or ended early.
            Unread: a part is needed that was not kept, and there is no `reread`.
        """
        if self._at != self.size:
            raise WheelError(f"{self.path}: {self._at} bytes came where {self.size} were announced")
        if self._over is not None:
            raise WheelError(f"{self.path}: {self._over.message}", hint=self._over.hint)
        if not self._front_done:
            self._close_front()
        if not self._is_elf:
            return None
        containers = self._walker.finish()
        self._name_kernels()
        elf = self._read(reread, code=bool(containers))
        gpu = gpu_code(elf, containers, self._kernels, tuple(self._damage))
        return library_facts(self.path, self.size, elf, scope="full", gpu=gpu, notes=self._notes)

    def _read(self, reread: Callable[[int, int], bytes] | None, *, code: bool) -> ElfLibrary:
        sections = True
        for _ in range(64):
            try:
                return read_elf(self._image, sections=sections, budget=self._budget.part("it", LIBRARY))
            except Unread as missing:
                if self._recent and missing.offset >= self._at - self._recent_size:
                    at = self._at - self._recent_size
                    while self._recent:
                        self._image.add(at, self._recent[0])
                        at += len(self._recent.popleft())
                elif reread is None and sections and not code:
                    # Their names only tell GPU code that can be loaded from what cannot.
                    sections = False
                elif reread is None:
                    raise
                else:
                    self._image.add(missing.offset, reread(missing.offset, missing.length))
            except WheelError as error:
                raise WheelError(f"{self.path}: {error.message}") from error
        raise WheelError(f"{self.path}: its tables are scattered absurdly")


_Targets = tuple[tuple[str, ...], tuple[str, ...]]


def _targets(container: FatbinContainer) -> _Targets:
    """Return the targets of a container's machine code and of its PTX, in order."""
    return _in_order(tuple((entry.target, entry.isa) for entry in container.entries))


@lru_cache(maxsize=4096)
def _in_order(entries: tuple[tuple[str, str | None], ...]) -> _Targets:
    sass = {target for target, isa in entries if isa is None}
    ptx = {f"{target}@{isa}" for target, isa in entries if isa is not None}
    return tuple(sorted(sass, key=target_key)), tuple(sorted(ptx, key=target_key))


def gpu_code(
    elf: ElfLibrary,
    containers: list[FatbinContainer],
    kernels: dict[int, tuple[str, ...]],
    damage: tuple[str, ...] = (),
) -> GpuCode | None:
    """Group the containers of `.nv_fatbin` by what they hold code for; None without GPU code.

    Containers elsewhere (`__nv_relfatbin`: left over from relocatable device code) cannot be loaded and do not count.
    """
    places = [section for section in elf.sections if section.name == ".nv_fatbin"]
    inside = [
        container
        for container in containers
        if any(place.offset <= container.offset < place.offset + place.size for place in places)
    ]
    if not places or (not inside and not any(place.size for place in places)):
        return None
    troubles = list(damage)
    covered = sum((container.size + 7) // 8 * 8 for container in inside)
    size = sum(place.size for place in places)
    if not size - 8 * (len(inside) + 1) <= covered <= size + 8:
        troubles.append(f"containers cover {covered} of {size} bytes of GPU code")
    troubles.extend(container.damage for container in inside if container.damage)
    counts: Counter[_Targets] = Counter()
    names: defaultdict[_Targets, set[str]] = defaultdict(set)
    for container in inside:
        key = _targets(container)
        counts[key] += 1
        names[key].update(kernels.get(container.offset, ()))
    return GpuCode(
        groups=tuple(
            CodeGroup(sass=key[0], ptx=key[1], containers=count, kernels=tuple(sorted(names[key])[:KERNELS_PER_GROUP]))
            for key, count in sorted(counts.items())
        ),
        damage=tuple(dict.fromkeys(troubles))[:TOLD],
    )

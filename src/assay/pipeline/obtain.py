"""Obtains the facts of wheels: known ones from the store, others by reading the wheels as deep as it matters."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from assay.audit.findings import Finding
from assay.audit.history import TorchHistory
from assay.audit.installation import Installation
from assay.errors import AssayError, PackageIndexError, WheelError
from assay.foundation.outcome import Severity
from assay.matrix.lock import Lock, LockedWheel
from assay.pipeline.read_wheel import SMALL, Depth, Progress, read_library, read_wheel
from assay.ports.facts_store import FactsStore
from assay.ports.index import IndexFile, PackageIndex
from assay.ports.wheel_source import ByteSource, WheelSource
from assay.wheels.facts import WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode

__all__ = ["Obtained", "WheelReader"]

JOBS = 8
FULL_JOBS = 2
"""Wheels read wholly at the same time."""


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """Facts of one wheel, where it is, and what it cost."""

    facts: WheelFacts
    file: IndexFile | None = None
    problem: Finding | None = None


class _Metered:
    """A source of wheels that knows what was fetched of each, over all threads, until somebody tells of it."""

    def __init__(self, wheels: WheelSource) -> None:
        self._wheels = wheels
        self._opened: dict[str, list[ByteSource]] = {}
        self._guard = threading.Lock()

    @contextmanager
    def open(self, file: IndexFile) -> Iterator[ByteSource]:
        """Open one file for reading; see the port."""
        with self._wheels.open(file) as source:
            with self._guard:
                self._opened.setdefault(file.url, []).append(source)
            yield source

    def told(self, files: Iterable[IndexFile]) -> int:
        """Return the bytes that came over the wire of files, without those that were returned before."""
        with self._guard:
            return sum(source.fetched for file in files for source in self._opened.pop(file.url, ()))


class _Origins(Container[str]):
    """The origins of an index, found out when the first facts read in part are met: a program may have to be asked."""

    def __init__(self, index: PackageIndex, name: str | None = None) -> None:
        self._index = index
        self._name = name

    def __contains__(self, origin: object) -> bool:
        return origin in self._index.origins(self._name)


class _Others(Mapping[str, Sequence[WheelFacts]]):
    """Facts of all known versions of a distribution, read when something has to be suggested."""

    def __init__(self, facts: FactsStore, index: PackageIndex) -> None:
        self._facts = facts
        self._index = index
        self._read: dict[str, tuple[WheelFacts, ...]] = {}

    def __getitem__(self, name: str) -> Sequence[WheelFacts]:
        if name not in self._read:
            self._read[name] = tuple(self._facts.named(name, origins=_Origins(self._index)))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


class WheelReader:
    """Reads wheels as far as it matters, and keeps what was read.

    Args:
        index: finds a lock's files.
        wheels: opens them.
        facts: cached wheel facts; new ones are added.
        history: torch's exports by release, which stand in for a torch that is not read.
        quick: see `Auditor`.
        progress: told what is read, bytes done and bytes in all.
    """

    def __init__(
        self,
        *,
        index: PackageIndex,
        wheels: WheelSource,
        facts: FactsStore,
        history: TorchHistory,
        quick: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._index = index
        self._wheels = _Metered(wheels)
        self._facts = facts
        self._history = history
        self._quick = quick
        self._progress = progress
        self.others: Mapping[str, Sequence[WheelFacts]] = _Others(facts, index)
        """Distribution -> facts of all its known versions."""
        self._sufficient: dict[str, dict[str, Obtained]] = {}
        """sha256 -> name of an index -> facts of a wheel from there that need no further reading."""
        self._one_at_a_time: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._full = threading.BoundedSemaphore(FULL_JOBS)

    def keep(self, facts: WheelFacts) -> None:
        """Keep facts, in place of what was known of the wheel."""
        self._facts.put(facts)
        self._sufficient.pop(facts.sha256, None)

    def known(self, lock: Lock) -> tuple[WheelFacts, ...]:
        """Return the facts of those wheels of a lock that have been read."""
        found = (self._kept(wheel) for wheel in lock.wheels if wheel.is_wheel)
        return tuple(facts for facts in found if facts is not None)

    def facts_of(self, sha256: str) -> WheelFacts | None:
        """Return the facts of a wheel by its sha256, whichever index it is from."""
        return self._facts.get(sha256, origins=_Origins(self._index))

    def fetched(self, obtained: Iterable[Obtained]) -> int:
        """Return the bytes that came over the wire of wheels, without those that were returned before."""
        return self._wheels.told(item.file for item in obtained if item.file is not None)

    def _kept(self, wheel: LockedWheel) -> WheelFacts | None:
        return self._facts.get(wheel.sha256, origins=_Origins(self._index, wheel.index))

    def read_ahead(self, locks: Iterable[Lock]) -> Mapping[str, Obtained]:
        """Read what is not known of the wheels of several locks, several at once; returns what was read, by sha256."""
        wheels = self._unknown(locks)
        with ThreadPoolExecutor(JOBS) as pool:
            return dict(zip(wheels, pool.map(self.locked, wheels.values()), strict=True))

    def unread(self, locks: Iterable[Lock]) -> list[str]:
        """Return the sha256 of wheels of locks that have to be read; source archives never are."""
        return [sha256 for sha256, wheel in self._unknown(locks).items() if wheel.is_wheel]

    def _unknown(self, locks: Iterable[Lock]) -> dict[str, LockedWheel]:
        named = {(wheel.sha256, wheel.index): wheel for lock in locks for wheel in lock.wheels}
        return {wheel.sha256: wheel for wheel in named.values() if self._known(wheel) is None}

    def obtain_all(self, wheels: Sequence[LockedWheel], ahead: Mapping[str, Obtained]) -> list[Obtained]:
        obtained = [self._at_hand(wheel, ahead) for wheel in wheels]
        left = [wheel for wheel, item in zip(wheels, obtained, strict=True) if item is None]
        if not left:
            return [item for item in obtained if item is not None]
        with ThreadPoolExecutor(JOBS) as pool:
            read = pool.map(self.locked, left)
            return [next(read) if item is None else item for item in obtained]

    def at_hand(self, lock: Lock) -> list[Obtained] | None:
        """Return the cached facts of the entries of a lock; None if anything has to be read."""
        found = [self._known(wheel) if wheel.is_wheel else self.locked(wheel) for wheel in lock.wheels]
        return None if None in found else [item for item in found if item is not None]

    def _at_hand(self, wheel: LockedWheel, ahead: Mapping[str, Obtained]) -> Obtained | None:
        """Return the facts of a wheel that were read ahead or are cached; if both, the file with the newer facts."""
        read, known = ahead.get(wheel.sha256), self._known(wheel)
        if read is not None and read.file is not None and not read.facts.good_for(_Origins(self._index, wheel.index)):
            read = None  # another index of this project announces the same sha256
        return replace(read, facts=known.facts) if read is not None and known is not None else read or known

    def _known(self, wheel: LockedWheel) -> Obtained | None:
        """Return the cached facts of a wheel, if they suffice; facts that do are looked up once."""
        here = self._sufficient.setdefault(wheel.sha256, {})
        if wheel.index not in here and wheel.is_wheel:
            facts = self._kept(wheel)
            if facts is not None and self._enough(facts):
                here[wheel.index] = Obtained(facts=facts)
        return here.get(wheel.index)

    def locked(self, wheel: LockedWheel) -> Obtained:
        """Return the facts of one entry of a lock; a fault becomes a finding."""
        if not wheel.is_wheel:
            return Obtained(facts=_unknown(wheel), problem=_problem(wheel, "a source archive: it has no libraries yet"))
        if (there := self._known(wheel)) is not None:
            return there
        known = self._kept(wheel)
        try:
            file = self._find(wheel)
            return Obtained(facts=self.read(file), file=file)
        except (WheelError, PackageIndexError) as error:
            if known is not None:
                return Obtained(facts=known, problem=_problem(wheel, f"only partly read: {error.message}"))
            return Obtained(facts=_unknown(wheel), problem=_problem(wheel, error.message))

    def _find(self, wheel: LockedWheel) -> IndexFile:
        files = self._index.files(wheel.name, index=wheel.index)
        for file in files:
            if file.sha256 == wheel.sha256:
                return file
        for file in files:
            if file.filename == wheel.filename and file.sha256 is None:
                return file.model_copy(update={"sha256": wheel.sha256})
        raise PackageIndexError(
            f"{wheel.filename} with the sha256 of the lock is not on the index {wheel.index!r}",
            hint="the index no longer has it, or another file of this name: lock again",
        )

    def read(self, file: IndexFile, *, whole: bool = False) -> WheelFacts:
        """Return the facts of a file, as deep as it matters; what was read is kept.

        Args:
            file: where it is.
            whole: read all of it, also where nothing shows that it has code for GPUs; its sha256 is checked then.

        Raises:
            WheelError, PackageIndexError: it cannot be read.
        """
        key = file.sha256 or file.url
        with self._guard:
            lock = self._one_at_a_time.setdefault(key, threading.Lock())
        with lock:
            known = self._facts.get(file.sha256, origins={file.origin}) if file.sha256 else None
            if known is not None and (known.complete or not whole) and self._enough(known):
                return known
            facts = self._read(file, Depth.FULL if whole else self._first_depth(file))
            if not facts.complete and self._worth_all(facts):
                facts = self._read(file, Depth.FULL)
            if facts.sha256:
                self.keep(facts)
            return facts

    def _read(self, file: IndexFile, depth: Depth) -> WheelFacts:
        # A full read keeps some 100 MB, and unpacking keeps a core busy: more at once gain nothing.
        with self._full if depth is Depth.FULL else nullcontext():
            small = 0 if self._quick else SMALL
            return read_wheel(file, self._wheels, depth=depth, small=small, progress=self._progress)

    def _first_depth(self, file: IndexFile) -> Depth:
        try:
            name, version, _, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename as error:
            raise WheelError(f"not a wheel: {error}") from error
        if all(tag.platform == "any" for tag in tags):
            return Depth.METADATA
        if name == "torch" and self._quick and self._history.knows(version.public):
            return Depth.METADATA
        return Depth.FULL if name == "torch" and not self._quick else Depth.SYMBOLS

    def _worth_all(self, facts: WheelFacts) -> bool:
        """Whether a wheel has code of its own for GPUs: its libraries are linked with CUDA or torch.

        NVIDIA's own libraries are left at their symbols: they are gigabytes, and for every GPU their version knows.
        """
        if self._quick or facts.name.startswith("nvidia-"):
            return False
        return facts.linked_with_gpu

    def _enough(self, known: WheelFacts) -> bool:
        if known.complete or self._quick:
            return True
        return not known.is_torch and not self._worth_all(known)

    def with_torch_archs(self, installation: Installation, obtained: Sequence[Obtained]) -> Installation:
        """Where torch was not read, ask the one library in which it says what architectures it has code for."""
        torch = installation.torch
        if torch is None or any(library.gpu for library in torch.libraries):
            return installation
        file = next((item.file for item in obtained if item.facts.sha256 == torch.sha256), None)
        if file is None:
            return installation
        for library in torch.libraries:
            if library.name != "libtorch_python.so" or library.scope != "listed":
                continue
            try:
                told = read_library(file, self._wheels, library.path, self._progress).notes.get("torch_archs", "")
            except AssayError:
                return installation
            code = _told_code(told)
            libraries = tuple(
                item.model_copy(update={"gpu": code}) if item.name == "libtorch_cuda.so" else item
                for item in torch.libraries
            )
            asked = torch.model_copy(update={"libraries": libraries})
            self.keep(asked)
            return replace(
                installation, wheels=tuple(asked if wheel is torch else wheel for wheel in installation.wheels)
            )
        return installation

    def read_more(
        self, installation: Installation, obtained: Sequence[Obtained], wanted: frozenset[tuple[str, str]]
    ) -> Installation | None:
        """Read libraries on whose symbols a verdict hangs; None if there are none or they cannot be read."""
        if not wanted:
            return None
        files = {item.facts.sha256: item.file for item in obtained}
        changed = False
        wheels = []
        for wheel in installation.wheels:
            paths = {path for sha256, path in wanted if sha256 == wheel.sha256}
            file = files.get(wheel.sha256)
            if not paths or file is None:
                wheels.append(wheel)
                continue
            try:
                read = {path: read_library(file, self._wheels, path, self._progress) for path in sorted(paths)}
            except AssayError:
                wheels.append(wheel)
                continue
            libraries = tuple(read.get(library.path, library) for library in wheel.libraries)
            wheels.append(wheel.model_copy(update={"libraries": libraries}))
            self.keep(wheels[-1])
            changed = True
        return replace(installation, wheels=tuple(wheels)) if changed else None


def _told_code(told: str) -> GpuCode | None:
    """Return GPU code as torch lists it: `sm_90 sm_120 compute_120`."""
    words = [word.partition("_") for word in told.split()]
    sass = tuple(number for kind, _, number in words if kind == "sm")
    ptx = tuple(f"{number}@" for kind, _, number in words if kind == "compute")
    return GpuCode(groups=(CodeGroup(sass=sass, ptx=ptx, containers=1),)) if words else None


def _unknown(wheel: LockedWheel) -> WheelFacts:
    return WheelFacts(name=wheel.name, version=wheel.version, filename=wheel.filename, sha256=wheel.sha256)


def _problem(wheel: LockedWheel, message: str) -> Finding:
    return Finding(
        rule="F1",
        severity=Severity.WARNING if wheel.is_wheel else Severity.INFO,
        package=f"{wheel.name} {wheel.version}",
        message=message,
    )

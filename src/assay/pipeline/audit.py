"""Audits cells and sets of wheels: fetches what is not known of them yet, and applies the rules.

What `assay build` asks before it builds a cell is `Auditor.judge`; what it asks afterwards is `Auditor.judge_image`
(flows/audit_image.py). Both keep a record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from assay import __version__
from assay.audit.audit import Audited, audit
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.gpu import capability_of
from assay.audit.judgement import AuditJudgement
from assay.audit.knowledge import Knowledge
from assay.audit.linker import Base, Installation
from assay.errors import AssayError, PackageIndexError, WheelError
from assay.evidence.record import AuditRecord, now
from assay.foundation.outcome import Severity
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.model import Base as MatrixBase
from assay.matrix.model import Matrix
from assay.pipeline.read_wheel import SMALL, Depth, Progress, read_library, read_wheel
from assay.ports.facts_store import FactsStore
from assay.ports.index import IndexFile, PackageIndex
from assay.ports.store import Store
from assay.ports.wheel_source import ByteSource, WheelSource
from assay.wheels.facts import CodeGroup, GpuCode, WheelFacts

__all__ = ["Auditor", "Obtained", "base_of", "gpu_targets", "judgement", "keep_record"]

JOBS = 8
FULL_JOBS = 2
"""Wheels read wholly at the same time."""
ROUNDS = 4
"""How often libraries that turn out to matter are read before it is left at that."""


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


class Auditor:
    """Reads wheels as far as needed and judges what would be installed.

    Args:
        index: finds a lock's files.
        wheels: opens them.
        facts: cached wheel facts; new ones are added.
        knowledge: facts that age.
        quick: read no more than symbol tables; GPU code of extensions then stays unknown, and torch is judged by the
            table of its exports.
        demangle: C++ names as people write them.
        progress: told what is read, bytes done and bytes in all.
    """

    def __init__(
        self,
        *,
        index: PackageIndex,
        wheels: WheelSource,
        facts: FactsStore,
        knowledge: Knowledge,
        quick: bool = False,
        demangle: Callable[[str], str] = str,
        progress: Progress | None = None,
    ) -> None:
        self._index = index
        self._wheels = _Metered(wheels)
        self._facts = facts
        self.knowledge = knowledge
        self._quick = quick
        self._demangle = demangle
        self._progress = progress
        self._others = _Others(facts, index)
        self._sufficient: dict[str, Obtained] = {}
        self._one_at_a_time: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._full = threading.BoundedSemaphore(FULL_JOBS)

    # ------------------------------------------------------------------------------------------------- judging

    def cell(
        self,
        cell: Cell,
        lock: Lock,
        matrix: Matrix,
        *,
        targets: Sequence[TargetGpu] | None = None,
        ahead: Mapping[str, Obtained] = MappingProxyType({}),
    ) -> AuditReport:
        """Audit what a lock would install on a cell's base. Never raises for the fault of one wheel.

        Args:
            targets: GPUs to judge for, in place of the cell's own.
            ahead: what `read_ahead` returned for this lock and others.

        Raises:
            PackageIndexError: no file of the lock could be found out about at all.
        """
        obtained = self._obtain_all(lock.wheels, ahead)
        from_source = any(value.source is not None for value in cell.point.values())
        installation = Installation(
            wheels=tuple(item.facts for item in obtained),
            python=lock.python,
            base=base_of(
                matrix.bases[cell.base], cell.base, cell.system_packages, self.knowledge, environment=cell.env
            ),
            complete=not from_source and not any(item.problem for item in obtained),
            named=not from_source,
            overridden=frozenset(_names(cell.forced_requirements)),
        )
        gpus = gpu_targets(matrix, cell.targets) if targets is None else targets
        return self.installation(installation, obtained, gpus, name=cell.id)

    def judge(self, cell: Cell, lock: Lock, matrix: Matrix, *, store: Store, run: str) -> AuditJudgement | None:
        """Audit a cell before it is built and keep the record; None where nothing could be read."""
        try:
            report = self.cell(cell, lock, matrix)
        except PackageIndexError:
            return None
        keep_record(store, report, run=run, cell=cell, image_digest=None)
        return judgement(report)

    def known(self, lock: Lock) -> tuple[WheelFacts, ...]:
        """Return the facts of those wheels of a lock that have been read."""
        found = (self._kept(wheel) for wheel in lock.wheels if wheel.is_wheel)
        return tuple(facts for facts in found if facts is not None)

    def _kept(self, wheel: LockedWheel) -> WheelFacts | None:
        return self._facts.get(wheel.sha256, origins=_Origins(self._index, wheel.index))

    def judge_installed(
        self,
        installation: Installation,
        targets: Sequence[TargetGpu],
        *,
        name: str,
        problems: Sequence[Finding] = (),
    ) -> AuditReport:
        """Audit what is installed in an image; see flows/audit_image.py."""
        started = time.monotonic()
        report = audit(
            installation,
            self.knowledge,
            targets=targets,
            name=name,
            subject="image",
            demangle=self._demangle,
            known=self._others,
            problems=problems,
        ).report
        return report.model_copy(update={"seconds": round(time.monotonic() - started, 3)})

    def installation(
        self,
        installation: Installation,
        obtained: Sequence[Obtained],
        targets: Sequence[TargetGpu],
        *,
        name: str,
    ) -> AuditReport:
        """Audit an installation made of obtained wheels, reading more where the verdict hangs on it."""
        started = time.monotonic()
        if targets:
            installation = self._with_torch_archs(installation, obtained)
        for _ in range(ROUNDS):
            found = self._audited(installation, obtained, targets, name)
            more = self._read_more(installation, obtained, found.uncertain)
            if more is None:
                break
            installation = more
        else:
            found = self._audited(installation, obtained, targets, name)
        fetched = self._wheels.told(item.file for item in obtained if item.file is not None)
        spent = round(time.monotonic() - started, 3)
        return found.report.model_copy(update={"fetched_bytes": fetched, "seconds": spent})

    def _keep(self, facts: WheelFacts) -> None:
        self._facts.put(facts)
        self._sufficient.pop(facts.sha256, None)

    def _audited(
        self, installation: Installation, obtained: Sequence[Obtained], targets: Sequence[TargetGpu], name: str
    ) -> Audited:
        return audit(
            installation,
            self.knowledge,
            targets=targets,
            name=name,
            demangle=self._demangle,
            known=self._others,
            problems=[item.problem for item in obtained if item.problem is not None],
        )

    def _read_more(
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
            self._keep(wheels[-1])
            changed = True
        return replace(installation, wheels=tuple(wheels)) if changed else None

    # ------------------------------------------------------------------------------------------------ obtaining

    def read_ahead(self, locks: Iterable[Lock]) -> Mapping[str, Obtained]:
        """Read what is not known of the wheels of several locks, several at once; returns what was read, by sha256."""
        wheels = {wheel.sha256: wheel for lock in locks for wheel in lock.wheels if self._known(wheel) is None}
        with ThreadPoolExecutor(JOBS) as pool:
            return dict(zip(wheels, pool.map(self.locked, wheels.values()), strict=True))

    def _obtain_all(self, wheels: Sequence[LockedWheel], ahead: Mapping[str, Obtained]) -> list[Obtained]:
        obtained = [self._at_hand(wheel, ahead) for wheel in wheels]
        left = [wheel for wheel, item in zip(wheels, obtained, strict=True) if item is None]
        if not left:
            return [item for item in obtained if item is not None]
        with ThreadPoolExecutor(JOBS) as pool:
            read = pool.map(self.locked, left)
            return [next(read) if item is None else item for item in obtained]

    def _at_hand(self, wheel: LockedWheel, ahead: Mapping[str, Obtained]) -> Obtained | None:
        """Return the facts of a wheel that were read ahead or are cached; if both, the file with the newer facts."""
        read, known = ahead.get(wheel.sha256), self._known(wheel)
        if read is not None and read.file is not None and not read.facts.good_for(_Origins(self._index, wheel.index)):
            read = None  # another index of this project announces the same sha256
        return replace(read, facts=known.facts) if read is not None and known is not None else read or known

    def _known(self, wheel: LockedWheel) -> Obtained | None:
        """Return the cached facts of a wheel if they suffice."""
        known = self._sufficient.get(wheel.sha256)
        if known is not None and not known.facts.good_for(_Origins(self._index, wheel.index)):
            known = None
        if known is None and wheel.is_wheel:
            facts = self._kept(wheel)
            if facts is not None and self._enough(facts):
                known = self._sufficient[wheel.sha256] = Obtained(facts=facts)
        return known

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
                return Obtained(facts=known, problem=_problem(wheel, f"read in part alone: {error.message}"))
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
                self._keep(facts)
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
            raise WheelError(f"no wheel: {error}") from error
        if all(tag.platform == "any" for tag in tags):
            return Depth.METADATA
        if name == "torch" and self._quick and self.knowledge.history.knows(version.public):
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

    def _with_torch_archs(self, installation: Installation, obtained: Sequence[Obtained]) -> Installation:
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
            self._keep(asked)
            return replace(
                installation, wheels=tuple(asked if wheel is torch else wheel for wheel in installation.wheels)
            )
        return installation


def _told_code(told: str) -> GpuCode | None:
    """Return GPU code as torch lists it: `sm_90 sm_120 compute_120`."""
    words = [word.partition("_") for word in told.split()]
    sass = tuple(number for kind, _, number in words if kind == "sm")
    ptx = tuple(f"{number}@" for kind, _, number in words if kind == "compute")
    return GpuCode(groups=(CodeGroup(sass=sass, ptx=ptx, containers=1),)) if words else None


def judgement(report: AuditReport) -> AuditJudgement:
    """Return a report as the build flow wants it."""
    errors = report.of(Severity.ERROR)
    causes = dict.fromkeys(name for item in errors for name in (item.cause, item.rule) if name)
    return AuditJudgement(verdict=report.verdict, causes=tuple(causes), summary=report.summary)


def _names(requirements: Iterable[str]) -> Iterable[str]:
    for line in requirements:
        name = _name(line)
        if name is not None:
            yield name


@lru_cache(maxsize=1 << 14)
def _name(requirement: str) -> str | None:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return None


def _unknown(wheel: LockedWheel) -> WheelFacts:
    return WheelFacts(name=wheel.name, version=wheel.version, filename=wheel.filename, sha256=wheel.sha256)


def _problem(wheel: LockedWheel, message: str) -> Finding:
    return Finding(
        rule="F1",
        severity=Severity.WARNING if wheel.is_wheel else Severity.INFO,
        package=f"{wheel.name} {wheel.version}",
        message=message,
    )


def base_of(
    base: MatrixBase,
    name: str,
    packages: Iterable[str],
    knowledge: Knowledge,
    *,
    environment: Iterable[str] | None = None,
) -> Base:
    """Return what a base of matrix.yaml offers, with the packages and the variables that a cell adds."""
    installed = {*packages}
    if base.kind == "bootstrap":
        facts = knowledge.base(base.suite)
        installed |= set(base.packages)
    else:
        facts = knowledge.base(base.image)
    sonames = set(knowledge.sonames.optional_base)
    for package in installed:
        sonames |= set(knowledge.sonames.packages.get(package, ()))
    if base.cuda is not None:
        sonames |= knowledge.sonames.toolkit_of(base.cuda)
        installed |= {"cuda-toolkit", "gcc", "g++"}
    installed |= knowledge.needs.brought_by(installed)
    return Base(
        name=name,
        glibc=base.glibc,
        glibcxx=facts.glibcxx if facts else None,
        cxxabi=facts.cxxabi if facts else None,
        sonames=frozenset(sonames),
        packages=frozenset(installed),
        environment=None if environment is None else frozenset(environment),
        closed=base.kind == "bootstrap",
    )


def gpu_targets(matrix: Matrix, names: Iterable[str]) -> tuple[TargetGpu, ...]:
    """Return targets of matrix.yaml as the rules want them."""
    return tuple(
        TargetGpu(
            name=name,
            capability=capability_of(matrix.targets[name].compute_capability),
            shared_memory=matrix.targets[name].shared_memory_per_block,
        )
        for name in names
    )


def keep_record(
    store: Store, report: AuditReport, *, run: str, cell: Cell | None, image_digest: str | None
) -> AuditRecord:
    """Keep a report as a document and a record of it."""
    digest = store.put_document(report.model_dump_json(indent=1).encode() + b"\n")
    record = AuditRecord(
        created=now(),
        run=run,
        cell=cell.id if cell else report.name,
        image=cell.image if cell else "",
        image_digest=image_digest,
        assay_version=__version__,
        subject=report.subject,
        verdict=report.verdict,
        targets=report.targets,
        verdicts={target: report.verdict_on(target) for target in report.targets},
        findings=len(report.findings),
        summary=report.summary,
        predictions=report.predicted(),
        report=digest,
    )
    store.append(record)
    return record

"""Audits cells and sets of wheels: fetches what is not known of them yet, and applies the rules.

What `assay build` asks before it builds a cell is `Auditor.judge`; what it asks afterwards is `Auditor.judge_image`
(pipeline/audit_image.py). Both keep a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from assay import __version__
from assay.audit.audit import Audited, audit
from assay.audit.context import AsLocked, TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.installation import Base, Installation
from assay.audit.judgement import AuditJudgement
from assay.audit.knowledge import Knowledge
from assay.errors import PackageIndexError
from assay.evidence.record import AuditRecord, now
from assay.foundation.outcome import Severity
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.lockfile import lock_digest
from assay.matrix.model import Matrix
from assay.pipeline.bases import base_of, gpu_targets
from assay.pipeline.obtain import Obtained, WheelReader
from assay.pipeline.read_wheel import Progress
from assay.pipeline.verdicts import Verdicts
from assay.ports.facts_store import FactsStore
from assay.ports.index import IndexFile, PackageIndex
from assay.ports.store import Store
from assay.ports.verdicts import VerdictStore
from assay.ports.wheel_source import WheelSource
from assay.wheels.facts import WheelFacts

__all__ = ["Auditor", "judgement", "keep_record", "record_of"]

ROUNDS = 4
"""How often libraries that turn out to matter are read before it is left at that."""


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
        verdicts: where verdicts are kept; none: the rules are applied each time.
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
        verdicts: VerdictStore | None = None,
    ) -> None:
        self.knowledge = knowledge
        self._demangle = demangle
        self._reader = WheelReader(
            index=index, wheels=wheels, facts=facts, history=knowledge.history, quick=quick, progress=progress
        )
        self._verdicts = (
            None
            if verdicts is None
            else Verdicts(verdicts, knowledge=knowledge, facts=facts, index=index, demangle=demangle)
        )

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
            cell: what is to be built.
            lock: what would be installed.
            matrix: what it is a cell of.
            targets: GPUs to judge for, in place of the cell's own.
            ahead: what `read_ahead` returned for this lock and others.

        Raises:
            PackageIndexError: no file of the lock could be found out about at all.
        """
        obtained = self._reader.obtain_all(lock.wheels, ahead)
        gpus = gpu_targets(matrix, cell.targets) if targets is None else targets
        return self.installation(self._installed(cell, lock, matrix, obtained), obtained, gpus, name=cell.id)

    def lock(
        self, lock: Lock, base: Base, *, targets: Sequence[TargetGpu], asked: frozenset[str] = frozenset()
    ) -> AuditReport:
        """Audit what a lock would install on a base, without a cell. Never raises for the fault of one wheel.

        Args:
            lock: what would be installed.
            base: what is there before.
            targets: GPUs to judge for.
            asked: distributions that somebody asks about.
        """
        obtained = self._reader.obtain_all(lock.wheels, {})
        installation = Installation(
            wheels=tuple(item.facts for item in obtained),
            python=lock.python,
            base=base,
            complete=not any(item.problem for item in obtained),
            machine=lock.platform.partition("-")[0],
            asked=asked,
        )
        return self.installation(installation, obtained, targets, name=lock.cell)

    def kept_report(
        self, cell: Cell, lock: Lock, matrix: Matrix, *, targets: Sequence[TargetGpu] | None = None
    ) -> AuditReport | None:
        """Return what was said of a cell before; None if nothing was, or not all of its wheels are known."""
        obtained = self._reader.at_hand(lock)
        if self._verdicts is None or obtained is None:
            return None
        gpus = gpu_targets(matrix, cell.targets) if targets is None else targets
        problems = [item.problem for item in obtained if item.problem is not None]
        key = self._verdicts.key(self._installed(cell, lock, matrix, obtained), gpus, problems)
        found = self._verdicts.get(key, name=cell.id, readable=())
        return None if found is None else found.report

    def _installed(self, cell: Cell, lock: Lock, matrix: Matrix, obtained: Sequence[Obtained]) -> Installation:
        from_source = any(value.source is not None for value in cell.point.values())
        return Installation(
            wheels=tuple(item.facts for item in obtained),
            python=lock.python,
            machine=cell.platform.machine,
            base=base_of(
                matrix.bases[cell.base], cell.base, cell.system_packages, self.knowledge, environment=cell.env
            ),
            complete=not from_source and not any(item.problem for item in obtained),
            named=not from_source,
            overridden=frozenset(_names(cell.forced_requirements)),
        )

    def judge(self, cell: Cell, lock: Lock, matrix: Matrix, *, store: Store, run: str) -> AuditJudgement | None:
        """Audit a cell before it is built and keep the record; None where nothing could be read."""
        try:
            report = self.cell(cell, lock, matrix)
        except PackageIndexError:
            return None
        keep_record(store, report, run=run, cell=cell, image_digest=None, lock=lock)
        return judgement(report)

    def known(self, lock: Lock) -> tuple[WheelFacts, ...]:
        """Return the facts of those wheels of a lock that have been read."""
        return self._reader.known(lock)

    def facts_of(self, sha256: str) -> WheelFacts | None:
        """Return the facts of a wheel of any index of the matrix."""
        return self._reader.facts_of(sha256)

    def read_ahead(self, locks: Iterable[Lock]) -> Mapping[str, Obtained]:
        """Read what is not known of the wheels of several locks, several at once; returns what was read, by sha256."""
        return self._reader.read_ahead(locks)

    def unread(self, locks: Iterable[Lock]) -> list[str]:
        """Return the sha256 of wheels of locks that have to be read, in the order of the locks."""
        return self._reader.unread(locks)

    def locked(self, wheel: LockedWheel) -> Obtained:
        """Return the facts of one entry of a lock; a fault becomes a finding."""
        return self._reader.locked(wheel)

    def read(self, file: IndexFile, *, whole: bool = False) -> WheelFacts:
        """Return the facts of a file; see `WheelReader.read`."""
        return self._reader.read(file, whole=whole)

    def judge_installed(
        self,
        installation: Installation,
        targets: Sequence[TargetGpu],
        *,
        name: str,
        problems: Sequence[Finding] = (),
        locked: AsLocked | None = None,
    ) -> AuditReport:
        """Audit what is installed in an image; see pipeline/audit_image.py."""
        started = time.monotonic()
        report = audit(
            installation,
            self.knowledge,
            targets=targets,
            name=name,
            subject="image",
            demangle=self._demangle,
            known=self._reader.others,
            problems=problems,
            locked=locked,
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
            installation = self._reader.with_torch_archs(installation, obtained)
        for _ in range(ROUNDS):
            found = self._audited(installation, obtained, targets, name)
            more = self._reader.read_more(installation, obtained, found.uncertain)
            if more is None:
                break
            installation = more
        else:
            found = self._audited(installation, obtained, targets, name)
        fetched = self._reader.fetched(obtained)
        spent = round(time.monotonic() - started, 3)
        return found.report.model_copy(update={"fetched_bytes": fetched, "seconds": spent})

    def _audited(
        self, installation: Installation, obtained: Sequence[Obtained], targets: Sequence[TargetGpu], name: str
    ) -> Audited:
        """Return what the rules say: what was kept, where the same was asked before."""
        problems = [item.problem for item in obtained if item.problem is not None]
        key = None if self._verdicts is None else self._verdicts.key(installation, targets, problems)
        if self._verdicts is not None and key is not None:
            readable = {item.facts.sha256 for item in obtained if item.file is not None}
            kept = self._verdicts.get(key, name=name, readable=readable)
            if kept is not None:
                return kept
        found = audit(
            installation,
            self.knowledge,
            targets=targets,
            name=name,
            demangle=self._demangle,
            known=self._reader.others,
            problems=problems,
        )
        if self._verdicts is not None and key is not None:
            self._verdicts.put(key, found)
        return found


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


def keep_record(
    store: Store,
    report: AuditReport,
    *,
    run: str,
    cell: Cell | None,
    image_digest: str | None,
    lock: Lock | None = None,
) -> AuditRecord:
    """Keep a report as a document and a record of it."""
    digest = store.put_document(report.model_dump_json(indent=1).encode() + b"\n")
    record = record_of(report, run=run, cell=cell, image_digest=image_digest, lock=lock, document=digest)
    store.append(record)
    return record


def record_of(
    report: AuditReport,
    *,
    run: str,
    cell: Cell | None,
    image_digest: str | None,
    lock: Lock | None = None,
    document: str | None = None,
) -> AuditRecord:
    """Return the record of a report; `document` is the digest of its JSON."""
    return AuditRecord(
        created=now(),
        run=run,
        cell=cell.id if cell else report.name,
        image=cell.image if cell else "",
        image_digest=image_digest,
        lock_digest=None if lock is None else lock_digest(lock),
        platform=Platform.of(report.platform),
        assay_version=__version__,
        subject=report.subject,
        verdict=report.verdict,
        targets=report.targets,
        verdicts={target: report.verdict_on(target) for target in report.targets},
        findings=len(report.findings),
        summary=report.summary,
        predictions=report.predicted(),
        report=document,
    )

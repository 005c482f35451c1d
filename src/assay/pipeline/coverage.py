"""Predict what the releases of some distributions cover: each wheel is read once, and judged beside its torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement

from assay.audit.context import TargetGpu
from assay.audit.coverage import Coverage, CoverageRow, covered
from assay.audit.findings import AuditReport
from assay.errors import PackageIndexError, QuestionError, WheelError
from assay.pipeline.audit import Auditor
from assay.pipeline.releases import Release, releases
from assay.ports.index import IndexFile, PackageIndex
from assay.wheels.tags import platform_of

__all__ = ["CoveragePorts", "coverage", "usual_distributions"]

_PYTHONS: Final = ("3.12", "3.11", "3.13", "3.10", "3.14")
_PLATFORM: Final = "{}-manylinux_2_39"
"""The newest C library that a supported base has."""


Judge = Callable[[str, str, str, Sequence[TargetGpu]], AuditReport]


@dataclass(frozen=True, kw_only=True)
class CoveragePorts:
    """What it needs from the world."""

    index: PackageIndex
    judge: Judge
    """(`NAME==VERSION`, Python, platform, GPUs) -> what would become of the wheel beside the torch that it requires."""
    say: Callable[[str], None] = lambda _text: None


def usual_distributions(auditor: Auditor) -> tuple[str, ...]:
    """Return the distributions whose GPU code or targets decide features, by name."""
    entries = (entry for one in auditor.knowledge.dispatch.features.values() for entry in one.dispatch)
    return tuple(sorted({entry.package for entry in entries if entry.code or entry.targets}))


def coverage(
    distributions: Sequence[str],
    targets: Mapping[str, Sequence[TargetGpu]],
    ports: CoveragePorts,
    *,
    since: str,
    made: str,
) -> Coverage:
    """Return what the final releases since a day cover.

    Args:
        distributions: names on the index.
        targets: platform (`x86_64`) -> the GPUs of its machines.
        ports: the world.
        since: `2025-12-01`.
        made: today.

    Raises:
        PackageIndexError: the index cannot be asked.
    """
    rows: list[CoverageRow] = []
    for name in distributions:
        try:
            there = releases(ports.index, Requirement(name))
        except QuestionError as error:
            ports.say(f"{name}: left out: {error.message}")
            continue
        recent = [one for one in reversed(there) if (one.uploaded or "") >= since]
        found: list[CoverageRow] = []
        for number, one in enumerate(recent, start=1):
            ports.say(f"{name} {one.version} ({number} of {len(recent)})")
            found += _rows(name, one, targets, ports.judge)
        rows += sorted(found, key=lambda row: row.platform)
    return Coverage(made=made, since=since, rows=tuple(rows))


def _rows(
    name: str, release: Release, targets: Mapping[str, Sequence[TargetGpu]], judge: Judge
) -> Iterator[CoverageRow]:
    done: set[str] = set()
    for machine, gpus in targets.items():
        found = _wheel(release, machine)
        if found is None or found[1].filename in done:
            continue
        python, file = found
        done.add(file.filename)
        anywhere = platform_of(file.filename) is None
        every = {gpu.name: gpu for one in (targets.values() if anywhere else [gpus]) for gpu in one}
        common = CoverageRow(
            distribution=name,
            version=str(release.version),
            platform="any" if anywhere else machine,
            uploaded=release.uploaded or "",
            sha256=file.sha256 or "",
        )
        try:
            report = judge(f"{name}=={release.version}", python, machine, tuple(every.values()))
        except (WheelError, PackageIndexError) as error:
            yield common.model_copy(update={"problem": error.message})
            continue
        yield common.model_copy(update={"targets": covered(report, report.targets)})


def _wheel(release: Release, machine: str) -> tuple[str, IndexFile] | None:
    platform = _PLATFORM.format(machine)
    wheels = ((python, release.wheel(python, platform)) for python in _PYTHONS)
    return next(((python, file) for python, file in wheels if file is not None), None)

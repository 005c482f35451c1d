"""How the GPU code of each library fits each target: what rules G1 to G3 report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from packaging.version import Version

from assay.audit.context import Context, TargetGpu, label
from assay.audit.findings import CodeRow
from assay.audit.gpu import Run, group_runs, spelled
from assay.audit.knowledge import LibraryPolicy
from assay.foundation.versions import parsed
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.facts_file import NAMED
from assay.wheels.gpu_code import GpuCode

__all__ = ["JudgedRow", "code_row", "code_rows", "judged_rows"]


class JudgedRow(NamedTuple):
    """The row of one library and target, with what it is about."""

    wheel: WheelFacts
    library: Library
    target: TargetGpu
    row: CodeRow
    policy: LibraryPolicy | None
    other: bool
    """Whether the library is the variant for another torch, Python or CUDA."""


def code_row(
    isa: Mapping[str, str], wheel: WheelFacts, library: Library, code: GpuCode, target: TargetGpu, *, used: bool = True
) -> CodeRow:
    """Return how the GPU code of one library fits one target.

    Args:
        isa: PTX ISA -> the first CUDA version whose driver compiles it.
        used: whether its package loads the library there.
    """
    counts = dict.fromkeys(Run, 0)
    needs: Version | None = None
    without: list[str] = []
    for group in code.groups:
        how, cuda = group_runs(group, target.capability, isa, target.driver_cuda)
        counts[how] += group.containers
        if how is Run.PTX and cuda is not None:
            needs = max(needs or parsed("0"), parsed(cuda))
        if how is Run.NONE:
            without.extend(group.kernels)
    kind: Literal["sass", "ptx", "partial", "none", "unknown"]
    if not code.containers:
        kind = "unknown"
    elif counts[Run.NONE] == code.containers:
        kind = "none"
    elif counts[Run.NONE]:
        kind = "partial"
    else:
        kind = "ptx" if counts[Run.PTX] else "sass"
    return CodeRow(
        package=label(wheel),
        library=library.path,
        target=target.name,
        runs=kind,
        sass=counts[Run.SASS],
        ptx=counts[Run.PTX],
        none=counts[Run.NONE],
        targets=spelled(code),
        needs_cuda=str(needs) if needs else None,
        kernels_without=tuple(without[:NAMED]),
        used=used,
    )


def code_rows(context: Context) -> tuple[JudgedRow, ...]:
    """Return a row for each library with GPU code and each target."""
    return tuple(_rows(context))


def judged_rows(context: Context) -> Iterator[JudgedRow]:
    """Yield the rows that the rules judge.

    NVIDIA's libraries pick kernels for each GPU their version knows, and bring some in ways of their own.
    """
    return (one for one in context.shared(code_rows) if not (one.other or one.wheel.name.startswith("nvidia-")))


def _rows(context: Context) -> Iterator[JudgedRow]:
    isa = context.knowledge.ptx.isa
    for wheel in context.installation.native if context.targets else ():
        for library in wheel.libraries:
            code = library.gpu
            if code is None or not code.containers:
                continue
            other = library.path in context.others(wheel)
            for target in context.targets:
                policy = context.policy(wheel, library, target)
                used = not other and (policy is None or policy.use != "never")
                row = code_row(isa, wheel, library, code, target, used=used)
                yield JudgedRow(wheel, library, target, row, policy, other)

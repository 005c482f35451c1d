"""Rules G1 to G3: which library has code for which GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, Literal

from packaging.version import Version

from assay.audit.context import Context, TargetGpu, label
from assay.audit.findings import CodeRow, Finding, Suggestion
from assay.audit.gpu import Run, group_runs, spelled
from assay.audit.knowledge import nearest, parsed
from assay.foundation.outcome import Severity
from assay.wheels.facts import NAMED, GpuCode, Library, WheelFacts
from assay.wheels.symbols import SymbolKind

__all__ = ["CPU_TORCH", "code_row", "code_rows", "gpu_rules"]

CPU_TORCH: Final = "abi-cpu-torch"
"""The known failure that a torch without CUDA leads to."""


def code_row(context: Context, wheel: WheelFacts, library: Library, code: GpuCode, target: TargetGpu) -> CodeRow:
    """Return how the GPU code of one library fits one target."""
    isa = context.knowledge.ptx.isa
    key = ("row", label(wheel), target, id(isa))
    return code.once(key, isa, lambda: _code_row(isa, wheel, library, code, target))


def _code_row(isa: Mapping[str, str], wheel: WheelFacts, library: Library, code: GpuCode, target: TargetGpu) -> CodeRow:
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
    )


def code_rows(context: Context) -> Iterator[tuple[WheelFacts, Library, TargetGpu, CodeRow]]:
    """Yield a row for each library with GPU code and each target."""
    for wheel in context.installation.native:
        for library in wheel.libraries:
            if library.gpu is None or not library.gpu.containers:
                continue
            for target in context.targets:
                yield wheel, library, target, code_row(context, wheel, library, library.gpu, target)


def gpu_rules(context: Context) -> list[CodeRow]:
    """Judge every library for every target; returns the rows, best known names first."""
    rows: list[CodeRow] = []
    _without_cuda(context)
    for wheel, library, target, row in code_rows(context):
        policy = context.policy(wheel, library, target)
        other = context.for_others(wheel, library)
        unused = other or (policy is not None and policy.use == "never")
        rows.append(row.model_copy(update={"used": False}) if unused else row)
        if row.runs in {"sass", "unknown"} or wheel.name.startswith("nvidia-") or other:
            # NVIDIA's libraries pick kernels for each GPU their version knows, and bring some in ways of their own.
            continue
        _judge(context, wheel, library, target, row)
    return rows


def _without_cuda(context: Context) -> None:
    """G1 for a torch without CUDA: as the default index has it for aarch64 in some releases."""
    torch = context.torch
    if torch is None or not context.targets:
        return
    names = {library.name for library in torch.libraries}
    if "libtorch_cpu.so" in names and not any(name.startswith(("libtorch_cuda", "libtorch_hip")) for name in names):
        context.add(
            Finding(
                rule="G1",
                severity=Severity.ERROR,
                package=label(torch),
                message=f"is built without CUDA ({torch.filename}): nothing runs on a GPU with it",
                cause=CPU_TORCH,
                fix="take a build of torch for CUDA: another release, or one from PyTorch's own index",
            )
        )


def _judge(context: Context, wheel: WheelFacts, library: Library, target: TargetGpu, row: CodeRow) -> None:
    policy = context.policy(wheel, library, target)
    loaded_by_torch = wheel.is_torch or library.torch_kind is not SymbolKind.NONE
    has = ", ".join(row.targets) or "none"
    if row.runs == "none":
        torch_itself = wheel.is_torch and library.name.startswith("libtorch_cuda.")
        severity = context.severity(policy, Severity.ERROR if torch_itself else Severity.WARNING)
        if policy is not None and policy.use == "required":
            severity = Severity.ERROR
        context.add(
            Finding(
                rule="G1",
                severity=severity,
                package=label(wheel),
                library=library.path,
                target=target.name,
                message=f"has no code for {target.name}: {has}" + (f"; {policy.reason}" if policy else ""),
                cause="arch-torch-incompatible" if wheel.is_torch else "arch-no-kernel-image",
                fix=_torch_fix(target) if torch_itself else "",
                suggestions=() if severity is Severity.INFO else _with_code(context, wheel, library, target),
            )
        )
    elif row.runs == "ptx":
        driver = f"a driver for CUDA {row.needs_cuda} or newer" if row.needs_cuda else "the driver"
        context.add(
            Finding(
                rule="G2",
                severity=Severity.WARNING if loaded_by_torch and not policy else Severity.INFO,
                package=label(wheel),
                library=library.path,
                target=target.name,
                message=f"has PTX, no machine code, for {target.name} in {row.ptx} of {row.sass + row.ptx} parts: "
                f"compiled at first start by {driver}, which is slow",
            )
        )
    else:
        named = ", ".join(dict.fromkeys(_short(context.demangle(name), name) for name in row.kernels_without[:12]))
        context.add(
            Finding(
                rule="G3",
                severity=Severity.INFO,
                package=label(wheel),
                library=library.path,
                target=target.name,
                message=f"{row.none} of {row.sass + row.ptx + row.none} parts have no code for {target.name}"
                + (f": {named}" if named else ""),
                symbols=row.kernels_without[:8],
                symbols_count=len(row.kernels_without),
            )
        )


def _with_code(context: Context, wheel: WheelFacts, library: Library, target: TargetGpu) -> tuple[Suggestion, ...]:
    """Return the nearest known versions of a package in which a library has code for the target."""
    versions = {
        facts.version
        for facts in context.known.get(wheel.name, ())
        for item in facts.libraries
        if item.name == library.name
        and item.gpu is not None
        and code_row(context, facts, item, item.gpu, target).runs not in {"none", "unknown"}
    }
    near = nearest(versions - {wheel.version}, wheel.version)
    return (
        (Suggestion(package=wheel.name, versions=near, why=f"{library.name} has code for {target.name}"),)
        if near
        else ()
    )


def _torch_fix(target: TargetGpu) -> str:
    return f"take a torch built with a newer CUDA version: for {target.name} see targets in matrix.yaml"


@lru_cache(maxsize=1 << 12)
def _short(text: str, name: str) -> str:
    """The kernel's own name, without namespaces and arguments."""
    depth = 0
    kept: list[str] = []
    for char in text.removeprefix("void "):
        if char in "<(":
            depth += 1
        elif char in ">)":
            depth -= 1
        elif depth == 0:
            kept.append(char)
    return "".join(kept).strip()[:80] or name[:80]

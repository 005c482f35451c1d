"""Rule G1: a library has no code that a GPU can run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assay.audit.code_rows import JudgedRow, code_row, judged_rows
from assay.audit.context import Context, TargetGpu, label
from assay.audit.findings import CPU_TORCH, Finding, Suggestion
from assay.audit.rule import AuditRule
from assay.foundation.outcome import Severity
from assay.foundation.versions import nearest

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield a torch without CUDA, then the libraries without code for a target."""
    yield from _without_cuda(context)
    for one in judged_rows(context):
        if one.row.runs == "none":
            yield _no_code(context, one)


def _without_cuda(context: Context) -> Iterator[Finding]:
    """Yield a torch without CUDA: as the default index has it for aarch64 in some releases."""
    torch = context.torch
    if torch is None or not context.targets:
        return
    names = {library.name for library in torch.libraries}
    if "libtorch_cpu.so" in names and not any(name.startswith(("libtorch_cuda", "libtorch_hip")) for name in names):
        yield Finding(
            rule="G1",
            severity=Severity.ERROR,
            package=label(torch),
            message=f"is built without CUDA ({torch.filename}): nothing runs on a GPU with it",
            cause=CPU_TORCH,
            fix="take a build of torch for CUDA: another release, or one from PyTorch's own index",
        )


def _no_code(context: Context, one: JudgedRow) -> Finding:
    policy, target = one.policy, one.target
    torch_itself = one.wheel.is_torch and one.library.name.startswith("libtorch_cuda.")
    severity = context.severity(policy, Severity.ERROR if torch_itself else Severity.WARNING)
    if policy is not None and policy.use == "required":
        severity = Severity.ERROR
    has = ", ".join(one.row.targets) or "none"
    return Finding(
        rule="G1",
        severity=severity,
        package=label(one.wheel),
        library=one.library.path,
        target=target.name,
        message=f"has no code for {target.name}: {has}" + (f"; {policy.reason}" if policy else ""),
        cause="arch-torch-incompatible" if one.wheel.is_torch else "arch-no-kernel-image",
        fix=_torch_fix(target) if torch_itself else "",
        suggestions=() if severity is Severity.INFO else _with_code(context, one),
    )


def _with_code(context: Context, one: JudgedRow) -> tuple[Suggestion, ...]:
    """Return the nearest known versions of a package in which a library has code for the target."""
    wheel, isa = one.wheel, context.knowledge.ptx.isa
    versions = {
        facts.version
        for facts in context.known.get(wheel.name, ())
        for item in facts.libraries
        if item.name == one.library.name
        and item.gpu is not None
        and code_row(isa, facts, item, item.gpu, one.target).runs not in {"none", "unknown"}
    }
    near = nearest(versions - {wheel.version}, wheel.version)
    why = f"{one.library.name} has code for {one.target.name}"
    return (Suggestion(package=wheel.name, versions=near, why=why),) if near else ()


def _torch_fix(target: TargetGpu) -> str:
    return f"take a torch built with a newer CUDA version: for {target.name} see targets in matrix.yaml"


RULE: Final = AuditRule(
    id="G1",
    text="A library has no code that this GPU can run.",
    known_by="No container of `.nv_fatbin` fits; weighed by `knowledge/dispatch.yaml`. A torch that was built "
    "without CUDA is an error on any GPU.",
    severity=Severity.ERROR,
    rests_on=("GPU code", "Python", "targets", "knowledge"),
    findings=findings,
)

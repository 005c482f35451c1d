"""Rule L1: a library that is needed is not found; one finding for each wheel and name, however many ask for it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from assay.audit.context import Context, label
from assay.audit.findings import Finding
from assay.audit.linker import Missing, Where
from assay.audit.missing_libraries import MissingName, may_come_with, missing_names, soname_cause
from assay.audit.rule import AuditRule, Breaks
from assay.audit.torch_fit import suggestions
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts

__all__ = ["RULE"]

_OF_CUDA: Final = re.compile(r"-cu(?:da)?(1\d)(?:x|\d)?(?:-|$)")
_CU: Final = re.compile(r"-cu(\d+)$")
_CUDA_SONAME: Final = re.compile(r"lib(cudart|cublas|cublasLt|nvrtc|cufft|cusolver|nvJitLink|cupti)\.so\.(\d+)")


def findings(context: Context) -> Iterator[Finding]:
    """Yield what torch lacks, then what every other wheel lacks."""
    yield from _torch(context)
    for wheel, names in context.shared(missing_names):
        yield from _cuda_variants(context, wheel)
        plain: dict[Severity, list[MissingName]] = defaultdict(list)
        for one in names:
            if one.is_plain:
                plain[one.severity].append(one)
            else:
                yield _missing(context, wheel, one.name, one.items, one.severity)
        for severity, several in plain.items():
            yield _plain(context, wheel, several, severity)


def breaks(context: Context) -> Breaks:
    """Yield the libraries that do not load because another one is missing."""
    for _, names in context.shared(missing_names):
        for one in names:
            if one.severity is Severity.ERROR:
                yield from ((path, f"{one.name} is missing") for path in one.paths)


def _torch(context: Context) -> Iterator[Finding]:
    torch = context.torch
    if torch is None:
        return
    lacking: dict[str, list[Missing]] = defaultdict(list)
    for item in context.linker.torch_missing:
        lacking[item.soname].append(item)
    for name, items in lacking.items():
        # Of torch alone, its own requirements are not part of the question.
        out_of_question = not context.installation.complete and items[0].where is Where.MISSING
        if not out_of_question and items[0].where is not Where.UNREACHABLE:
            yield _missing(context, torch, name, items, Severity.ERROR)


def _cuda_variants(context: Context, wheel: WheelFacts) -> Iterator[Finding]:
    """Yield packages that bring a library for each CUDA version, and none for torch's."""
    torch, there = context.torch, context.without_cuda(wheel)
    if torch is not None and there is not None:
        yield Finding(
            rule="L1",
            severity=Severity.ERROR,
            package=label(wheel),
            message=f"has libraries for CUDA {', '.join(there)}, and none that it would load with torch "
            f"{torch.version} for CUDA {torch.cuda}",
            cause="lib-cuda-generic",
            fix=f"take another version of {wheel.name}, or torch for one of these CUDA versions",
        )


def _plain(context: Context, wheel: WheelFacts, several: Sequence[MissingName], severity: Severity) -> Finding:
    """Return one finding for all of the system's libraries that a wheel lacks."""
    if len(several) == 1:
        return _missing(context, wheel, several[0].name, several[0].items, severity)
    askers = sorted({item.asked_by for one in several for item in one.items})
    whose = (_who_brings(context, one.name, None) or _with_what(context, one.name, wheel) for one in several)
    fixes = dict.fromkeys(fix for fix in whose if fix)
    return Finding(
        rule="L1",
        severity=severity,
        package=label(wheel),
        library=askers[0],
        message=f"{_few(askers)} need {', '.join(one.name for one in several)}, and nothing brings them",
        cause="lib-missing",
        fix="; ".join(fixes),
    )


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _missing(context: Context, wheel: WheelFacts, name: str, items: Sequence[Missing], severity: Severity) -> Finding:
    askers = list(dict.fromkeys(item.asked_by for item in items))
    by, verb, other = _few(askers), "needs" if len(askers) == 1 else "need", None
    if items[0].where is Where.UNREACHABLE:
        message = f"{by} {verb} {name}, which {items[0].holders[0]} has where the linker does not look"
        fix = "import the package that brings it first, or set LD_LIBRARY_PATH"
    else:
        message = f"{by} {verb} {name}, and nothing brings it"
        other = _other_major(context, name)
        if other:
            message += f" (this set has {other})"
        fix = _who_brings(context, name, other) or _with_what(context, name, wheel)
    return Finding(
        rule="L1",
        severity=severity,
        package=label(wheel),
        library=items[0].asked_by,
        message=message,
        cause=soname_cause(name) if items[0].where is Where.MISSING else None,
        fix=fix,
        suggestions=suggestions(context, wheel) if other else (),
    )


def _other_major(context: Context, name: str) -> str | None:
    match = _CUDA_SONAME.fullmatch(name)
    if match is None:
        return None
    names = [name for wheel in context.installation.native for name in wheel.by_soname]
    # In a set that is given in part, what torch's requirements would bring stands among the base's libraries.
    for other in (*names, *sorted(context.base.sonames)):
        found = _CUDA_SONAME.fullmatch(other)
        if found and found.group(1) == match.group(1) and found.group(2) != match.group(2):
            return other
    return None


def _who_brings(context: Context, name: str, other: str | None) -> str:
    if other:
        return "take the build of this package for the CUDA version of torch, or torch for this package's"
    sonames = context.knowledge.sonames
    packages = [package for package, names in sonames.packages.items() if name in names]
    if packages:
        return f"install {' or '.join(packages)} in the image (system_packages)"
    brings = context.knowledge.brings.get(name)
    return f"add {_of_its_cuda(context, brings)} to the requirements" if brings else ""


def _with_what(context: Context, name: str, wheel: WheelFacts) -> str:
    """Return what to name so that a library may be found that no package is known for."""
    others = may_come_with(context, name, wheel)
    if soname_cause(name) != "lib-missing" or not others:
        return ""
    return f"it may come with {_several(others)}, which {wheel.name} requires: name them with --with"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _of_its_cuda(context: Context, brings: str) -> str:
    """Return those of several distributions (`nvidia-nccl-cu12 or nvidia-nccl-cu13`) that are for the CUDA here."""
    majors = {match[1] for one in context.installation.wheels for match in [_OF_CUDA.search(one.name)] if match}
    torch = context.torch
    if torch is not None and torch.cuda is not None:
        majors = {torch.cuda.partition(".")[0]}
    names = brings.split(" or ")
    # Since CUDA 13 some have no number: `nvidia-curand` beside `nvidia-curand-cu12`.
    fitting = [name for name in names if (_CU.search(name) or ("", "13"))[1] in majors]
    return " or ".join(fitting if len(majors) == 1 and fitting else names)


RULE: Final = AuditRule(
    id="L1",
    text="A needed shared library is missing, or the dynamic linker does not find it.",
    known_by="DT_NEEDED through what torch has loaded, DT_RPATH (inherited), DT_RUNPATH (not inherited), the base, "
    "the driver.",
    severity=Severity.ERROR,
    rests_on=("libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
    breaks=breaks,
)

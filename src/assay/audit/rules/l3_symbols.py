"""Rule L3: a symbol that is needed is exported by nothing in reach."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from assay.audit import missing_libraries
from assay.audit.context import Context, Root, label, minor
from assay.audit.findings import Finding
from assay.audit.resolve import UnboundNames, is_out_of_reach, more, of_torch, unresolved
from assay.audit.rule import AuditRule, Breaks
from assay.audit.torch_fit import built_for, either, suggestions
from assay.foundation.outcome import Severity
from assay.wheels.symbols import is_of_cuda

__all__ = ["RULE", "reported"]

SHOWN: Final = 8


def findings(context: Context) -> Iterator[Finding]:
    """Yield what libraries miss, then packages of which one library has to load and none does."""
    for one in context.shared(unresolved):
        names = of_torch(one)
        if is_out_of_reach(context, one):
            # The package may make torch's symbols global before it loads this: not certain, so not an error.
            yield _out_of_reach(context, one, names)
            continue
        if names and context.torch is not None:
            yield _of_torch(context, one, names)
        others = [name for name, _ in one.missing if name not in names]
        if others:
            yield Finding(
                rule="L3",
                severity=context.severity(one.root.policy),
                package=label(one.wheel),
                library=one.library.path,
                message=f"needs {context.demangle(others[0])}{more(others)}, which nothing in reach exports",
                symbols=tuple(others[:SHOWN]),
                symbols_count=len(others),
                cause="abi-cuda-symbol" if is_of_cuda(others[0]) else "abi-undefined-symbol",
            )
    for name, roots, whys in _alternatives(context):
        wheel, library = roots[0].wheel, roots[0].library
        yield Finding(
            rule="L3",
            severity=Severity.ERROR,
            package=label(wheel),
            library=library.path,
            message=f"none of the {len(roots)} libraries {name} loads, and one has to: {whys[0]}",
            cause="abi-undefined-symbol",
            fix=f"take a build of {wheel.name} for this torch and CUDA",
        )


def breaks(context: Context) -> Breaks:
    """Yield the libraries that do not load because of what they miss."""
    for one in context.shared(unresolved):
        if one.missing and not is_out_of_reach(context, one) and context.severity(one.root.policy) is Severity.ERROR:
            yield one.root.library.path, _why(context, one)
    for _, roots, whys in _alternatives(context):
        yield from ((root.library.path, why) for root, why in zip(roots, whys, strict=True))


def reported(context: Context) -> frozenset[tuple[str, str]]:
    """Return the package and path of all libraries that have a finding."""
    return frozenset((one.package, one.library) for one in findings(context))


def _why(context: Context, one: UnboundNames) -> str:
    return f"undefined symbol {context.demangle((of_torch(one) or [name for name, _ in one.missing])[0])}"


def _alternatives(context: Context) -> Iterator[tuple[str, Sequence[Root], Sequence[str]]]:
    """Yield packages that bring a library several times, none of which loads: torchcodec has one for each FFmpeg."""
    families: dict[tuple[str, str], list[Root]] = defaultdict(list)
    for root in context.roots:
        if root.policy is not None and root.policy.one_of:
            families[root.wheel.content, re.sub(r"\d+", "#", root.library.path)].append(root)
    if not families:
        return
    failing = missing_libraries.failing(context) | {
        one.root.library.path: _why(context, one)
        for one in context.shared(unresolved)
        if one.missing and not is_out_of_reach(context, one)
    }
    for (_, name), roots in families.items():
        whys = [failing[root.library.path] for root in roots if root.library.path in failing]
        if len(roots) > 1 and len(whys) == len(roots):
            yield name, roots, whys


def _out_of_reach(context: Context, one: UnboundNames, names: Sequence[str]) -> Finding:
    return Finding(
        rule="L3",
        severity=Severity.WARNING,
        package=label(one.wheel),
        library=one.library.path,
        message=f"needs {context.demangle(names[0])}{more(names)} of torch without naming torch's libraries: "
        "it loads only where something made them global",
        symbols=tuple(names[:SHOWN]),
        symbols_count=len(names),
    )


def _of_torch(context: Context, one: UnboundNames, names: Sequence[str]) -> Finding:
    """Return what torch lacks: who has it, and for which torch the wheel was built."""
    torch, wheel = context.torch, one.wheel
    assert torch is not None
    first = min(names)
    having = context.knowledge.history.having(first)
    where = f"; torch {_span(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""
    built = built_for(context, wheel)
    head = f"built for torch {either(built)}; " if built else ""
    return Finding(
        rule="L3",
        severity=context.severity(one.root.policy),
        package=label(wheel),
        library=one.library.path,
        message=f"{head}torch {torch.version} lacks {context.demangle(first)}{more(names)}{where}",
        symbols=tuple(sorted(names)[:SHOWN]),
        symbols_count=len(names),
        cause=_cause(tuple(names)),
        suggestions=suggestions(context, wheel),
        fix=f"take torch {either(built)}, or a build of {wheel.name} for torch {minor(torch.version)}"
        if built
        else f"take a build of {wheel.name} for torch {minor(torch.version)}",
    )


def _span(releases: Sequence[str]) -> str:
    return releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"


@lru_cache(maxsize=1 << 10)
def _cause(names: tuple[str, ...]) -> str:
    """Return the failure that would be seen first: the linker stops at the first symbol."""
    for name in names:
        if re.match(r"_ZN3c104cuda9SetDeviceE", name):
            return "abi-setdevice"
        if re.match(r"_ZN5torch3jit17parseSchemaOrNameERKSsb?", name):
            return "abi-pre-cxx11"
        if name.startswith("_ZN5torch7Library4_defE"):
            return "abi-library-def"
        if re.search(r"c10\S*(?:MessageLogger|LogMessage)", name):
            return "abi-messagelogger"
    return "abi-torch-generic"


RULE: Final = AuditRule(
    id="L3",
    text="A needed symbol is exported by no library in reach.",
    known_by="Strong undefined symbols against the global scope and the needed libraries, with versions. Of "
    "libraries marked `one_of` in `knowledge/dispatch.yaml`, one must load.",
    severity=Severity.ERROR,
    rests_on=("libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
    breaks=breaks,
)

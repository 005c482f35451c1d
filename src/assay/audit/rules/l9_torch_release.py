"""Rule L9: a library was built for another torch release.

That all symbols resolve does not suffice: libraries built for torch 2.8 with none missing on 2.9.1 were measured to
abort while loading, because the layout of classes changed under equal names. So an extension with torch's unstable
C++ ABI and another minor release of torch is an error of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from assay.audit.context import Context, label, minor
from assay.audit.findings import Finding
from assay.audit.history import TorchHistory
from assay.audit.rule import AuditRule, Breaks
from assay.audit.rules.l3_symbols import reported
from assay.audit.rules.l8_strings import with_old_strings
from assay.audit.torch_fit import built_for, either, linked, suggestions
from assay.foundation.outcome import Severity
from assay.foundation.versions import parsed, public
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.symbols import SymbolKind
from assay.wheels.variants import torch_variants

__all__ = ["RULE"]


def findings(context: Context) -> Iterator[Finding]:
    """Yield what each wheel that is linked with torch says of the release it needs."""
    torch = context.torch
    if torch is None:
        return
    for wheel in context.installation.native:
        if wheel.is_torch:
            continue
        yield from _variants(context, wheel, torch)
        libraries = linked(context, wheel)
        unstable = [item for item in libraries if item.torch_kind is SymbolKind.UNSTABLE]
        if unstable:
            yield from _unstable(context, wheel, unstable, torch)
        for library in libraries:
            if library.torch_kind is SymbolKind.STABLE:
                yield from _stable(context, wheel, library, torch)


def breaks(context: Context) -> Breaks:
    """Yield the libraries that were built for another torch, or need a newer one."""
    torch = context.torch
    if torch is None:
        return
    here = minor(torch.version)
    for wheel in context.installation.native:
        built: tuple[str, ...] | None = None
        libraries = linked(context, wheel)
        for library in libraries:
            if library.torch_kind is SymbolKind.UNSTABLE:
                built = built_for(context, wheel) if built is None else built
                if built and here not in built and _severity(context, wheel, library) is Severity.ERROR:
                    yield library.path, f"built for torch {either(built)}, not {here}"
        for library in libraries:
            newer = _newer_shim(context, library, torch) if library.torch_kind is SymbolKind.STABLE else None
            if newer is not None:
                yield library.path, f"needs {newer[1]} of torch {minor(newer[0])}"


def _severity(context: Context, wheel: WheelFacts, library: Library) -> Severity:
    return context.severity(context.policy(wheel, library))


def _variants(context: Context, wheel: WheelFacts, torch: WheelFacts) -> Iterator[Finding]:
    """Yield packages that bring a library for each torch, and none for this one."""
    variants = torch_variants(wheel)
    made = [(variants[library.path], library) for library in wheel.libraries if library.path in variants]
    releases = sorted({variant for variant, _ in made}, key=parsed)
    if not made or minor(torch.version) in releases:
        return
    policy = context.policy(wheel, made[0][1])
    yield Finding(
        rule="L9",
        severity=Severity.WARNING if policy is None or policy.use == "required" else Severity.INFO,
        package=label(wheel),
        message=f"brings libraries for torch {', '.join(releases)}, and none for torch {torch.version}: what needs "
        "them does not work" + (f" ({policy.reason})" if policy else ""),
        fix=f"take torch {either(releases)}, or another version of {wheel.name}",
    )


def _unstable(
    context: Context, wheel: WheelFacts, libraries: Sequence[Library], torch: WheelFacts
) -> Iterator[Finding]:
    """Yield findings about the torch that libraries with the unstable C++ ABI were compiled against."""
    built = built_for(context, wheel)
    if not built:
        if not context.knowledge.history.knows(public(torch.version)):
            yield Finding(
                rule="L9",
                severity=Severity.WARNING,
                package=label(wheel),
                library=libraries[0].path,
                message=f"uses torch's unstable C++ ABI; which torch it was built for is not known, "
                f"so that it fits torch {torch.version} rests on its symbols alone",
            )
    elif minor(torch.version) not in built:
        yield from _other_release(context, wheel, libraries, torch, built)
    elif len(built) > 1:
        yield Finding(
            rule="L9",
            severity=Severity.INFO,
            package=label(wheel),
            message=f"its symbols fit torch {either(built)} alike; which of them it was compiled against is not known",
        )


def _other_release(
    context: Context, wheel: WheelFacts, libraries: Sequence[Library], torch: WheelFacts, built: Sequence[str]
) -> Iterator[Finding]:
    severities = [_severity(context, wheel, library) for library in libraries]
    # What rules L3 and L8 say of a library is the clearer reason.
    clearer = {path for package, path in context.shared(reported) if package == label(wheel)}
    clearer |= {library.path for library in with_old_strings(context, wheel)}
    left = [library for library in libraries if library.path not in clearer]
    if left:
        yield Finding(
            rule="L9",
            severity=Severity.ERROR if Severity.ERROR in severities else severities[0],
            package=label(wheel),
            library=left[0].path if len(left) == 1 else "",
            message=f"built for torch {either(built)}, with torch's unstable C++ ABI in {_names(left)}; "
            f"on torch {torch.version} even what finds all its symbols may abort while loading (silent ABI break)",
            cause="audit-abi-risk",
            suggestions=suggestions(context, wheel),
            fix=f"take torch {either(built)}, or a build of {wheel.name} for torch {minor(torch.version)}",
        )


def _names(libraries: Sequence[Library]) -> str:
    names = [library.name for library in libraries]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _stable(context: Context, wheel: WheelFacts, library: Library, torch: WheelFacts) -> Iterator[Finding]:
    """Yield libraries that keep to the stable ABI: the newest function they use decides."""
    newer = _newer_shim(context, library, torch)
    if newer is not None:
        version, name = newer
        yield Finding(
            rule="L9",
            severity=_severity(context, wheel, library),
            package=label(wheel),
            library=library.path,
            message=f"uses torch's stable ABI, and of it {name}, which torch has from {minor(version)} on; "
            f"this is {torch.version}",
            symbols=(name,),
            symbols_count=1,
            fix=f"torch {minor(version)} or newer",
            suggestions=suggestions(context, wheel),
        )


def _newer_shim(context: Context, library: Library, torch: WheelFacts) -> tuple[str, str] | None:
    """Return the first release with all functions of the stable ABI that a library uses, if newer, and one of them."""
    newest = _newest_shim(library, context.knowledge.history)
    if newest is None or parsed(minor(newest[0])) <= parsed(minor(torch.version)):
        return None
    return newest


def _newest_shim(library: Library, history: TorchHistory) -> tuple[str, str] | None:
    needed = [(having[0], name) for name in library.shims if (having := history.having(name))]
    return max(needed, key=lambda item: parsed(item[0]), default=None)


RULE: Final = AuditRule(
    id="L9",
    text="A library with torch's unstable C++ ABI was built for another torch release.",
    known_by="See below.",
    severity=Severity.ERROR,
    rests_on=("metadata", "libraries", "base", "Python", "targets", "knowledge"),
    findings=findings,
    breaks=breaks,
)

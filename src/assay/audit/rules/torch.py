"""Rules R3, L8 and L9: how extensions fit the torch they would be loaded with.

That all symbols resolve does not suffice: libraries built for torch 2.8 with none missing on 2.9.1 were measured to
abort while loading, because the layout of classes changed under equal names. So an extension with torch's unstable
C++ ABI and another minor release of torch is an error of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from assay.audit.context import Context, label, minor, torch_release
from assay.audit.findings import Finding, Suggestion
from assay.audit.history import TorchHistory
from assay.audit.knowledge import distance, nearest, parsed
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.symbols import SymbolKind
from assay.wheels.variants import torch_variants

__all__ = ["missing_torch_symbols", "suggestions", "torch_rules"]

SHOWN: Final = 8
_NAMED: Final = re.compile(r"\s*torch(?![\w-])")


def torch_rules(context: Context) -> None:
    """Check every wheel that is linked with torch."""
    for wheel in context.installation.native:
        if wheel.is_torch:
            continue
        _variants(context, wheel)
        linked = [item for item in _linked(wheel) if not context.for_others(wheel, item)]
        if not linked:
            continue
        _says_torch(context, wheel)
        if context.torch is None:
            continue
        _built_minor(context, wheel, [item for item in linked if item.torch_kind is SymbolKind.UNSTABLE])
        for library in linked:
            if library.torch_kind is SymbolKind.STABLE:
                _stable(context, wheel, library)


def _linked(wheel: WheelFacts) -> tuple[Library, ...]:
    """Return the libraries of a wheel that were read and are bound to torch."""
    return wheel.once(
        "linked with torch",
        None,
        lambda: tuple(
            item for item in wheel.libraries if item.scope != "listed" and item.torch_kind is not SymbolKind.NONE
        ),
    )


def _variants(context: Context, wheel: WheelFacts) -> None:
    """L9 for packages that bring a library for each torch: none for this one."""
    torch = context.torch
    variants = torch_variants(wheel)
    if torch is None or not variants:
        return
    made = [(variants[library.path], library) for library in wheel.libraries if library.path in variants]
    releases = sorted({variant for variant, _ in made}, key=parsed)
    if minor(torch.version) in releases:
        return
    policy = context.policy(wheel, made[0][1])
    context.add(
        Finding(
            rule="L9",
            severity=Severity.WARNING if policy is None or policy.use == "required" else Severity.INFO,
            package=label(wheel),
            message=f"brings libraries for torch {', '.join(releases)}, and none for torch {torch.version}: what needs "
            "them does not work" + (f" ({policy.reason})" if policy else ""),
            fix=f"take torch {_or(releases)}, or another version of {wheel.name}",
        )
    )


def _says_torch(context: Context, wheel: WheelFacts) -> None:
    """R3: a resolver cannot know what the wheel does not say."""
    if any(_NAMED.match(line) for line in wheel.requires_dist):
        return
    built = context.built_for(wheel)
    context.add(
        Finding(
            rule="R3",
            severity=Severity.WARNING,
            package=label(wheel),
            message="its libraries are linked with torch, but its metadata does not ask for it: "
            "a resolver takes any torch" + (f"; by its symbols it was built for torch {_or(built)}" if built else ""),
            fix=f"pin torch to {_or(built)} beside it" if len(built) == 1 else "pin torch beside it",
        )
    )


def _or(minors: Sequence[str]) -> str:
    if len(minors) > 3:
        return f"{minors[0]} to {minors[-1]}"
    return " or ".join(minors)


def _string_abi(context: Context, wheel: WheelFacts, library: Library, exports_new: bool) -> bool:
    """L8; returns whether it was told."""
    if library.old_strings and exports_new:
        context.add(
            Finding(
                rule="L8",
                severity=context.severity(context.policy(wheel, library)),
                package=label(wheel),
                library=library.path,
                message="compiled with the C++ string ABI from before C++11; this torch has the new one",
                cause="abi-pre-cxx11",
                fix="take a build for this torch, or compile it with _GLIBCXX_USE_CXX11_ABI=1",
                suggestions=suggestions(context, wheel),
            )
        )
        return True
    return False


def _built_minor(context: Context, wheel: WheelFacts, libraries: Sequence[Library]) -> None:
    """L8 and L9 for libraries with torch's unstable C++ ABI."""
    torch = context.torch
    if torch is None or not libraries:
        return
    here = minor(torch.version)
    exports_new = any(item.exports_cxx11 for item in torch.libraries if item.name == "libc10.so")
    for library in libraries:
        _string_abi(context, wheel, library, exports_new)
    built = context.built_for(wheel)
    if not built:
        if not context.knowledge.history.knows(torch_release(torch.version)):
            context.add(
                Finding(
                    rule="L9",
                    severity=Severity.WARNING,
                    package=label(wheel),
                    library=libraries[0].path,
                    message=f"uses torch's unstable C++ ABI; which torch it was built for is not known, "
                    f"so that it fits torch {torch.version} rests on its symbols alone",
                )
            )
        return
    severities = [context.severity(context.policy(wheel, library)) for library in libraries]
    worst = Severity.ERROR if Severity.ERROR in severities else severities[0]
    told = {item.library for item in context.findings if item.rule in {"L3", "L8"} and item.package == label(wheel)}
    if here not in built:
        for library, severity in zip(libraries, severities, strict=True):
            if severity is Severity.ERROR:
                context.broken.setdefault(library.path, f"built for torch {_or(built)}, not {here}")
        libraries = [library for library in libraries if library.path not in told]
        if not libraries:
            return
        context.add(
            Finding(
                rule="L9",
                severity=worst,
                package=label(wheel),
                library=libraries[0].path if len(libraries) == 1 else "",
                message=f"built for torch {_or(built)}, with torch's unstable C++ ABI in {_names(libraries)}; "
                f"on torch {torch.version} even what finds all its symbols may abort while loading (silent ABI break)",
                cause="audit-abi-risk",
                suggestions=suggestions(context, wheel),
                fix=f"take torch {_or(built)}, or a build of {wheel.name} for torch {here}",
            )
        )
    elif len(built) > 1:
        context.add(
            Finding(
                rule="L9",
                severity=Severity.INFO,
                package=label(wheel),
                message=f"its symbols fit torch {_or(built)} alike; which of them it was compiled against is not known",
            )
        )


def _names(libraries: Sequence[Library]) -> str:
    names = [library.name for library in libraries]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _stable(context: Context, wheel: WheelFacts, library: Library) -> None:
    """L9 for libraries that keep to the stable ABI: the newest function they use decides."""
    torch = context.torch
    if torch is None:
        return
    history = context.knowledge.history
    newest = library.once(("newest shim", id(history)), history, lambda: _newest_shim(library, history))
    if newest is None:
        return
    version, name = newest
    if parsed(minor(version)) > parsed(minor(torch.version)):
        context.broken.setdefault(library.path, f"needs {name} of torch {minor(version)}")
        context.add(
            Finding(
                rule="L9",
                severity=context.severity(context.policy(wheel, library)),
                package=label(wheel),
                library=library.path,
                message=f"uses torch's stable ABI, and of it {name}, which torch has from {minor(version)} on; "
                f"this is {torch.version}",
                symbols=(name,),
                symbols_count=1,
                fix=f"torch {minor(version)} or newer",
                suggestions=suggestions(context, wheel),
            )
        )


def _newest_shim(library: Library, history: TorchHistory) -> tuple[str, str] | None:
    """Return the first release that has all functions of the stable ABI that a library uses, and one it is due to."""
    needed = [(having[0], name) for name in library.shims if (having := history.having(name))]
    return max(needed, key=lambda item: parsed(item[0]), default=None)


def missing_torch_symbols(
    context: Context, wheel: WheelFacts, library: Library, names: Sequence[str], severity: Severity
) -> None:
    """L3 for symbols of torch: says who has them, and for which torch the wheel was built."""
    torch = context.torch
    if torch is None:
        return
    history = context.knowledge.history
    first = min(names)
    having = history.having(first)
    where = f"; torch {_span(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""
    built = context.built_for(wheel)
    head = f"built for torch {_or(built)}; " if built else ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    context.add(
        Finding(
            rule="L3",
            severity=severity,
            package=label(wheel),
            library=library.path,
            message=f"{head}torch {torch.version} lacks {context.demangle(first)}{more}{where}",
            symbols=tuple(sorted(names)[:SHOWN]),
            symbols_count=len(names),
            cause=_cause(tuple(names)),
            suggestions=suggestions(context, wheel),
            fix=f"take torch {_or(built)}, or a build of {wheel.name} for torch {minor(torch.version)}"
            if built
            else f"take a build of {wheel.name} for torch {minor(torch.version)}",
        )
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


def suggestions(context: Context, wheel: WheelFacts) -> tuple[Suggestion, ...]:
    """Return which torch this wheel would fit, and which known version of it this torch would."""
    torch = context.torch
    if torch is None:
        return ()
    found: list[Suggestion] = []
    built = context.built_for(wheel)
    here = parsed(minor(torch.version))
    fitting = [release for release in context.knowledge.history.releases if minor(release) in built]
    if fitting and minor(torch.version) not in built:
        close = sorted(fitting, key=lambda item: (distance(parsed(minor(item)), here), -parsed(item).micro))
        found.append(Suggestion(package="torch", versions=tuple(close[:3]), why=f"what {wheel.name} was built for"))
    others = [
        facts
        for facts in context.known.get(wheel.name, ())
        if facts.version != wheel.version and minor(torch.version) in context.built_for(facts) and facts.libraries
    ]
    if others:
        near = nearest((facts.version for facts in others), wheel.version)
        found.append(Suggestion(package=wheel.name, versions=near, why=f"built for torch {here}"))
    return tuple(found)

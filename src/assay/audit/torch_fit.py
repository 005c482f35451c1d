"""Which torch a wheel was built for, and what to take where that is another one than the set has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from assay.audit.context import Context, minor
from assay.audit.findings import Suggestion
from assay.foundation.versions import distance, nearest, parsed
from assay.wheels.facts import Library, WheelFacts, torch_names
from assay.wheels.symbols import SymbolKind

__all__ = ["built_for", "either", "linked", "suggestions"]

_TORCH_PIN: Final = re.compile(r"torch\s*\(?\s*===?\s*([\w.]+?)(?:\+\w[\w.]*)?\s*\)?\s*(?:;|$)")


def linked(context: Context, wheel: WheelFacts) -> tuple[Library, ...]:
    """Return the libraries of a wheel that were read, are bound to torch and are not for others."""
    if wheel.is_torch:
        return ()
    others = context.others(wheel)
    return tuple(
        item
        for item in wheel.libraries
        if item.scope != "listed" and item.torch_kind is not SymbolKind.NONE and item.path not in others
    )


def built_for(context: Context, wheel: WheelFacts) -> tuple[str, ...]:
    """Return the torch minors a wheel with torch's unstable ABI can have been compiled against, oldest first.

    Known by a pin in its metadata, else by which releases export all it asks for; empty if nothing is known.
    """
    for line in wheel.requires_dist:
        match = _TORCH_PIN.match(line)
        if match:
            return (minor(match.group(1)),)
    others, names = context.others(wheel), wheel.torch_names
    if others:
        names = torch_names(library for library in wheel.libraries if library.path not in others)
    releases = context.knowledge.history.having_all(names) if names else ()
    return tuple(dict.fromkeys(minor(release) for release in releases))


def either(minors: Sequence[str]) -> str:
    """Return releases in words: `2.8 or 2.9`, `2.5 to 2.9`."""
    if len(minors) > 3:
        return f"{minors[0]} to {minors[-1]}"
    return " or ".join(minors)


def suggestions(context: Context, wheel: WheelFacts) -> tuple[Suggestion, ...]:
    """Return which torch this wheel would fit, and which known version of it this torch would."""
    torch = context.torch
    if torch is None:
        return ()
    found: list[Suggestion] = []
    built = built_for(context, wheel)
    here = parsed(minor(torch.version))
    fitting = [release for release in context.knowledge.history.releases if minor(release) in built]
    if fitting and minor(torch.version) not in built:
        close = sorted(fitting, key=lambda item: (distance(parsed(minor(item)), here), -parsed(item).micro))
        found.append(Suggestion(package="torch", versions=tuple(close[:3]), why=f"what {wheel.name} was built for"))
    others = [
        facts
        for facts in context.known.get(wheel.name, ())
        if facts.version != wheel.version and minor(torch.version) in built_for(context, facts) and facts.libraries
    ]
    if others:
        near = nearest((facts.version for facts in others), wheel.version)
        found.append(Suggestion(package=wheel.name, versions=near, why=f"built for torch {here}"))
    return tuple(found)

"""Rule L3 for libraries of which one has to load, whichever it is: torchcodec has one for each FFmpeg."""

from __future__ import annotations

import re
from collections import defaultdict

from assay.audit.context import Context, Root, label
from assay.audit.findings import Finding
from assay.foundation.outcome import Severity

__all__ = ["alternative_rules"]


def alternative_rules(context: Context) -> None:
    """Check packages that bring the same library several times and load the one that works; after `link_rules`."""
    families: dict[tuple[int, str], list[Root]] = defaultdict(list)
    for root in context.roots:
        if root.policy is not None and root.policy.one_of:
            families[id(root.wheel), re.sub(r"\d+", "#", root.library.path)].append(root)
    for (_, name), roots in families.items():
        whys = [context.failing.get(root.library.path) for root in roots]
        if len(roots) < 2 or not all(whys):
            continue
        for root, why in zip(roots, whys, strict=True):
            context.broken.setdefault(root.library.path, why or "")
        first = roots[0]
        context.add(
            Finding(
                rule="L3",
                severity=Severity.ERROR,
                package=label(first.wheel),
                library=first.library.path,
                message=f"none of the {len(roots)} libraries {name} loads, and one has to: {whys[0]}",
                cause="abi-undefined-symbol",
                fix=f"take a build of {first.wheel.name} for this torch and CUDA",
            )
        )

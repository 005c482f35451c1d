"""Which libraries are needed and not found, of each wheel: what rule L1 reports and rule L3 builds on."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay.audit.context import Context, Root
from assay.audit.linker import Missing, Where
from assay.audit.requirements import requirements_of
from assay.foundation.outcome import Severity
from assay.wheels.facts import WheelFacts

__all__ = ["MissingName", "failing", "may_come_with", "missing_names", "soname_cause"]

_CUDA_LIBRARY: Final = re.compile(
    r"lib(?:cu(?:blas|da|dnn|fft|file|pti|rand|solver|sparse|tensor)|nccl|nvJitLink|nvshmem|nvrtc|nvToolsExt)"
)
_OF_THE_SYSTEM: Final = frozenset({"lib-missing", "abi-libnuma-missing"})
"""Causes of libraries that the system brings, and of which a base that nobody knows may have any."""


@dataclass(frozen=True, kw_only=True)
class MissingName:
    """A name that libraries of one wheel need and do not find."""

    name: str
    items: tuple[Missing, ...]
    paths: tuple[str, ...]
    """Of the libraries that are loaded by themselves and need it."""
    severity: Severity

    @property
    def cause(self) -> str:
        """The known failure that it leads to."""
        return soname_cause(self.name)

    @property
    def is_plain(self) -> bool:
        """Whether it is one of the system's, and nowhere."""
        return self.items[0].where is Where.MISSING and self.cause == "lib-missing"


def soname_cause(name: str) -> str:
    """Return the known failure that a missing library leads to."""
    if name == "libnuma.so.1":
        return "abi-libnuma-missing"
    if name.startswith("libcudart.so."):
        return "abi-cudart12"
    if name.startswith("libnvrtc.so."):
        return "abi-nvrtc12"
    if _torch_family(name):
        return "lib-torch"
    return "lib-cuda-generic" if _CUDA_LIBRARY.match(name) else "lib-missing"


def missing_names(context: Context) -> tuple[tuple[WheelFacts, tuple[MissingName, ...]], ...]:
    """Return each wheel with libraries, and the names that these need and do not find, in order."""
    return tuple((wheel, _names_of(context, roots)) for wheel, roots in context.roots_of)


def failing(context: Context) -> dict[str, str]:
    """Return path -> why of libraries that do not load, also of those that a package can do without."""
    return {
        path: f"{one.name} is missing"
        for _, names in context.shared(missing_names)
        for one in names
        if one.severity is not Severity.INFO and one.cause not in _OF_THE_SYSTEM
        for path in one.paths
    }


def _names_of(context: Context, own: Sequence[Root]) -> tuple[MissingName, ...]:
    # What matters most is named first.
    roots = sorted(own, key=lambda root: root.policy is None or root.policy.use != "required")
    lacking = [(root, items) for root in roots if (items := _own_missing(context, root))]
    if not lacking:
        return ()
    loading = len(roots) > sum(_is_hard(context, items) for _, items in lacking)
    wanted: dict[str, list[tuple[Root, Missing]]] = defaultdict(list)
    for root, items in lacking:
        for item in items:
            wanted[item.soname].append((root, item))
    return tuple(
        MissingName(
            name=name,
            items=tuple(item for _, item in pairs),
            paths=tuple(root.library.path for root, _ in pairs),
            severity=_severity(context, name, pairs, loading=loading),
        )
        for name, pairs in sorted(wanted.items())
    )


def _own_missing(context: Context, root: Root) -> list[Missing]:
    """Return what a library lacks; what torch's own libraries lack is reported of torch, once."""
    if not root.closure.missing:
        return []
    torch = {(item.asked_by, item.soname) for item in context.linker.torch_missing}
    return [item for item in root.closure.missing if (item.asked_by, item.soname) not in torch]


def _is_hard(context: Context, items: Sequence[Missing]) -> bool:
    return any(
        item.where is Where.MISSING and not (_torch_family(item.soname) and context.torch is None) for item in items
    )


def _torch_family(name: str) -> bool:
    return name.startswith(("libtorch", "libc10"))


def may_come_with(context: Context, name: str, wheel: WheelFacts) -> tuple[str, ...]:
    """Return what a wheel requires and nobody named: a library that is known of no package may come with it."""
    installation, sonames = context.installation, context.knowledge.sonames
    if installation.whole or name in sonames.optional_base or any(name in one for one in sonames.packages.values()):
        return ()
    wanted = (one.name for one in requirements_of(wheel, installation.python, installation.machine))
    known = {brought for brings in context.knowledge.brings.values() for brought in brings.split(" or ")}
    return tuple(other for other in wanted if other not in installation.names and other not in known)


def _severity(context: Context, name: str, pairs: Sequence[tuple[Root, Missing]], *, loading: bool) -> Severity:
    """Return how much a missing library weighs.

    A library of CUDA or torch, or one that the package is known to need, is an error. One of the system's is an
    error where nothing of the package would load; else it is likely that of an optional part.
    """
    if _torch_family(name) and context.torch is None and not context.installation.complete:
        return Severity.INFO
    if all(item.where is Where.UNREACHABLE for _, item in pairs):
        # The package may load it by itself first: not certain, so not an error.
        own = all(f"{root.wheel.name} {root.wheel.version}" in item.holders for root, item in pairs)
        return Severity.INFO if own else Severity.WARNING
    grave = soname_cause(name) not in _OF_THE_SYSTEM
    if not grave and not context.base.known:
        return Severity.WARNING
    worst = Severity.INFO
    for root, _ in pairs:
        use = root.policy.use if root.policy else None
        if use == "required" or (use is None and (grave or not loading)):
            certain = grave or not may_come_with(context, name, root.wheel)
            return Severity.ERROR if certain else Severity.WARNING
        if use is None or (use == "optional" and grave and name in context.knowledge.brings):
            worst = Severity.WARNING
    return worst

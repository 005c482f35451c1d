"""Which GPU runs which code. Rules: CUDA C++ Programming Guide, "Compute Capabilities" and "Feature Set Compiler
Targets"; compatibility of cubins is within a major version, of Tegra parts with themselves alone (vLLM PR 20219)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from assay.foundation.versions import parsed
from assay.wheels.facts import Library
from assay.wheels.gpu_code import CodeGroup, GpuCode, target_key

__all__ = ["ArchSpread", "Run", "capability_of", "group_runs", "jit", "runs", "spelled", "spelled_targets", "spread"]

_TEGRA: Final = frozenset({53, 62, 72, 87, 101, 110})
_FAMILY: Final[dict[int, frozenset[int]]] = {
    100: frozenset({100, 103}),
    103: frozenset({103}),
    101: frozenset({101}),
    110: frozenset({110}),
    120: frozenset({120, 121}),
    121: frozenset({121}),
}
"""Targets with suffix f -> capabilities that run them (Programming Guide, table of family-specific targets)."""
_TARGET: Final = re.compile(r"(\d+)([af]?)")


class Run(StrEnum):
    """How a GPU runs some code."""

    SASS = "sass"
    PTX = "ptx"
    NONE = "none"


_ORDER: Final = {Run.NONE: 0, Run.PTX: 1, Run.SASS: 2}


def capability_of(text: str) -> int:
    """Return 120 for `12.0`, `sm_120` or `120`."""
    digits = text.removeprefix("sm_")
    if "." in digits:
        major, _, minor = digits.partition(".")
        return int(major) * 10 + int(minor)
    return int(digits)


@lru_cache(maxsize=4096)
def runs(target: str, capability: int) -> bool:
    """Tell whether machine code for `90a`, `120f`, ... runs on a GPU of this capability (120 for 12.0)."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return False
    number, suffix = int(match.group(1)), match.group(2)
    if suffix == "a":
        return number == capability
    if suffix == "f":
        return capability in _FAMILY.get(number, frozenset({number}))
    if number in _TEGRA or capability in _TEGRA:
        return number == capability
    return number // 10 == capability // 10 and number <= capability


@lru_cache(maxsize=4096)
def jit(target: str, capability: int) -> bool:
    """Tell whether PTX for `80`, `120a`, ... can be compiled for a GPU of this capability."""
    match = _TARGET.fullmatch(target.partition("@")[0])
    if match is None:
        return False
    number, suffix = int(match.group(1)), match.group(2)
    if suffix == "a":
        return number == capability
    if suffix == "f":
        return capability in _FAMILY.get(number, frozenset({number}))
    return number <= capability


@lru_cache(maxsize=1 << 14)
def _any_runs(targets: tuple[str, ...], capability: int) -> bool:
    return any(runs(target, capability) for target in targets)


@lru_cache(maxsize=1 << 14)
def _compiled(ptx: tuple[str, ...], capability: int) -> tuple[str, ...]:
    """Return the ISA of each PTX that can be compiled for a GPU of this capability."""
    return tuple(item.partition("@")[2] for item in ptx if jit(item, capability))


def group_runs(
    group: CodeGroup, capability: int, isa_cuda: Mapping[str, str], driver_cuda: str | None = None
) -> tuple[Run, str | None]:
    """Return how a GPU runs the containers of a group, and for PTX the CUDA version its driver must support.

    Args:
        isa_cuda: PTX ISA -> the first CUDA version whose driver compiles it.
        driver_cuda: newest CUDA version of the driver, if known; PTX that is newer does not count then.
    """
    if _any_runs(group.sass, capability):
        return Run.SASS, None
    needs = [parsed(isa_cuda.get(isa, "0")) for isa in _compiled(group.ptx, capability)]
    if driver_cuda is not None:
        needs = [cuda for cuda in needs if cuda <= parsed(driver_cuda)]
    if not needs:
        return Run.NONE, None
    least = min(needs)
    return Run.PTX, None if least == parsed("0") else str(least)


@dataclass(frozen=True, kw_only=True)
class ArchSpread:
    """How a GPU runs the containers that hold some kernels."""

    best: Run
    needs_cuda: str | None
    """For PTX: the CUDA version the driver must support."""
    counts: Mapping[Run, int]


def spread(
    library: Library, kernels: str, capability: int, isa_cuda: Mapping[str, str], driver_cuda: str | None = None
) -> ArchSpread | None:
    """Return how a GPU runs the kernels of a library that an expression finds; None: it has none of them.

    Args: see `group_runs`.
    """
    best: tuple[Run, str | None] | None = None
    counts = dict.fromkeys(Run, 0)
    for group in library.groups_with(kernels):
        found = group_runs(group, capability, isa_cuda, driver_cuda)
        counts[found[0]] += group.containers
        if best is None or _ORDER[found[0]] > _ORDER[best[0]]:
            best = found
    return None if best is None else ArchSpread(best=best[0], needs_cuda=best[1], counts=counts)


def spelled(code: GpuCode) -> tuple[str, ...]:
    """Return the targets of a library as people write them."""
    return spelled_targets((*code.sass, *sorted(code.ptx, key=target_key)))


def spelled_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Return targets (`90a`, and `80@8.7` for PTX) as people write them."""
    parts = [target.partition("@") for target in targets]
    return tuple(f"compute_{target} (PTX {isa})" if isa else f"sm_{target}" for target, _, isa in parts)

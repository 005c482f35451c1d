"""The names of serving engines: those of this room, and those that other distributions bring. Loads no engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "OWN", "engine_names", "others"]

GROUP: Final = "assay.engines"
"""The entry points under which other distributions bring engines: `name = "module:ENGINE"`."""
OWN: Final = {"sglang": "assay.engines.sglang", "vllm": "assay.engines.vllm"}


@cache
def others() -> Mapping[str, EntryPoint]:
    """Return the engines that other distributions bring, by name."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - it reads every distribution

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in OWN}


def engine_names() -> tuple[str, ...]:
    """Return the name of every engine, assay's own first."""
    return (*OWN, *sorted(others()))

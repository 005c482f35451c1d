"""Which libraries requirements would bring, were they all installed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from assay.audit.knowledge import Knowledge
from assay.audit.requirements import requirements_of
from assay.foundation.versions import fits
from assay.wheels.facts import WheelFacts

__all__ = ["promised"]


def promised(
    wheels: Iterable[WheelFacts], knowledge: Knowledge, *, python: str = "3.12", machine: str = "x86_64"
) -> frozenset[str]:
    """Return the sonames that requirements of these wheels would bring, were they all installed.

    For sets that are given in part: torch alone asks for its CUDA libraries, which need not be named as well.
    """
    asked = {one.name: one.specifier for wheel in wheels for one in requirements_of(wheel, python, machine) if one.name}
    toolkit = asked.get("cuda-toolkit")
    of_twelve = toolkit is not None and fits("12.9.99", toolkit)
    found: set[str] = set()
    for soname, brings in knowledge.brings.items():
        for name in brings.split(" or "):
            of_toolkit = toolkit is not None and name.startswith("nvidia-") and name.endswith("-cu12") is of_twelve
            if name in asked or of_toolkit:
                found.add(soname)
    return frozenset(found)

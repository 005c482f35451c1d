"""Guards: where a package decides by the card whether a kernel is used, against the code its libraries hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from assay.audit.gpu import Run, group_runs, runs
from assay.foundation.strict import Value
from assay.foundation.text import Date, Specifier, VersionText
from assay.foundation.versions import fits
from assay.wheels.facts import WheelFacts
from assay.wheels.gpu_code import CodeGroup

__all__ = ["Guard", "GuardsFile", "Held", "held"]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


class Guard(Value):
    """One guard, read in a package's own code."""

    package: str
    versions: Specifier
    what: str
    """What it is about, in a few words."""
    file: str
    """In the wheel."""
    line: Annotated[int, Field(gt=0)]
    """In `release`."""
    release: VersionText
    """The newest release that was looked at."""
    quote: str
    """What stands there."""
    admits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Capabilities that it lets through, as globs: `12.*`; all others it refuses."""
    targets: tuple[str, ...] = ()
    """Capabilities that the entry is about, as globs; empty: all."""
    of: str = ""
    """The distribution that has the library, where it is another one."""
    library: str
    """Glob over paths."""
    kernels: Annotated[str, AfterValidator(_expression)] = ""
    """Regular expression over mangled names; empty: the whole library."""
    specific: tuple[str, ...] = ()
    """Capabilities whose machine code counts only with suffix `a` or `f`."""
    date: Date

    def is_of(self, version: str) -> bool:
        """Whether a release of the package has it."""
        return fits(version, self.versions)

    def admitted(self, capability: str) -> bool:
        """Whether it lets a card of a capability (`12.0`) through."""
        return _on(capability, self.admits)

    def is_about(self, capability: str) -> bool:
        """Whether it says anything of a card of a capability."""
        return not self.targets or _on(capability, self.targets)


class GuardsFile(Value):
    """knowledge/guards.yaml."""

    version: Literal["1"]
    guards: tuple[Guard, ...]


class Held(Value):
    """What a wheel holds of a guard's kernels for one card."""

    how: Literal["sass", "ptx", "none", "absent"]
    """`absent`: the wheel does not have the library at all."""
    library: str
    """Of several the one with the best code."""
    targets: tuple[str, ...] = ()
    """What the kernels' containers are made for: `90a`, `80@9.0`."""


_RANK: Final = {Run.NONE: 0, Run.PTX: 1, Run.SASS: 2}


def _on(capability: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(capability, glob) for glob in globs)


def held(guard: Guard, wheel: WheelFacts, capability: int, isa: Mapping[str, str], driver: str | None) -> Held | None:
    """Return what a wheel holds of a guard's kernels for a card; None where that is not known.

    Args:
        guard: with library and kernels.
        wheel: the one with the library.
        capability: 120 for 12.0.
        isa: PTX ISA -> first CUDA version whose driver compiles it.
        driver: newest CUDA version of the driver, if known.
    """
    there = wheel.matching(guard.library)
    if not there:
        return Held(how="absent", library=guard.library) if wheel.libraries else None
    if any(item.gpu is None for item in there):
        return None
    found = [
        (_runs(guard, group, capability, isa, driver), library, group)
        for library in there
        for group in library.groups_with(guard.kernels)
    ]
    if not found:
        return None
    how, library, _ = max(found, key=lambda item: _RANK[item[0]])
    targets = dict.fromkeys(target for _, _, group in found for target in (*group.sass, *group.ptx))
    return Held(how=how.value, library=library.path, targets=tuple(targets))


def _runs(guard: Guard, group: CodeGroup, capability: int, isa: Mapping[str, str], driver: str | None) -> Run:
    how, _ = group_runs(group, capability, isa, driver)
    if _on(f"{capability // 10}.{capability % 10}", guard.specific):
        whole = any(target[-1:] in {"a", "f"} and runs(target, capability) for target in group.sass)
        return Run.SASS if whole else Run.NONE
    return how

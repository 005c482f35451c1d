"""GPU code of a library: which containers hold code for which targets, and whose kernels."""

from __future__ import annotations

from functools import cached_property, lru_cache

from pydantic import Field

from assay.foundation.derived import Deriving

__all__ = ["CodeGroup", "GpuCode", "target_key"]


class CodeGroup(Deriving):
    """The containers of one library that hold code for the same targets."""

    sass: tuple[str, ...] = ()
    """Targets of machine code: `90a`, `120f`."""
    ptx: tuple[str, ...] = ()
    """Targets of PTX with its ISA: `80@8.7`."""
    containers: int
    kernels: tuple[str, ...] = ()
    """Mangled names of kernels in them, as far as they could be named; in facts made brief, the first `NAMED`."""
    size: int = Field(default=0, ge=0)
    """In facts made brief: bytes of `text`."""
    text: bytes = Field(default=b"", exclude=True, repr=False)
    """Names of all kernels, one a line, in small letters; in facts made brief they stand behind the JSON."""

    @cached_property
    def searched(self) -> bytes | None:
        """`text`, made of `kernels` where it is not there; None where small letters do not stand for all others."""
        if self.text or not self.kernels:
            return self.text
        names = "\n".join(self.kernels)
        return names.lower().encode() if names.isascii() else None


class GpuCode(Deriving):
    """GPU code of one library."""

    groups: tuple[CodeGroup, ...]
    damage: tuple[str, ...] = ()

    @property
    def containers(self) -> int:
        return sum(group.containers for group in self.groups)

    @cached_property
    def sass(self) -> tuple[str, ...]:
        """All targets of machine code, in order."""
        return tuple(sorted({target for group in self.groups for target in group.sass}, key=target_key))

    @cached_property
    def ptx(self) -> tuple[str, ...]:
        """All targets of PTX, in order."""
        return tuple(sorted({target for group in self.groups for target in group.ptx}, key=target_key))


@lru_cache(maxsize=4096)
def target_key(target: str) -> tuple[int, str]:
    """Sort key of `90a` or `80@8.7`."""
    digits = "".join(c for c in target.partition("@")[0] if c.isdigit())
    return int(digits or 0), target

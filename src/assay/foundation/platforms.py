"""Platforms of images, such as `linux/arm64`, and what wheels, ELF, Debian and OCI call them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, Self

from assay.foundation.nearest import suggestion

__all__ = ["Machine", "Platform"]

Machine = Literal["x86_64", "aarch64"]
"""A CPU architecture as wheels, markers and `uname -m` name it."""


class Platform(StrEnum):
    """What an image runs on: an operating system and a CPU architecture."""

    machine: Machine
    """The CPU architecture as wheels, markers and `uname -m` name it, `aarch64`."""
    elf_machine: int
    """`e_machine` of its ELF files (elf.h, EM_*)."""
    loader: str
    """Where its psABI has the dynamic loader, relative to the root."""
    also: tuple[str, ...]
    """Other names, in lower case."""

    AMD64 = "linux/amd64", "x86_64", 62, "lib64/ld-linux-x86-64.so.2", ("x86-64", "x64")
    ARM64 = "linux/arm64", "aarch64", 183, "lib/ld-linux-aarch64.so.1", ("linux/arm64/v8",)

    def __new__(cls, value: str, machine: Machine, elf_machine: int, loader: str, also: tuple[str, ...]) -> Self:
        one = str.__new__(cls, value)
        one._value_ = value
        one.machine, one.elf_machine, one.loader, one.also = machine, elf_machine, loader, also
        return one

    @property
    def architecture(self) -> str:
        """The CPU architecture as OCI and Debian name it, `arm64`; also the axis value's id."""
        return self.value.removeprefix("linux/")

    @classmethod
    def of(cls, name: str) -> Platform:
        """Return the platform by any of its names: `linux/arm64`, `arm64`, `aarch64`.

        Raises:
            ValueError: there is no such platform; the message names the nearest.
        """
        found = cls.known(name)
        if found is None:
            near = suggestion(name.lower(), _NAMES)
            raise ValueError(f"{name!r} is not a platform that assay builds for: {' or '.join(cls)}{near}")
        return found

    @classmethod
    def known(cls, name: str) -> Platform | None:
        """Return the platform by any of its names, or None where there is no such platform."""
        return _NAMES.get(name.strip().lower())


_NAMES: Final = {
    name: one
    for one in Platform
    for name in (one.value, one.architecture, one.machine, f"linux/{one.machine}", *one.also)
}

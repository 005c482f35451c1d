"""Platforms of images: `linux/amd64` and `linux/arm64`, and what wheels, Debian and OCI call them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from assay.foundation.nearest import suggestion

__all__ = ["Machine", "Platform"]

Machine = Literal["x86_64", "aarch64"]
"""A CPU architecture as wheels, markers and `uname -m` name it."""


class Platform(StrEnum):
    """What an image runs on: an operating system and a CPU architecture."""

    AMD64 = "linux/amd64"
    ARM64 = "linux/arm64"

    @property
    def architecture(self) -> str:
        """The CPU architecture as OCI and Debian name it, `arm64`; also the axis value's id."""
        return self.value.removeprefix("linux/")

    @property
    def machine(self) -> Machine:
        """The CPU architecture as wheels, markers and `uname -m` name it, `aarch64`."""
        return "x86_64" if self is Platform.AMD64 else "aarch64"

    @classmethod
    def of(cls, name: str) -> Platform:
        """Return the platform by any of its names: `linux/arm64`, `arm64`, `aarch64`.

        Raises:
            ValueError: there is no such platform; the message names the nearest.
        """
        found = _NAMES.get(name.strip().lower())
        if found is None:
            near = suggestion(name.lower(), _NAMES)
            raise ValueError(f"{name!r} is no platform that assay builds for: linux/amd64 or linux/arm64{near}")
        return found

    @classmethod
    def known(cls, name: str) -> Platform | None:
        """Return the platform by any of its names, or None where there is no such platform."""
        return _NAMES.get(name.strip().lower())


_NAMES: Final = {
    **dict.fromkeys(("linux/amd64", "amd64", "x86_64", "x86-64", "x64", "linux/x86_64"), Platform.AMD64),
    **dict.fromkeys(("linux/arm64", "arm64", "aarch64", "linux/aarch64", "linux/arm64/v8"), Platform.ARM64),
}

"""The formats that a deployment is written in."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["FORMATS", "Format"]

Format = Literal["docker", "compose", "kubernetes", "systemd"]
FORMATS: Final[tuple[Format, ...]] = ("docker", "compose", "kubernetes", "systemd")

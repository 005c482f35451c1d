"""Profiles: how a server is started, as somebody wrote it down, with the figures they claim for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from assay.engines.knowledge import FlagName, Flags
from assay.engines.table import EngineName
from assay.foundation.strict import Value
from assay.foundation.text import Date, EnvName, PlainText, VersionText

__all__ = ["ClaimedFigures", "Profile"]


class ClaimedFigures(Value):
    """Figures that a document states for a profile; never mixed up with a record."""

    source: PlainText
    date: Date
    device: PlainText = ""
    model: PlainText = ""
    stable: bool | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    requests_per_second: float | None = None
    gpu_memory_gb: float | None = None
    prefix_first_ms: float | None = None
    """The first of many questions behind one system prompt."""
    prefix_rest_ms: float | None = None
    """The mean of the others."""
    users: int = 1
    note: PlainText = ""

    @property
    def figures(self) -> str:
        """Its figures in one line; empty if it has none."""
        told = {
            "latency {:g} ms": self.latency_ms,
            "first token {:g} ms": self.ttft_ms,
            "{:g} tok/s": self.tokens_per_second,
            "{:g} req/s": self.requests_per_second,
            "{:g} GB of GPU memory": self.gpu_memory_gb,
            "first of many questions {:g} ms": self.prefix_first_ms,
            "the others {:g} ms": self.prefix_rest_ms,
        }
        parts = [text.format(value) for text, value in told.items() if value is not None]
        if parts and self.users > 1:
            parts.insert(0, f"{self.users} users")
        return ", ".join(parts)


class Profile(Value):
    """images/<image>/profiles/<name>.yaml."""

    description: PlainText
    engine: EngineName
    written_for: VersionText
    """The engine's release whose flags these are; other releases get their successors."""
    extends: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")] | None = None
    """A profile beside this one whose settings come first."""
    model: PlainText | None = None
    quantization: PlainText | None = None
    flags: Flags = {}
    drop: tuple[FlagName, ...] = ()
    """Flags of the profile it extends that do not hold here."""
    env: dict[EnvName, PlainText] = {}
    shm_size: Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmg]$")] | None = None
    claims: tuple[ClaimedFigures, ...] = ()

    @field_validator("flags", mode="before")
    @classmethod
    def _no_empty(cls, value: object) -> object:
        if isinstance(value, dict):
            for name, content in value.items():
                if content is None or content in ("", "false"):
                    raise ValueError(f"{name}: write `true` for a switch, or leave the flag out")
        return value

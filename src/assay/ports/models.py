"""Where a model's configuration is found: a folder, a cache, the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["FoundModel", "ModelFinder"]


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model's configuration, and the sizes of its files."""

    config: Mapping[str, Any]
    weight_bytes: int | None
    """The size of its weights; None if the files are not there."""
    source: str


class ModelFinder(Protocol):
    """Finds models by name or folder."""

    def find(self, model: str) -> FoundModel | None:
        """Return a model's configuration, or None if it is nowhere.

        Raises:
            UsageError: a folder that is not a model.
        """
        ...

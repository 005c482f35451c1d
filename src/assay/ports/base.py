"""Base images that are made here, of a distribution's packages, where no registry can be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from assay.matrix.model import BootstrapBase

__all__ = ["BaseBuilder", "BaseImage"]


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """A base image that the engine holds."""

    reference: str
    digest: str
    """Of its manifest; the same for the same package versions."""
    python: str
    """Version of `/usr/bin/python3`."""
    glibc: str
    symbols: Mapping[str, str]
    """Newest version of each symbol family: GLIBC, GLIBCXX, CXXABI."""
    packages: Mapping[str, str]
    """Distribution package -> version, all of them."""
    built: bool
    """It was made by this call, not found."""


class BaseBuilder(Protocol):
    """Makes bases."""

    def ensure(
        self, base: BootstrapBase, reference: str, *, progress: Callable[[str], None] | None = None
    ) -> BaseImage:
        """Return the base image of that name, making it first if the engine does not hold it.

        Args:
            base: the recipe.
            reference: `repository:tag`, chosen from the recipe's content, so that a changed recipe is another image.
            progress: is given a line for each step.

        Raises:
            ToolError: a tool is missing or failed, root is needed but not available, or what came out has another
                Python or glibc than the recipe says.
            EngineError: the engine could not load it.
        """
        ...

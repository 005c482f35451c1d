"""Resolving requirements to exact files, and the ways in which that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from assay.matrix.lock import LockedWheel
from assay.matrix.model import Index

__all__ = ["Failure", "ResolveRequest", "Resolved", "Resolver", "Unresolved"]


@dataclass(frozen=True, kw_only=True)
class ResolveRequest:
    """What to resolve, and for which interpreter."""

    requirements: Sequence[str]
    constraints: Sequence[str] = ()
    """Limit versions without asking for the packages."""
    forced: Sequence[str] = ()
    """Win over what packages ask for."""
    without: Sequence[str] = ()
    """Distributions that are compiled from source and stay out of the lock."""
    python: str
    platform: str
    """`x86_64-manylinux_2_36`."""
    indexes: Mapping[str, Index] = field(default_factory=dict)
    """Asked before the default index, in this order."""
    links: Sequence[str] = ()
    """Folders of wheels, looked into beside the indexes."""
    as_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The exact files."""

    wheels: tuple[LockedWheel, ...]


class Failure(StrEnum):
    """Why there is no lock."""

    CONFLICT = "conflict"
    """The requirements cannot hold together."""
    MISSING = "missing"
    """The index does not have a version or file that is asked for."""
    UNREACHABLE = "unreachable"
    """The index or registry could not be asked."""


@dataclass(frozen=True, kw_only=True)
class Unresolved:
    """There is no lock; `explanation` is the resolver's own."""

    failure: Failure
    explanation: str


class Resolver(Protocol):
    """Finds the exact files for requirements."""

    def resolve(self, request: ResolveRequest) -> Resolved | Unresolved:
        """Resolve the requirements; a failure of the request is a value.

        Raises:
            ToolError: the resolver itself is missing or broke.
        """
        ...

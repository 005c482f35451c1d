"""The steps in which something fails."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Stage"]


class Stage(StrEnum):
    """The step in which a failure is usually met."""

    RESOLVE = "resolve"
    AUDIT = "audit"
    BUILD = "build"
    RUN = "run"
    IMPORT = "import"
    JIT = "jit"
    PROBE = "probe"
    GRAPH = "graph"
    SERVE = "serve"

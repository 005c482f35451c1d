"""Builds the auditor that `assay audit`, `assay build` and `assay facts` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from assay import console
from assay.adapters.demangle import demangle
from assay.adapters.facts_cache import FactsCache
from assay.adapters.knowledge_files import knowledge_folder, load_knowledge
from assay.adapters.simple_index import SimpleIndex, WebWheels
from assay.flows.audit import Auditor
from assay.flows.read_wheel import Progress
from assay.model.matrix import Index

__all__ = ["make_auditor", "progress"]

EVERY_SECONDS = 2.0
WORTH_TELLING = 30 << 20


def make_auditor(
    indexes: Mapping[str, Index],
    *,
    root: Path | None = None,
    facts: Path | None = None,
    quick: bool = False,
    tell: Progress | None = None,
) -> Auditor:
    """Return an auditor over the package indexes of a matrix and the facts kept on this machine.

    Args:
        indexes: those of matrix.yaml; none: the client's default alone.
        root: the project, whose knowledge/ comes before the one assay ships.
        facts: folder of known facts.
        quick: see `Auditor`.
        tell: progress of long reads.
    """
    return Auditor(
        index=SimpleIndex(indexes),
        wheels=WebWheels(),
        facts=FactsCache(facts),
        knowledge=load_knowledge(knowledge_folder(root)),
        quick=quick,
        demangle=demangle,
        progress=tell,
    )


def progress(say: Callable[[str], None] = console.say) -> Progress:
    """Return a listener that tells of long reads, a line every few seconds for each wheel."""
    told: dict[str, float] = {}

    def tell(name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if total < WORTH_TELLING or now - told.setdefault(name, now) < EVERY_SECONDS:
            return
        told[name] = now
        say(f"  reading {name}: {done >> 20} of {total >> 20} MiB")

    return tell

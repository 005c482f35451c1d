"""What the builds of several builders share: which cells go first, and whose layers a builder takes from the registry.

A builder keeps what it made for itself. Through a cache in the registry another one finds the layers of an image that
is pushed, takes them as they are, and both images then have the same layers by digest.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from assay.evidence.reference import Reference
from assay.foundation.digest import sha256_of
from assay.ports.builder import BuildTask

__all__ = ["SharedLayers", "shared_first", "stages_of"]

_MOST_CACHES: Final = 3
"""Caches that one build asks for; each costs requests to the registry."""
_FROM: Final = re.compile(r"^(?=FROM )", re.MULTILINE)


def stages_of(dockerfile: str) -> frozenset[str]:
    """Return a digest for each stage below that of the image: of its text, and of the arguments above all stages."""
    head, *stages = _FROM.split(dockerfile)
    arguments = "\n".join(line for line in head.splitlines() if line.startswith("ARG "))
    return frozenset(sha256_of(f"{arguments}\n{stage}".encode()) for stage in stages[:-1])


def shared_first(dockerfiles: Sequence[str]) -> list[int]:
    """Return the positions in the order in which they are built: first the few that have all shared stages.

    Those are chosen one by one, each for the stages that it adds, weighted by how many others have them; the rest
    follows in its order. Nobody waits for the first ones: the builders would do nothing meanwhile.
    """
    stages = [stages_of(text) for text in dockerfiles]
    others = {stage: number - 1 for stage, number in Counter(chain(*stages)).items() if number > 1}
    first: list[int] = []
    left = list(range(len(stages)))
    while others:
        best = max(left, key=lambda one: (sum(others.get(stage, 0) for stage in stages[one]), -one))
        first.append(best)
        left.remove(best)
        others = {stage: number for stage, number in others.items() if stage not in stages[best]}
    return first + left


@dataclass
class SharedLayers:
    """The caches of one run; called from several threads."""

    _made: dict[str, frozenset[str]] = field(default_factory=dict)
    """Reference of a cache -> the stages of the image whose layers it names."""
    _promised: dict[str, frozenset[str]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def joined(self, task: BuildTask) -> BuildTask:
        """Return a build with the caches that have its layers, and with one of its own if it brings new ones."""
        stages = stages_of(task.dockerfile)
        with self._guard:
            wanted, chosen = set(stages), list[str]()
            while wanted and len(chosen) < _MOST_CACHES:
                best = max(self._made, key=lambda one: len(self._made[one] & wanted), default=None)
                if best is None or not self._made[best] & wanted:
                    break
                chosen.append(best)
                wanted -= self._made[best]
            own = ""
            if stages - frozenset(chain(*self._made.values(), *self._promised.values())):
                name = sha256_of("\n".join(sorted([*stages, task.platform])).encode())[7:23]
                own = Reference.parse(task.tags[0]).repository.tagged(f"cache-{name}")
                self._promised[own] = stages
        return replace(task, cache_from=tuple(chosen), cache_to=own)

    def ended(self, task: BuildTask, *, built: bool) -> None:
        """Note what came of a build that was joined."""
        if not task.cache_to:
            return
        with self._guard:
            stages = self._promised.pop(task.cache_to, frozenset())
            if built:
                self._made[task.cache_to] = stages

"""Layers that the builds of several builders share: they are made first, once, and everybody takes them from there.

A builder keeps what it made for itself. Layers that several cells copy by link are therefore built alone, before the
first cell that has them, and named by a cache in the registry: other builders find them there instead of making them
again, and all images have them in common by digest. Which stages are the same is read from their texts; where the texts
say too much, a builder does not find the layer and makes its own.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final

from assay.foundation.digest import sha256_of

__all__ = ["SharedLayers", "layers_alone", "linked_layers", "shared_first", "shared_layers"]

_MOST_CACHES: Final = 3
"""Caches that one build asks for; each costs requests to the registry."""
_FROM: Final = re.compile(r"^(?=FROM )", re.MULTILINE)
_NAME: Final = re.compile(r"FROM \S+ AS (\S+)")
_LINKED: Final = re.compile(r"^(COPY --link --from=(\S+) .+)$", re.MULTILINE)


@lru_cache(maxsize=1 << 10)
def linked_layers(dockerfile: str) -> Mapping[str, str]:
    """Return what an image copies by link: instruction -> a digest of the stage and the arguments above all stages."""
    head, *stages = _FROM.split(dockerfile)
    arguments = "\n".join(line for line in head.splitlines() if line.startswith("ARG "))
    named = {match[1]: sha256_of(f"{arguments}\n{text}".encode()) for text in stages if (match := _NAME.match(text))}
    copied = _LINKED.findall(stages[-1]) if stages else []
    return {line: named[stage] for line, stage in copied if stage in named}


def layers_alone(dockerfile: str, layers: frozenset[str]) -> str:
    """Return a Dockerfile of an image that has some of the linked layers and nothing else."""
    head, *stages = _FROM.split(dockerfile)
    copies = [line for line, layer in linked_layers(dockerfile).items() if layer in layers]
    return "".join([head, *stages[:-1], "\nFROM scratch AS image\n", *(f"{line}\n" for line in copies)])


def shared_layers(dockerfiles: Iterable[str]) -> Mapping[str, int]:
    """Return the linked layers of more than one of these, each with how many others have it."""
    counted = Counter(chain.from_iterable(set(linked_layers(text).values()) for text in dockerfiles))
    return {layer: number - 1 for layer, number in counted.items() if number > 1}


def shared_first(dockerfiles: Sequence[str]) -> list[int]:
    """Return the positions in the order in which they are built: first the few that have all shared layers.

    Those are chosen one by one, each for the layers that it adds, weighted by how many others have them; the rest
    follows in its order.
    """
    others = dict(shared_layers(dockerfiles))
    layers = [set(linked_layers(text).values()) for text in dockerfiles]
    first: list[int] = []
    left = list(range(len(layers)))
    while others:
        best = max(left, key=lambda one: (sum(others.get(layer, 0) for layer in layers[one]), -one))
        first.append(best)
        left.remove(best)
        others = {layer: number for layer, number in others.items() if layer not in layers[best]}
    return first + left


@dataclass
class SharedLayers:
    """Which shared layers of a run are made, and which are being made now; called from several threads."""

    shared: frozenset[str] = frozenset()
    _made: dict[str, frozenset[str]] = field(default_factory=dict)
    """Reference of a cache -> the layers that it names."""
    _making: set[str] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def of(self, dockerfile: str) -> frozenset[str]:
        """Return the layers of an image that others have too."""
        return self.shared.intersection(linked_layers(dockerfile).values())

    def are_being_made(self, layers: frozenset[str]) -> bool:
        """Return whether another build makes some of these layers now."""
        with self._guard:
            return not self._making.isdisjoint(layers)

    def promise(self, layers: frozenset[str]) -> frozenset[str]:
        """Return those that nobody has made; the caller makes them, and calls `ended`."""
        with self._guard:
            missing = layers.difference(*self._made.values())
            self._making |= missing
            return missing

    def ended(self, layers: frozenset[str], cache: str | None) -> None:
        """Note that layers are made, and which cache names them; None where they are not."""
        with self._guard:
            self._making -= layers
            if cache is not None:
                self._made[cache] = layers

    def caches(self, layers: frozenset[str]) -> tuple[str, ...]:
        """Return the references of the caches that have most of these layers."""
        wanted, chosen = set(layers), list[str]()
        with self._guard:
            while wanted and len(chosen) < _MOST_CACHES:
                best = max(self._made, key=lambda one: len(self._made[one] & wanted), default=None)
                if best is None or not self._made[best] & wanted:
                    break
                chosen.append(best)
                wanted -= self._made[best]
        return tuple(chosen)

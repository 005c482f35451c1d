"""Names of GPUs: what a person calls a card -> its architecture, `sm_120`. Pure; the names are knowledge/cards.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field

from assay.errors import UsageError
from assay.foundation.derived import Deriving
from assay.foundation.nearest import nearest
from assay.foundation.platforms import Machine, Platform
from assay.foundation.strict import Value

__all__ = ["Architecture", "Card", "Cards", "Named", "sm"]

_CODE: Final = re.compile(r"(?:(?:sm|compute)[_-]?)?(\d{2,3})[af]?|(\d{1,2})\.(\d)[af]?")
_NOISE: Final = re.compile(
    r"nvidia|geforce|tesla|gpu|graphics|card|laptop|mobile|super|edition|generation|server|workstation|max|q|sff|"
    r"sxm\d*|pcie|nvl|hbm\d\w*|\d+gb|g?ddr\d\w*|developer|kit"
)
"""Words in the names of drivers and shops that do not tell one architecture from another."""


class Architecture(Value):
    """A compute capability that exists."""

    known_as: str
    """The cards that have it, in a few words."""
    family: str
    cuda: str
    """The oldest CUDA toolkit whose compiler knows it."""
    driver: str
    """The oldest Linux driver that knows it."""
    platform: Machine | None = None
    """Where it is sold on one platform alone."""
    system_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where CPU and GPU have one memory: the part of it that is not the GPU's to fill."""
    source: str
    date: str


class Card(Value):
    """One product, or several that differ in memory alone."""

    capability: str
    platforms: tuple[Machine, ...]
    memory_gb: tuple[int, ...]
    also: tuple[str, ...] = ()
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a name means."""

    target: str
    """`sm_120`, as records and JSON have it."""
    title: str
    """What people see beside it: `RTX 5090`."""
    platform: Machine | None
    """The platform of a machine with it; None where there are several."""


def sm(capability: str) -> str:
    """Return `sm_120` for `12.0`."""
    return "sm_" + capability.replace(".", "")


def _key(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(word for word in words if not _NOISE.fullmatch(word))


class Cards(Deriving):
    """knowledge/cards.yaml."""

    version: Literal["1"]
    memory: str
    source: str
    date: str
    architectures: dict[str, Architecture]
    """`12.0` -> what it is."""
    cards: dict[str, Card]

    @cached_property
    def _keys(self) -> dict[str, tuple[str, str]]:
        """What is compared -> the name of the card, and that name of it that was compared."""
        found = {_key(other): (name, other) for name, card in self.cards.items() for other in (name, *card.also)}
        for name in self.cards:
            # `5090` alone is said of the GeForce cards, which have the numbers to themselves.
            if re.fullmatch(r"RTX \d{4}(?: Ti)?", name):
                found.setdefault(_key(name.removeprefix("RTX ")), (name, name))
        return found

    def find(self, word: str) -> Named:
        """Return what a name means: a product, `sm_120`, `12.0` or `120`.

        Raises:
            UsageError: nothing of that name is known, or no GPU has that architecture.
        """
        code = _CODE.fullmatch(word.strip().lower())
        found = self._keys.get(_key(word))
        if found is not None:
            card = self.cards[found[0]]
            platform = card.platforms[0] if len(card.platforms) == 1 else None
            return Named(target=sm(card.capability), title=found[1], platform=platform)
        if code is not None:
            return self._architecture(word, code)
        raise UsageError(f"{word!r} is not a known GPU", hint=self._hint(word))

    def _architecture(self, word: str, code: re.Match[str]) -> Named:
        number = code[1] or code[2] + code[3]
        capability = f"{number[:-1]}.{number[-1]}"
        known = self.architectures.get(capability)
        if known is None:
            there = ", ".join(sm(name) for name in self.architectures)
            raise UsageError(
                f"no GPU has the architecture {word}",
                hint=f"there are {there}; a newer one can be added to knowledge/cards.yaml",
            )
        return Named(target=sm(capability), title=known.known_as, platform=known.platform)

    @cached_property
    def _by_target(self) -> dict[str, Architecture]:
        return {sm(capability): known for capability, known in self.architectures.items()}

    def title(self, target: str) -> str:
        """Return the cards of an architecture in a few words; empty if it is not known."""
        known = self._by_target.get(target)
        return known.known_as if known is not None else ""

    def system_share(self, target: str) -> float:
        """Return the part of a card's memory that the system needs because it is one memory; 0 where it is not."""
        known = self._by_target.get(target)
        return known.system_share if known is not None else 0.0

    def platforms(self, capability: str) -> tuple[Platform, ...]:
        """Return the platforms whose machines have cards of a compute capability, `12.1`; empty if none is known."""
        known = self.architectures.get(capability)
        machines = {
            machine for card in self.cards.values() if card.capability == capability for machine in card.platforms
        }
        if known is not None and known.platform is not None:
            machines = {known.platform}
        return tuple(platform for platform in Platform if platform.machine in machines)

    def _hint(self, word: str) -> str:
        key = _key(word)
        close = [self._keys[one][1] for one in nearest(key, self._keys)]
        if not close and key:
            close = sorted({name for one, (_, name) in self._keys.items() if key in one or one in key})[:3]
        if close:
            return "the nearest names are " + ", ".join(dict.fromkeys(close)) + "; sm_120 or 12.0 is understood too"
        return "write a product (RTX 5090, DGX Spark, H200), or an architecture: sm_120, 12.0"

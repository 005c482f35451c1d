"""The interface of a serving engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from assay.engines.knowledge import EngineFlags
from assay.engines.logs import Chosen

__all__ = ["MemoryFlags", "ServingEngine"]


@dataclass(frozen=True, kw_only=True)
class MemoryFlags:
    """The names of the flags that decide over a server's memory; None where the engine has no such flag."""

    fraction: str | None = None
    """Its share of the card."""
    context: str | None = None
    """Tokens of the longest request."""
    requests: str | None = None
    """Requests at once."""
    prefill: str | None = None
    """Tokens of the largest prefill."""
    pool: str | None = None
    """The most tokens that the cache is to hold."""
    no_graphs: frozenset[str] = frozenset()
    """Each of them keeps it from capturing CUDA graphs."""
    parallel: tuple[str, ...] = ()
    """How many cards it is spread over."""


class ServingEngine(Protocol):
    """One serving engine, which speaks the API of OpenAI.

    An engine subclasses this and replaces what differs; it holds no state. Its flags over the releases are data
    (`EngineFlags`): in knowledge/server_flags.yaml, or with the engine itself.
    """

    name: str
    """In recipes, profiles and records, on the command line, and of the axis of its versions."""
    memory: MemoryFlags = MemoryFlags()
    packages: tuple[str, ...] = ()
    """The distributions whose versions people compare, its own first; empty: one of its own name."""
    hosts: tuple[str, ...] = ()
    """Public hosts, which a log that is given away may name."""
    api_key_variables: tuple[str, ...] = ()
    """Environment variables that hold the key which requests have to show."""
    ports_beside: tuple[int, ...] = ()
    """Ports that a server takes beside its own, as distances from it."""
    account_paths: tuple[str, ...] = ()
    """Where a server tells about itself, the newest release's first."""
    version_said: re.Pattern[str] | None = None
    """How logs tell its version, which is the first group that matches."""

    def own_flags(self) -> EngineFlags | None:
        """Return its flags over the releases, if they come with it and not in knowledge/server_flags.yaml."""
        return None

    def is_in(self, reference: str) -> bool:
        """Whether an image reference sounds like an image of it."""
        return self.name in reference

    def chosen_in_log(self, log: str) -> Chosen:
        """Return the server's choices from its log."""
        del log
        return {}

    def chosen_in_account(self, body: bytes) -> Chosen:
        """Return the server's choices from its information endpoint; empty for any other body."""
        del body
        return {}

    def keeps_seeds(self, account: bytes) -> bool:
        """Whether the same seed has to give the same answer, by its documents and the server's account of itself."""
        del account
        return False

    @property
    def metrics_prefix(self) -> str:
        """The prefix of the engine's metrics."""
        return f"{self.name}:"

    def keeps_windows_only(self, version: str, flags: Mapping[str, object]) -> bool:
        """Whether it keeps no more of the layers with a sliding window than they need."""
        del version, flags
        return False

    def memory_base(self, card: int, before: int, fixed: int, context: int) -> tuple[int, int]:
        """Return the base of the engine's memory fraction, and the needs it covers beside weights and cache.

        Args:
            card: bytes of the card.
            before: bytes that servers took which started before.
            fixed: bytes of activations and CUDA graphs.
            context: bytes of the CUDA context.
        """
        del before
        return card, fixed + context

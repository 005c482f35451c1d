"""Where verdicts of the audit are kept, by the digest of all they rest on."""

from __future__ import annotations

from typing import Protocol

__all__ = ["VerdictStore"]


class VerdictStore(Protocol):
    """Verdicts of the rules as they are now: with other rules, there are none."""

    def get(self, key: str) -> bytes | None:
        """Return the verdict that was kept under a key; None if there is none."""
        ...

    def put(self, key: str, verdict: bytes) -> None:
        """Keep a verdict. Where that is impossible nothing is lost: the rules are applied again."""
        ...

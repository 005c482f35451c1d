"""Signing statements, and finding out who signed them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Signer", "Verifier"]


class Signer(Protocol):
    """Signs statements with one key or identity."""

    @property
    def name(self) -> str:
        """Who signs, for people."""

    def sign(self, statement: bytes) -> bytes:
        """Return a Sigstore bundle whose payload is exactly these bytes.

        Raises:
            ToolError: the key cannot be used or the signing program failed.
        """


class Verifier(Protocol):
    """A verifier of signatures with trusted keys or identities."""

    @property
    def trusts_anyone(self) -> bool:
        """False if no key is known, so that nothing can be attested."""

    def signer(self, bundle: bytes) -> str | None:
        """Return the known signer of a bundle, or None if there is none.

        Raises:
            EvidenceError: the bundle is damaged, or claims a known key and its signature does not hold.
        """

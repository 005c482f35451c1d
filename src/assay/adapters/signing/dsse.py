"""Signs and verifies statements with local keys (DSSE through securesystemslib, the extra `sign`).

Keys are PEM: PKCS#8 private keys, SubjectPublicKeyInfo public keys. ECDSA and Ed25519 only: the two sides of an RSA key
disagree about padding (securesystemslib takes PSS, cosign PKCS#1 v1.5). cosign's own public keys work.
The library's `Envelope` signs, but does not verify: it takes no signature without a key id (its issue #416).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay.errors import EvidenceError, ToolError
from assay.evidence.statements import PAYLOAD, bundle_hint, make_bundle, open_bundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

__all__ = ["PASSWORD_VARIABLE", "KeySigner", "KeyVerifier"]

PASSWORD_VARIABLE: Final = "ASSAY_KEY_PASSWORD"  # noqa: S105  # the name of a variable
"""Environment variable that holds the password of an encrypted private key."""
_EXTRA: Final = "pip install 'assay-images[sign]'"
_KINDS: Final = ("ecdsa", "ed25519")
_MAX_KEY: Final = 64 << 10
"""Bytes of a file with a key."""


def _fingerprint(public: PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _checked(public: PublicKeyTypes, path: Path) -> SSlibKey:
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        key = SSlibKey.from_crypto(public)
    except ValueError as error:
        raise ToolError(f"{path}: this kind of key cannot be used: {error}", hint="use ECDSA P-256") from error
    if key.keytype not in _KINDS:
        raise ToolError(f"{path}: {key.keytype} keys cannot be used", hint="use ECDSA P-256")
    return key


def _pem(path: Path) -> bytes:
    """Return the bytes of a key's file, which may be a pipe of the shell; of an endless one the beginning."""
    with path.open("rb") as file:
        return file.read(_MAX_KEY)


class KeySigner:
    """Signs with a private key in a file; satisfies `assay.ports.signing.Signer`."""

    def __init__(self, path: Path) -> None:
        try:
            from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
            from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # noqa: PLC0415
        except ImportError as error:
            raise ToolError("signing with a key needs securesystemslib", hint=_EXTRA) from error
        password = os.environ.get(PASSWORD_VARIABLE)
        try:
            private = load_pem_private_key(_pem(path), password.encode() if password else None)
        except OSError as error:
            raise ToolError(f"the private key cannot be read: {error}") from error
        except (ValueError, TypeError) as error:
            # The library's words may quote the file; they are left out.
            raise ToolError(
                f"{path} is not a PEM private key, or its password is missing or wrong",
                hint=f"its password is taken from {PASSWORD_VARIABLE}; keys of cosign are for --cosign-key",
            ) from error
        public = private.public_key()
        key = _checked(public, path)
        # securesystemslib accepts exactly the private keys whose public half passed.
        self._signer = CryptoSigner(private, key)
        self._hint = base64.b64encode(_fingerprint(public)).decode()
        self.name = f"{path.name} (sha256:{_fingerprint(public).hex()[:16]})"

    def sign(self, statement: bytes) -> bytes:
        """See the port."""
        from securesystemslib.dsse import Envelope  # noqa: PLC0415

        signature = Envelope(statement, PAYLOAD, {}).sign(self._signer)
        return make_bundle(statement, [("", bytes.fromhex(signature.signature))], hint=self._hint)


class KeyVerifier:
    """A verifier with public keys; satisfies `assay.ports.signing.Verifier`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._keys: list[tuple[str, str, SSlibKey]] = []
        if not paths:
            return
        try:
            from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
            from securesystemslib import signer  # noqa: F401, PLC0415
        except ImportError as error:
            raise ToolError("checking signatures needs securesystemslib", hint=_EXTRA) from error
        for path in paths:
            try:
                public = load_pem_public_key(_pem(path))
            except (OSError, ValueError) as error:
                raise ToolError(f"{path} is not a PEM public key that can be read") from error
            mark = _fingerprint(public)
            name = f"{path.name} (sha256:{mark.hex()[:16]})"
            self._keys.append((name, base64.b64encode(mark).decode(), _checked(public, path)))

    @property
    def trusts_anyone(self) -> bool:
        """See the port."""
        return bool(self._keys)

    def signer(self, bundle: bytes) -> str | None:
        """See the port. Key ids are only hints: every signature is tried with every key (DSSE protocol.md)."""
        if not self._keys:
            return None
        from securesystemslib.dsse import Envelope  # noqa: PLC0415
        from securesystemslib.exceptions import UnverifiedSignatureError  # noqa: PLC0415
        from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # noqa: PLC0415

        payload, signatures = open_bundle(bundle)
        encoded = Envelope(payload, PAYLOAD, {}).pae()
        for name, _, key in self._keys:
            for signature in signatures:
                try:
                    key.verify_signature(Signature(key.keyid, signature.hex()), encoded)
                except UnverifiedSignatureError:
                    continue
                return name
        hint = bundle_hint(bundle)
        for name, mark, _ in self._keys:
            if hint == mark:
                raise EvidenceError(
                    f"the signature that claims to be of {name} does not hold: what it signs was changed"
                )
        return None

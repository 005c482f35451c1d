"""Sigstore bundles around in-toto statements: what was signed, and by what it claims to be. Pure.

Source: cosign's BUNDLE_SPEC.md; DSSE's envelope.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Final

from assay.errors import EvidenceError
from assay.foundation.digest import sha256_of
from assay.foundation.foreign import read_json

__all__ = ["BLOB_LIMIT", "BUNDLE", "PAYLOAD", "bundle_hint", "make_bundle", "open_bundle"]

PAYLOAD: Final = "application/vnd.in-toto+json"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BLOB_LIMIT: Final = 8 << 20
"""Evidence larger than this is not read, bytes; packed or unpacked."""
ITEM_LIMIT: Final = 100_000
"""Values of a statement, of the bundle around it, or of the record in it."""
SIGNATURE_LIMIT: Final = 16
"""Signatures of one bundle: each costs a check with each key."""


def make_bundle(payload: bytes, signatures: Sequence[tuple[str, bytes]], *, hint: str) -> bytes:
    """Return a Sigstore bundle of a DSSE envelope that was signed with a known key.

    Args:
        signatures: pairs of key id (may be empty) and signature.
        hint: how a verifier finds the key.
    """
    value = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(sig).decode(), "keyid": keyid} for keyid, sig in signatures],
        },
    }
    return json.dumps(value, separators=(",", ":")).encode()


def open_bundle(bundle: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the payload and the signatures of a bundle; what they are worth is the verifier's to say.

    Raises:
        EvidenceError: it is not a bundle with an in-toto statement.
    """
    try:
        envelope = read_json(bundle, limit=BLOB_LIMIT, items=ITEM_LIMIT)["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD:
            raise EvidenceError(
                f"the bundle {sha256_of(bundle)[:19]} holds {envelope['payloadType']!r}, not a statement"
            )
        payload = base64.b64decode(envelope["payload"], validate=True)
        listed = envelope["signatures"]
        if len(listed) > SIGNATURE_LIMIT:
            raise EvidenceError(f"the bundle {sha256_of(bundle)[:19]} has more than {SIGNATURE_LIMIT} signatures")
        signatures = tuple(base64.b64decode(entry["sig"], validate=True) for entry in listed)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise EvidenceError(f"{sha256_of(bundle)[:19]} is not a Sigstore bundle with an envelope") from error
    return payload, signatures


def bundle_hint(bundle: bytes) -> str:
    """Return the key hint of a bundle, or an empty text."""
    try:
        found = read_json(bundle, limit=BLOB_LIMIT, items=ITEM_LIMIT)["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""

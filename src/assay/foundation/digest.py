"""Content digests: `sha256:<64 hex>` over exact bytes or over canonical JSON."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

__all__ = ["DIGEST", "canonical_json", "digest_of", "sha256_of"]

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Serialise a JSON value to the one byte string that digests are taken of: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def sha256_of(data: bytes) -> str:
    """Return `sha256:<hex>` of exact bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Return `sha256:<hex>` of the canonical JSON of a value."""
    return sha256_of(canonical_json(value))

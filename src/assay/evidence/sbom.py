"""A lock as a CycloneDX 1.6 bill of materials. Pure, and the same bytes for the same lock.

Source: CycloneDX 1.6 JSON schema; the purl specification's `pypi` type (names normalised, versions percent-encoded).
"""

from __future__ import annotations

import uuid
from typing import Any, Final
from urllib.parse import quote

from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.lockfile import lock_digest

__all__ = ["CYCLONEDX", "cyclonedx", "purl"]

CYCLONEDX: Final = "https://cyclonedx.org/bom"
"""The predicate type of a CycloneDX document (in-toto attestation framework)."""
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:assay:lock")


def purl(wheel: LockedWheel) -> str:
    """Return the package URL of a locked file."""
    name, version, file = (quote(part, safe="") for part in (wheel.name, wheel.version, wheel.filename))
    return f"pkg:pypi/{name}@{version}?file_name={file}"


def cyclonedx(lock: Lock) -> dict[str, Any]:
    """Return the bill of materials of a cell: every locked file with its hash and the index it came from."""
    serial = uuid.uuid5(_NAMESPACE, lock_digest(lock))
    properties = [("assay:python", lock.python), ("assay:platform", lock.platform), ("assay:base", lock.base)]
    properties.append(("assay:lock-digest", lock_digest(lock)))
    if lock.base_digest:
        properties.append(("assay:base-digest", lock.base_digest))
    if lock.as_of:
        properties.append(("assay:as-of", lock.as_of))
    properties += [(f"assay:source:{name}", f"{one.ref} {one.commit}") for name, one in sorted(lock.sources.items())]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": lock.cell,
                "name": lock.cell,
                "properties": [{"name": name, "value": value} for name, value in properties],
            }
        },
        "components": [_component(wheel) for wheel in sorted(lock.wheels, key=lambda wheel: wheel.filename)],
    }


def _component(wheel: LockedWheel) -> dict[str, Any]:
    properties = [{"name": "assay:index", "value": wheel.index}]
    if wheel.size is not None:
        properties.append({"name": "assay:bytes", "value": str(wheel.size)})
    return {
        "type": "library",
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl(wheel),
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "properties": properties,
    }

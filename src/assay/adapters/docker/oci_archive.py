"""Writing an image archive that loads everywhere and has the same digest for the same file system."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from assay.evidence.oci import CONFIG, INDEX, MANIFEST

__all__ = ["ImageConfig", "full_name", "write_archive"]

_CHUNK: Final = 1 << 20
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What an image says of itself."""

    architecture: str = "amd64"
    created: int = 0
    """Seconds since 1970; part of the digest."""
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    command: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    made_by: str = ""


def write_archive(archive: Path, layer: Path, reference: str, config: ImageConfig) -> str:
    """Write an archive of an image with one layer and return the digest of its manifest.

    The archive is an OCI layout with Docker's `manifest.json` beside it, so engines with either image store load
    it. The layer is compressed with a fixed level and no time stamp: same tar, same config, same digest.

    Args:
        archive: written; a temporary folder beside it is used meanwhile.
        layer: the file system as an uncompressed tar.
        reference: `repository:tag` it gets when loaded.
        config: the rest.
    """
    with tempfile.TemporaryDirectory(prefix="assay-layer-", dir=archive.parent) as scratch:
        packed = Path(scratch) / "layer"
        diff_id, layer_digest, layer_size = _compress(layer, packed)
        image = _json(_config(config, diff_id))
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, image),
                "layers": [{"mediaType": _LAYER, "digest": f"sha256:{layer_digest}", "size": layer_size}],
            }
        )
        described = _descriptor(MANIFEST, manifest)
        named = {
            "io.containerd.image.name": full_name(reference),
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        platform = {"architecture": config.architecture, "os": "linux"}
        entry = {**described, "annotations": named, "platform": platform}
        docker = {"Config": _blob(image), "RepoTags": [reference], "Layers": [f"blobs/sha256/{layer_digest}"]}
        with tarfile.open(archive, "w") as tar, packed.open("rb") as blob:
            _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(tar, "index.json", _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}))
            _add(tar, "manifest.json", _json([docker]))
            _add(tar, _blob(manifest), manifest)
            _add(tar, _blob(image), image)
            _add_file(tar, f"blobs/sha256/{layer_digest}", blob, layer_size)
    return str(described["digest"])


def _config(config: ImageConfig, diff_id: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(config.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": config.architecture,
        "os": "linux",
        "created": created,
        "config": {"Env": list(config.env), "Cmd": list(config.command), "Labels": dict(config.labels)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created": created, "created_by": config.made_by}],
    }


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def full_name(reference: str) -> str:
    """Return a name as Docker files it; under a short one the containerd store takes an image and never finds it."""
    first, slash, _ = reference.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return reference if has_registry else f"docker.io/{reference if slash else 'library/' + reference}"


def _compress(layer: Path, packed: Path) -> tuple[str, str, int]:
    """Compress a layer; return the digest of the tar, and digest and size of what was written."""
    plain = hashlib.sha256()
    with layer.open("rb") as source, packed.open("wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as out:
            while chunk := source.read(_CHUNK):
                plain.update(chunk)
                out.write(chunk)
        size = raw.tell()
    with packed.open("rb") as file:
        return plain.hexdigest(), hashlib.file_digest(file, "sha256").hexdigest(), size


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    _add_file(tar, name, io.BytesIO(data), len(data))


def _add_file(tar: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, source)

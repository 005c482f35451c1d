"""Writes an image to a folder in the OCI image layout (image-spec v1.1, image-layout.md), its blobs as hard links."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from assay.adapters.files.locks import no_space
from assay.adapters.files.records import write_whole
from assay.errors import StoreError, UsageError
from assay.evidence.oci import INDEX, Manifest

__all__ = ["write_layout"]

_NAME: Final = "org.opencontainers.image.ref.name"


def write_layout(
    folder: Path, name: str, manifest: Manifest, config: bytes, *, blobs: Iterable[str], blob: Callable[[str], Path]
) -> None:
    """Add an image to a layout; one that has its name is replaced.

    Args:
        folder: the layout, made if it is not there.
        name: of the image in the layout's index.
        manifest: of the image.
        config: its configuration.
        blobs: digests of its layers.
        blob: gives the file of one.

    Raises:
        UsageError: the folder holds something else.
        StoreError: it cannot be written.
    """
    mark = folder / "oci-layout"
    if folder.exists() and not mark.is_file() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} holds files and is no OCI layout", hint="name an empty folder, or one that is not there"
        )
    place = folder / "blobs" / "sha256"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for digest in blobs:
            _link(blob(digest), place / digest.removeprefix("sha256:"))
        assert manifest.config is not None
        write_whole(place / manifest.config.digest.removeprefix("sha256:"), config)
        write_whole(place / manifest.digest.removeprefix("sha256:"), manifest.raw)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_whole(folder / "index.json", _index(folder / "index.json", name, manifest))
        write_whole(mark, b'{"imageLayoutVersion":"1.0.0"}')
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}", hint=no_space(error)) from error


def _index(path: Path, name: str, manifest: Manifest) -> bytes:
    there: list[Any] = []
    if path.is_file():
        try:
            there = list(json.loads(path.read_bytes())["manifests"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is no index of an OCI layout", hint="name another folder") from error
    kept = [one for one in there if one.get("annotations", {}).get(_NAME) != name]
    mine = {**manifest.descriptor.to_json(), "annotations": {_NAME: name}}
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*kept, mine]}).encode()


def _link(source: Path, target: Path) -> None:
    if target.is_file():
        return
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}:
            raise
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            shutil.copyfile(source, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

"""Writes an image to a folder in the OCI image layout (image-spec v1.1, image-layout.md), its blobs as hard links."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from assay.adapters.files.locks import no_space
from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.errors import RegistryError, StoreError, UsageError
from assay.evidence.oci import INDEX, MANIFEST, Descriptor, Manifest, platform_of_config
from assay.foundation.digest import sha256_of
from assay.foundation.foreign import read_json

__all__ = ["read_layout", "stream_archive", "write_archive_file", "write_layout"]

Opened = Callable[[str], BinaryIO]
_MARK: Final = b'{"imageLayoutVersion":"1.0.0"}'
_PIECE: Final = 4 << 20
_NAME: Final = "org.opencontainers.image.ref.name"


def write_layout(folder: Path, name: str, manifest: Manifest, config: bytes, *, blob: Callable[[str], Path]) -> None:
    """Add an image to a layout; one that has its name is replaced.

    Args:
        folder: the layout, made if it is not there.
        name: of the image in the layout's index.
        manifest: of the image.
        config: its configuration.
        blob: gives the file of a layer.

    Raises:
        UsageError: the folder holds something else.
        StoreError: it cannot be written.
    """
    mark = folder / "oci-layout"
    if folder.exists() and not mark.is_file() and any(_foreign(path.name) for path in folder.iterdir()):
        raise UsageError(
            f"{folder} holds files and is no OCI layout", hint="name an empty folder, or one that is not there"
        )
    place = folder / "blobs" / "sha256"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for layer in manifest.layers:
            _link(blob(layer.digest), place / layer.digest.removeprefix("sha256:"))
        assert manifest.config is not None
        write_whole(place / manifest.config.digest.removeprefix("sha256:"), config)
        write_whole(place / manifest.digest.removeprefix("sha256:"), manifest.raw)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_whole(folder / "index.json", _index(folder / "index.json", name, _described(manifest, config)))
        write_whole(mark, _MARK)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}", hint=no_space(error)) from error


def _described(manifest: Manifest, config: bytes) -> Descriptor:
    """Return an image's entry in an index, with the platform that its configuration names."""
    return replace(manifest.descriptor, platform=platform_of_config(config))


def write_archive_file(file: Path, name: str, manifest: Manifest, config: bytes, *, opened: Opened) -> None:
    """Write an image as an OCI archive, in place of what the file held.

    Raises:
        StoreError: it cannot be written.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as out:
                for piece in stream_archive({_NAME: name}, manifest, config, manifest.layers, opened):
                    out.write(piece)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}", hint=no_space(error)) from error


def stream_archive(
    names: Mapping[str, str], manifest: Manifest, config: bytes, layers: Iterable[Descriptor], opened: Opened
) -> Iterator[bytes]:
    """Yield an OCI archive in pieces: a layout as one tar.

    Args:
        names: annotations that name the image.
        manifest: of the image.
        config: its configuration.
        layers: those that are in the archive; whoever reads it must have the others.
        opened: opens a layer by digest.
    """
    assert manifest.config is not None
    entry = {**_described(manifest, config).to_json(), "annotations": dict(names)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    for name, data in (
        ("oci-layout", _MARK),
        ("index.json", index),
        (_blob(manifest.digest), manifest.raw),
        (_blob(manifest.config.digest), config),
    ):
        yield _head(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    for layer in {one.digest: one for one in layers}.values():
        yield _head(_blob(layer.digest), layer.size)
        with opened(layer.digest) as file:
            while piece := file.read(_PIECE):
                yield piece
        yield bytes(-layer.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _head(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def read_layout(folder: Path, name: str) -> tuple[Manifest, bytes] | None:
    """Return manifest and configuration of an image in a layout; None if it has none of that name."""
    try:
        entries = read_json(read_regular(folder / "index.json"))["manifests"]
        found = next((one for one in entries if one.get("annotations", {}).get(_NAME) == name), None)
        if found is None:
            return None
        manifest = Manifest.parse(read_regular(folder / _blob(found["digest"])), MANIFEST, expected=found["digest"])
        assert manifest.config is not None
        config = read_regular(folder / _blob(manifest.config.digest))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RegistryError, StoreError):
        return None
    whole = all((folder / _blob(one.digest)).is_file() for one in manifest.layers)
    return (manifest, config) if whole and sha256_of(config) == manifest.config.digest else None


def _foreign(name: str) -> bool:
    """Whether a file is none of those that a killed run leaves in a layout before its mark is written."""
    return name not in {"blobs", "index.json", ".lock"} and not name.startswith(".writing-")


def _index(path: Path, name: str, image: Descriptor) -> bytes:
    kept: list[dict[str, Any]] = []
    if path.is_file():
        try:
            there = [dict(one) for one in read_json(read_regular(path))["manifests"]]
            kept = [one for one in there if dict(one.get("annotations") or {}).get(_NAME) != name]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is not an index of an OCI layout", hint="name another folder") from error
    mine = {**image.to_json(), "annotations": {_NAME: name}}
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

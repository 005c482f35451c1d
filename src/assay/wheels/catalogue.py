"""The catalogue of layers, kept and shared: it gives the digest of an image without its bytes."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from operator import attrgetter
from typing import Annotated, Any, Final, TypeVar, cast

from pydantic import Field, ValidationError
from zlib_ng import zlib_ng

from assay.errors import WheelError
from assay.foundation.digest import canonical_json
from assay.foundation.foreign import ForeignError, read_json
from assay.foundation.strict import Value
from assay.wheels.layer import LayerBytes

__all__ = [
    "BaseEntry",
    "BaseLayer",
    "CatalogueEntry",
    "CatalogueWheel",
    "dump_base",
    "dump_catalogue",
    "dump_entry",
    "dump_wheel",
    "load_base",
    "load_catalogue",
    "load_entry",
    "load_wheel",
]

LARGEST: Final = 1 << 20
"""Bytes of one entry: some 100 for each wheel of its layer."""
MOST: Final = 32 << 20
"""Bytes of a shared catalogue: some 100 000 layers."""
_Kept = TypeVar("_Kept", bound=Value)
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Size = Annotated[int, Field(ge=0, lt=1 << 50)]
_Name = Annotated[str, Field(max_length=300)]


class CatalogueWheel(Value):
    """A wheel of a layer."""

    name: _Name
    version: _Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CatalogueEntry(Value):
    """A layer in the catalogue: the same key gives the same layer on every machine."""

    key: _Digest
    """Decides the bytes: wheels, place, exact Python, format."""
    digest: _Digest
    diff_id: _Digest
    size: _Size
    unpacked: _Size
    wheels: tuple[CatalogueWheel, ...] = ()
    """What it holds, in the order in which it was installed; empty for layers without wheels."""
    last: bool = True
    """No further layer holds the rest of these wheels."""

    @property
    def layer(self) -> LayerBytes:
        """What the layer is known by."""
        return LayerBytes(digest=self.digest, diff_id=self.diff_id, size=self.size, unpacked=self.unpacked)


class BaseLayer(Value):
    """A layer of a base."""

    media_type: _Name
    digest: _Digest
    diff_id: _Digest
    size: _Size


class BaseEntry(Value):
    """A base that was made once: enough to compute the digest of an image on it."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{12}(-python)?$")]
    """Names the base's recipe with its packages; one that ends in `-python` only compiles for images of another
    platform."""
    layers: tuple[BaseLayer, ...]
    config: dict[str, Any]
    """Its OCI image configuration."""
    python: _Name
    """Exact version of its Python."""
    files: dict[_Name, str]
    """Files that the account of an image is written into."""


def dump_entry(entry: CatalogueEntry) -> bytes:
    """Return the bytes an entry is kept as, in a file that its key names."""
    return entry.model_dump_json(exclude={"key"}).encode()


def load_entry(data: bytes, key: str) -> CatalogueEntry:
    """Read an entry back.

    Raises:
        WheelError: it is not an entry.
    """
    said = _json(data, LARGEST)
    return _value(CatalogueEntry, {**said, "key": key} if isinstance(said, dict) else said)


def dump_base(base: BaseEntry) -> bytes:
    """Return the bytes a base is kept as."""
    return base.model_dump_json().encode()


def load_base(data: bytes) -> BaseEntry:
    """Read a base back.

    Raises:
        WheelError: it is none.
    """
    return _value(BaseEntry, _json(data, LARGEST))


def dump_wheel(wheel: CatalogueWheel) -> bytes:
    """Return the bytes that a wheel which was built here is noted as."""
    return wheel.model_dump_json().encode()


def load_wheel(data: bytes) -> CatalogueWheel:
    """Read the note of a wheel back.

    Raises:
        WheelError: it is none.
    """
    return _value(CatalogueWheel, _json(data, LARGEST))


def dump_catalogue(layers: Iterable[CatalogueEntry], bases: Iterable[BaseEntry]) -> bytes:
    """Return the bytes a catalogue is shared as: gzipped JSON, the same for the same entries."""
    text = canonical_json(
        {
            "version": 1,
            "layers": [one.model_dump() for one in sorted(layers, key=attrgetter("key"))],
            "bases": [one.model_dump() for one in sorted(bases, key=attrgetter("key"))],
        }
    )
    return gzip.compress(text, compresslevel=6, mtime=0)


def load_catalogue(packed: bytes) -> tuple[list[CatalogueEntry], list[BaseEntry]]:
    """Read a shared catalogue: its layers and its bases.

    Raises:
        WheelError: it is none.
    """
    unpacker = zlib_ng.decompressobj(31)
    try:
        data = unpacker.decompress(packed, MOST)
    except cast("type[Exception]", zlib_ng.error) as error:
        raise WheelError(f"a catalogue of layers cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise WheelError(f"a catalogue of layers does not unpack to less than {MOST} bytes")
    said = _json(data, MOST)
    if not isinstance(said, dict) or said.get("version") != 1:
        raise WheelError("it is not a catalogue of layers that this assay can read", hint="upgrade assay")
    layers, bases = said.get("layers"), said.get("bases")
    if not isinstance(layers, list) or not isinstance(bases, list):
        raise WheelError("a catalogue of layers lacks its lists")
    return [_value(CatalogueEntry, one) for one in layers], [_value(BaseEntry, one) for one in bases]


def _json(data: bytes, limit: int) -> object:
    try:
        return read_json(data, limit=limit)
    except ForeignError as error:
        raise WheelError(f"a catalogue of layers cannot be read: {error}") from error


def _value(kind: type[_Kept], value: object) -> _Kept:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))[:80]
        raise WheelError(f"an entry of a catalogue of layers is wrong at {where or 'its beginning'}") from error

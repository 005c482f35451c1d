"""How `assay build` makes images, and where they go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from assay.errors import UsageError
from assay.wheels.layer import Packing

__all__ = ["WAYS", "BuildRoute", "bytes_of"]

WAYS = ("auto", "assemble", "buildkit")


@dataclass(frozen=True, kw_only=True)
class BuildRoute:
    """How images are made, and where they go."""

    builder: str = "auto"
    """One of `WAYS`, or the name of a buildx builder, which builds everything."""
    push: str | None = None
    """A repository."""
    output: str | None = None
    """`oci:FOLDER` or `oci-archive:FILE`."""
    layers: Path | None = None
    """Where layers are kept; the user's cache folder without it."""
    packing: Packing = Packing.ZSTD
    largest: int | None = None
    """Bytes that a layer may have."""
    on: str | None = None
    """A pool of builders; `push` is then the registry of pools.yaml."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.push and self.output:
            raise UsageError("--push and --output exclude each other", hint="run it twice: layers are made only once")
        if self.output and self.output.partition(":")[0] not in {"oci", "oci-archive"}:
            raise UsageError(
                f"--output {self.output}: only OCI layouts can be written",
                hint="--output oci:FOLDER or oci-archive:FILE",
            )
        if self.output and not self.assembles:
            raise UsageError("--output takes assembled images only", hint="omit --builder")

    @classmethod
    def of(
        cls,
        *,
        images: int,
        builder: str,
        push: str | None,
        output: str | None,
        layers: Path | None,
        compression: str,
        largest_layer: str | None,
        on: str | None = None,
        registry: str | None = None,
    ) -> Self:
        """Return the route that options of a command name, for so many images.

        Raises:
            UsageError: they do not fit together.
        """
        if on is not None:
            if push or output:
                raise UsageError("--on pushes to `registry` of pools.yaml", hint="omit --push and --output")
            if builder not in {"auto", "buildkit"}:
                raise UsageError(f"--on and --builder {builder} exclude each other", hint="omit --builder")
            push = registry
        if output is not None and output.startswith("oci-archive:") and images != 1:
            raise UsageError(
                f"an archive holds one image, but {images} are selected", hint="--output oci:DIR takes several"
            )
        return cls(
            builder=builder,
            push=push,
            output=output,
            layers=layers,
            packing=Packing(compression),
            largest=bytes_of(largest_layer) if largest_layer else None,
            on=on,
        )

    @property
    def assembles(self) -> bool:
        """Whether anything is assembled."""
        return self.builder in {"auto", "assemble"}

    @property
    def builds(self) -> bool:
        """Whether BuildKit builds what cannot be assembled."""
        return self.builder != "assemble" and self.output is None

    @property
    def buildx(self) -> str | None:
        """The name of a buildx builder; None for the selected one."""
        return None if self.builder in WAYS else self.builder

    @property
    def into_engine(self) -> bool:
        """Whether images go into the engine."""
        return self.push is None and self.output is None


def bytes_of(text: str) -> int:
    """Read a size: `500MB`, `8 GB`, `10GiB`, or bytes.

    Raises:
        UsageError: it is none, or less than a megabyte.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15})\s*([kMGT]i?)?B?\s*", text)
    if found is None:
        raise UsageError(f"{text!r} is not a size", hint="500MB, 8GB or 10GiB")
    unit = found[2] or ""
    power = "kMGT".index(unit[0]) + 1 if unit else 0
    size: int = int(found[1]) * (1024 if unit.endswith("i") else 1000) ** power
    if size < 1_000_000:
        raise UsageError(f"{text}: a layer needs at least 1 MB")
    return size

"""How `assay build` makes images, and where they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from assay.errors import UsageError

__all__ = ["WAYS", "BuildRoute"]

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

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.push and self.output:
            raise UsageError("--push and --output exclude each other", hint="run twice: layers are made once")
        if self.output and self.output.partition(":")[0] not in {"oci", "oci-archive"}:
            raise UsageError(
                f"--output {self.output}: only OCI layouts can be written",
                hint="--output oci:FOLDER or oci-archive:FILE",
            )
        if self.output and not self.assembles:
            raise UsageError("--output takes assembled images only", hint="omit --builder")

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

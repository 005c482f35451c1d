"""What commands write with `--format json`, where no other room has the model; their schemas are in schemas/. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import computed_field, field_serializer

from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.cell import Cell, Excluded, oci_tag
from assay.matrix.model import AxisValue
from assay.pipeline.doctor import Check
from assay.pipeline.recommend import Standing
from assay.ports.pools import PoolItem

__all__ = [
    "DoctorDocument",
    "ErrorDocument",
    "OfferDocument",
    "PlanDocument",
    "PlannedCell",
    "PoolCheck",
    "PoolsDocument",
    "RecommendDocument",
    "ServerState",
    "StatusDocument",
]


class PlannedCell(Cell):
    """A cell; a field that is absent has its default."""

    @field_serializer("point")
    def _ids(self, point: dict[str, AxisValue]) -> dict[str, str]:
        return {axis: value.id for axis, value in point.items()}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tag(self) -> str:
        """The cell's OCI tag."""
        return oci_tag(self.id)


class PlanDocument(Value):
    """The cells of a matrix, and what is not a cell."""

    version: Literal[1]
    cells: tuple[PlannedCell, ...]
    excluded: tuple[Excluded, ...]


class ServerState(Value):
    """A server that `assay up` started."""

    name: str
    health: Literal["healthy", "not healthy", "stopped"]
    state: str
    """In the engine's words: `Up 3 minutes`."""
    address: str
    """Of its API, up to `/v1`."""
    model: str


class StatusDocument(Value):
    """All servers, the newest first."""

    version: Literal[1] = 1
    servers: tuple[ServerState, ...]


class DoctorDocument(Value):
    """What this machine has and lacks."""

    version: Literal[1] = 1
    exit_code: int
    checks: tuple[Check, ...]


class PoolCheck(PoolItem):
    """One thing that a pool was asked for."""

    pool: str


class PoolsDocument(Value):
    """What each pool has and lacks."""

    version: Literal[1] = 1
    exit_code: int
    pools: tuple[PoolCheck, ...]


class OfferDocument(Value):
    """One image."""

    reference: str
    """What to pull, or the cell where the image is not in a registry."""
    tags: tuple[str, ...]
    digest: str | None
    cell: str
    platform: Platform
    device: str
    """The GPU that it was measured on; empty if it was not."""
    measured: str
    """When, in ISO 8601; for a prediction the time of the answer."""
    standing: Standing
    levels: tuple[str, ...]
    lacks: tuple[str, ...]
    """Needs that were not measured to work."""
    features: dict[str, Outcome]
    note: str


class RecommendDocument(Value):
    """Images for a GPU, the best first."""

    version: Literal[1] = 1
    target: str
    needs: tuple[str, ...]
    found: bool
    """Whether an image was measured to have every need."""
    offers: tuple[OfferDocument, ...]


class ErrorDocument(Value):
    """What a command with `--format json` writes to stdout instead of its document, if it cannot answer."""

    version: Literal[1]
    kind: Literal["error"]
    exit_code: int
    """1 failure, 2 usage or configuration, 3 nothing selected, 4 no engine or no GPU, 5 registry, 6 refused by policy,
    70 a bug of assay, 130 interrupted."""
    message: str
    hint: str | None
    """What to do next, if anything is known."""

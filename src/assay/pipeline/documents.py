"""What commands write with `--format json`, where no other room has the model; their schemas are in schemas/. Pure."""

from __future__ import annotations

from typing import Literal

from assay.evidence.record import BenchRecord, BuildRecord, ProbeRecord
from assay.evidence.suite import Declaration
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.pipeline.doctor import Check
from assay.pipeline.recommend import Standing
from assay.ports.pools import PoolItem
from assay.wheels.facts import WheelFacts

__all__ = [
    "AssembleDocument",
    "AssembledCell",
    "BenchDocument",
    "BuildDocument",
    "BuildForecast",
    "BuildPlanDocument",
    "CachedWheel",
    "CollectDocument",
    "DoctorDocument",
    "ErrorDocument",
    "FactsDocument",
    "FactsListDocument",
    "JobRow",
    "JobsDocument",
    "OfferDocument",
    "PoolCheck",
    "PoolsDocument",
    "ProbeListDocument",
    "ProbeRunDocument",
    "RecommendDocument",
    "ServerState",
    "StatusDocument",
    "UnassembledCell",
]


class BuildForecast(Value):
    """What a build would do with a cell."""

    cell: str
    action: Literal["build", "cached", "refused"]
    reason: str
    way: Literal["assemble", "buildkit"] | None
    """How the image is made; null where it is not."""
    digest: str | None
    """Of the image, where its layers are known."""


class BuildPlanDocument(Value):
    """What `assay build` would do."""

    version: Literal[1] = 1
    cells: tuple[BuildForecast, ...]


class BuildDocument(Value):
    """What came of building each cell."""

    version: Literal[1] = 1
    records: tuple[BuildRecord, ...]
    exit_code: int


class AssembledCell(Value):
    """An image that was assembled from wheels."""

    cell: str
    digest: str
    bytes: int
    """Packed, with configuration and manifest."""
    layers: tuple[str, ...]
    """Digests, the lowest first."""
    new_layers: int
    """How many of them did not exist."""
    seconds: float


class UnassembledCell(Value):
    """A cell that could not be assembled, or not sent where it goes."""

    cell: str
    error: str


class AssembleDocument(Value):
    """What came of assembling each cell."""

    version: Literal[1] = 1
    images: tuple[AssembledCell | UnassembledCell, ...]


class ProbeListDocument(Value):
    """The probes that there are."""

    version: Literal[1] = 1
    probes: tuple[Declaration, ...]


class ProbeRunDocument(Value):
    """What was measured in each image."""

    version: Literal[1] = 1
    records: tuple[ProbeRecord, ...]


class CollectDocument(Value):
    """What jobs on pools have measured."""

    version: Literal[1] = 1
    records: tuple[ProbeRecord, ...]
    open: int
    """Jobs without a complete result."""


class JobRow(Value):
    """A job of a run on a pool."""

    run: str
    pool: str
    cell: str
    gpu: str
    """The GPU that it asks for; empty for any."""
    state: str
    """`done`, `unknown`, or in the pool's words as `waiting` and `running`."""
    node: str
    """Where it runs."""
    said: str
    """What the pool says of it."""


class JobsDocument(Value):
    """Jobs that are not done; with `--all` all jobs."""

    version: Literal[1] = 1
    jobs: tuple[JobRow, ...]


class BenchDocument(Value):
    """How fast each server is."""

    version: Literal[1] = 1
    records: tuple[BenchRecord, ...]


class CachedWheel(Value):
    """A wheel with cached facts."""

    name: str
    version: str
    sha256: str
    bytes: int
    """Of the cached facts."""


class FactsListDocument(Value):
    """All wheels with cached facts."""

    version: Literal[1] = 1
    wheels: tuple[CachedWheel, ...]


class FactsDocument(WheelFacts):
    """The facts of a wheel; a field that is absent has its default."""

    schema_version: Literal[1]


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
    70 a bug in assay, 130 interrupted."""
    message: str
    hint: str | None
    """What to do next, if anything is known."""

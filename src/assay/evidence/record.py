"""Records: what was done to one cell or image and what came of it. Append-only, one file each.

A record is the product; everything that is shown is made of records. Files of two machines merge by copying,
because a record's file name ends in the digest of its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from assay.errors import StoreError
from assay.foundation.digest import sha256_of
from assay.foundation.foreign import ForeignError, read_json, sane_time
from assay.foundation.outcome import Outcome, Verdict
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value

__all__ = [
    "RECORD_NAME",
    "SHARED_GPU",
    "AnyRecord",
    "AuditRecord",
    "BenchRecord",
    "BenchSeries",
    "BuildRecord",
    "BuildStatus",
    "Device",
    "FeatureResult",
    "KeptRecord",
    "LayerSize",
    "Moment",
    "ProbeRecord",
    "Record",
    "RunSummary",
    "ServeCheck",
    "ServeRecord",
    "ServeStatus",
    "Spread",
    "dump",
    "file_name",
    "is_named_after",
    "parse",
    "shared_gpu",
]

Metric = bool | int | float | str
MAX_BYTES: Final = 8 << 20
SHARED_GPU: Final = "another process used the GPU"
"""How the reason of a result begins, or a note of a record, whose times are not those of the image alone."""
_SHARED_BY_HAND: Final = ("servers of other images ran on the same GPU", "two suites shared the GPU")
"""Notes with which people said it of a whole record, before probes found it out themselves."""


def _moment(value: datetime) -> datetime:
    sane_time(value)
    return value


Moment = Annotated[datetime, AfterValidator(_moment)]
"""A time with its zone, within the years that can be meant; kept as it is written."""


class Record(Value):
    """What all records have in common."""

    schema_version: Literal[1] = 1
    created: Moment
    """When it was measured, UTC."""
    run: str
    """The run that made it: the name of a folder in build_logs/."""
    cell: str
    """The cell id, or the image reference where no cell stands behind it."""
    image: str = ""
    """The image recipe, or empty."""
    image_digest: str | None = None
    """`sha256:...` of the manifest, as the engine or registry gives it."""
    lock_digest: str | None = None
    content_key: str | None = None
    assay_version: str = ""
    platform: Platform | None = None
    """What it ran on or was judged for; None in records of versions that knew linux/amd64 alone."""

    @property
    def runs_on(self) -> Platform:
        """The platform that the record speaks of; it says nothing about another."""
        return self.platform or Platform.AMD64


class BuildStatus(StrEnum):
    """What came of building one cell."""

    BUILT = "built"
    CACHED = "cached"
    """Nothing had to be done: an image with this content key exists."""
    REFUSED = "refused"
    """The audit says that it cannot work; it was not built."""
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    """Stopped by the user or by --fail-fast."""
    ENGINE_FAILED = "engine_failed"
    """The builder or its disk or network failed: the result of the cell is unknown."""
    REGISTRY_FAILED = "registry_failed"
    """A registry failed or refused: the result of the cell is unknown."""


class LayerSize(Value):
    """One layer of an image: its size unpacked, and the instruction that made it."""

    digest: str
    bytes: int
    made_by: str = ""


class BuildRecord(Record):
    """What came of building a cell."""

    kind: Literal["build"] = "build"
    status: BuildStatus
    reason: str = ""
    """Why it was refused, failed, or had to be built again."""
    cause: str | None = None
    """An entry of knowledge/failures/."""
    seconds: float = 0.0
    size_bytes: int | None = None
    layers: tuple[LayerSize, ...] = ()
    tags: tuple[str, ...] = ()
    log: str | None = None
    """Path of the log, relative to build_logs/."""
    builder: str | None = None
    """The builder of a pool that built it; None where it was built or assembled by this machine."""


class AuditRecord(Record):
    """The result of the audit of a cell or image; `report` is the digest of the audit's JSON document."""

    kind: Literal["audit"] = "audit"
    subject: Literal["wheels", "image"]
    verdict: Verdict
    """Over all targets."""
    targets: tuple[str, ...] = ()
    verdicts: dict[str, Verdict] = {}
    """target -> the verdict there; what is missing on one GPU says nothing about another."""
    findings: int = 0
    summary: tuple[str, ...] = ()
    """The findings that decided the verdict, one line each."""
    predictions: dict[str, dict[str, Outcome]] = {}
    """target -> feature -> predicted outcome."""
    report: str | None = None

    def on(self, target: str) -> Verdict:
        """Return the verdict for one target; records of older versions have but one for all."""
        return self.verdicts.get(target, self.verdict)

    def over(self, targets: Collection[str]) -> Verdict:
        """Return the worst verdict for targets; for none, the one over all that it was asked about."""
        return Verdict.worst(map(self.on, targets)) if targets else self.verdict


class Device(Value):
    """One GPU as seen from inside the container or process that was probed."""

    name: str
    capability: str
    """Compute capability, `9.0`."""
    memory_bytes: int
    uuid: str = ""
    driver: str = ""
    cuda: str = ""
    """The newest CUDA version the driver supports, `13.0`."""

    @property
    def target(self) -> str:
        """The architecture's name: `sm_90`."""
        return "sm_" + self.capability.replace(".", "")


class FeatureResult(Value):
    """The result of one probe."""

    outcome: Outcome
    reason: str = ""
    cause: str | None = None
    seconds: float = 0.0
    metrics: dict[str, Metric] = {}
    log: str | None = None


class ProbeRecord(Record):
    """What worked in an image on a GPU."""

    kind: Literal["probe"] = "probe"
    suite_digest: str
    """Digest over the probe programs that ran."""
    executor: str
    """`docker`, `local`, or the kind of pool: `ssh`, `slurm`, `kubernetes`."""
    devices: tuple[Device, ...]
    packages: dict[str, str]
    """Distribution name -> version, read inside."""
    features: dict[str, FeatureResult]
    notes: tuple[str, ...] = ()


class ServeStatus(StrEnum):
    """What came of starting a server."""

    OK = "ok"
    """It started and passed every check."""
    FAILED = "failed"
    """It started and failed a check, or died while it was checked."""
    REFUSED = "refused"
    """Its flags are wrong for this server; it was not started."""
    CRASHED = "crashed"
    """It ended before it was healthy."""
    TIMED_OUT = "timed_out"
    """It was not healthy in time."""
    INCONCLUSIVE = "inconclusive"
    """Something beside the image ended it, such as another process on the GPU: the result of the image is unknown."""
    ABORTED = "aborted"


class ServeCheck(Value):
    """One check of a server's API."""

    name: str
    passed: bool
    detail: str = ""
    seconds: float = 0.0


class ServeRecord(Record):
    """Whether a server starts in an image on a GPU, what it chose, and whether its API is right."""

    kind: Literal["serve"] = "serve"
    engine: str
    executor: str
    profile: str = ""
    model: str = ""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    status: ServeStatus
    reason: str = ""
    cause: str | None = None
    """An entry of knowledge/failures/."""
    start_seconds: float = 0.0
    """From starting the process to the first healthy answer."""
    stop_seconds: float = 0.0
    stopped: str = ""
    """How it ended when asked to."""
    checks: tuple[ServeCheck, ...] = ()
    chosen: dict[str, Metric] = {}
    """What the server says it uses: attention backend, graphs captured, quantisation kernel."""
    flag_findings: tuple[str, ...] = ()
    needed: tuple[str, ...] | None = None
    """With --bisect-flags: the features that had to be switched off for it to start; empty if none."""
    starts: int = 1
    """How many times a server was started to find out."""
    devices: tuple[Device, ...] = ()
    packages: dict[str, str] = {}
    log: str | None = None
    notes: tuple[str, ...] = ()


class Spread(Value):
    """A distribution of durations, milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    least: float
    most: float


class BenchSeries(Value):
    """One load on one server."""

    workload: str
    users: int
    max_tokens: int
    requests: int
    failed: int
    seconds: float
    completion_tokens: int
    cached_tokens: int | None = None
    """Prompt tokens taken from the cache, if the server says so."""
    requests_per_second: float
    tokens_per_second: float
    latency: Spread | None = None
    ttft: Spread | None = None
    """Time to the first token."""
    per_token: Spread | None = None
    """Mean time between tokens of a request, without the first."""
    first_ms: float | None = None
    """Repeated prompts: the latency of the first request; `latency` is of the rest."""
    errors: dict[str, int] = {}
    notes: tuple[str, ...] = ()


class BenchRecord(Record):
    """How fast a server is."""

    kind: Literal["bench"] = "bench"
    engine: str
    executor: str
    profile: str = ""
    model: str = ""
    argv: tuple[str, ...] = ()
    stable: bool
    """Nothing failed and the server was healthy at the end."""
    chosen: dict[str, Metric] = {}
    gpu_memory_gib: float | None = None
    """The most that was in use on the card while it ran."""
    start_seconds: float = 0.0
    series: tuple[BenchSeries, ...] = ()
    devices: tuple[Device, ...] = ()
    packages: dict[str, str] = {}
    log: str | None = None
    notes: tuple[str, ...] = ()


class RunSummary(Value):
    """How each cell of one run of builds ended, also those that were there already and left no record.

    One small file of the run's folder, written when the run is over.
    """

    schema_version: Literal[1] = 1
    run: str
    cells: dict[str, BuildStatus]


AnyRecord = Annotated[BuildRecord | AuditRecord | ProbeRecord | ServeRecord | BenchRecord, Field(discriminator="kind")]


@cache
def _adapter() -> TypeAdapter[BuildRecord | AuditRecord | ProbeRecord | ServeRecord | BenchRecord]:
    """Return what reads a record of any kind; made at the first record, because it takes long to make."""
    return TypeAdapter(AnyRecord)


@dataclass(frozen=True, kw_only=True)
class KeptRecord:
    """A record as its file holds it."""

    record: AnyRecord
    raw: bytes
    name: str
    intact: bool
    """The bytes are those that the file was named after."""


def now() -> datetime:
    """Return this moment in UTC, to the millisecond (what a record's file keeps)."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def dump(record: Record | RunSummary) -> bytes:
    """Return the exact bytes of a record or summary: indented JSON with a final newline."""
    # What older records do not have is not added to them: their names are digests of their bytes.
    unsaid = {"platform"} if isinstance(record, Record) and record.platform is None else None
    return record.model_dump_json(indent=1, exclude=unsaid).encode() + b"\n"


def shared_gpu(record: ProbeRecord | ServeRecord | BenchRecord) -> bool:
    """Return whether the record says that another process used its GPU: its times are not those of the image alone."""
    return any(mark in note for note in record.notes for mark in (SHARED_GPU, *_SHARED_BY_HAND))


def _left_open(record: ProbeRecord) -> ProbeRecord:
    """Return a record with what was only slow left open where people noted that others used the GPU."""
    if not any(mark in note for note in record.notes for mark in _SHARED_BY_HAND):
        return record
    features = {
        name: item.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": f"{SHARED_GPU}: {item.reason}"})
        if item.outcome is Outcome.DEGRADED
        else item
        for name, item in record.features.items()
    }
    return record.model_copy(update={"features": features})


def parse(
    data: bytes, *, source: str = "record"
) -> BuildRecord | AuditRecord | ProbeRecord | ServeRecord | BenchRecord:
    """Read a record back; its file keeps what was written where the reading is another.

    Raises:
        StoreError: the bytes are not a record of a known kind and version.
    """
    try:
        read_json(data, limit=MAX_BYTES, constants=True)
        record = _adapter().validate_json(data)
        return _left_open(record) if isinstance(record, ProbeRecord) else record
    except ForeignError as error:
        raise StoreError(f"{source} is not a record that this version reads: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{source} is not a record that this version reads: {where}: {first['msg']}") from error


def file_name(record: Record) -> str:
    """Return the name under which a record is kept: time, kind, and the start of the digest of its bytes."""
    kind = getattr(record, "kind", "record")
    return f"{record.created:%Y%m%dT%H%M%S}-{kind}-{sha256_of(dump(record))[7:23]}.json"


RECORD_NAME: Final = re.compile(r"\d{8}T\d{6}-[a-z]+-[0-9a-f]{16}\.json")
"""What `file_name` returns."""


def is_named_after(name: str, raw: bytes) -> bool:
    """Whether a record's bytes are those that its file was named after."""
    return name.removesuffix(".json").rpartition("-")[2] == sha256_of(raw)[7:23]

"""Jobs as plain data: what an executor is given and what it gives back, written to JSON and sent to another machine.

A document is sealed: its first member is the digest of all bytes after it, so that one that was cut off or changed is
never taken for a result.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from assay.errors import StoreError
from assay.evidence.record import Moment
from assay.evidence.suite import HarnessResult
from assay.foundation.digest import digest_of, sha256_of
from assay.foundation.foreign import DEPTH, ITEMS, ForeignError, read_json
from assay.foundation.strict import Value

__all__ = [
    "COMPLETE",
    "MAX_BYTES",
    "Bind",
    "DevicesWanted",
    "JobLimits",
    "JobResult",
    "LogReference",
    "Place",
    "ProbeJob",
    "RunEnd",
    "Sealed",
    "seal",
    "unseal",
]

MAX_BYTES: Final = 32 << 20
_SEAL: Final = re.compile(rb'\{"checksum":"(sha256:[0-9a-f]{64})",')

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
RunEnd = Literal[
    "finished",
    "killed",
    "out_of_memory",
    "timed_out",
    "engine_lost",
    "no_python",
    "failed",
    "stopped",
    "unfinished",
]
"""How a run ended; `unfinished`: it had not ended when this was written."""


COMPLETE: Final[frozenset[RunEnd]] = frozenset({"finished", "timed_out", "out_of_memory", "failed", "no_python"})
"""Ends that are the job's own; after any other, what ran it went away, and it is run again."""


class Bind(Value):
    """A folder of the machine on which it runs, inside (containers need an engine there, or a shared folder)."""

    source: str
    target: str
    read_only: bool = True


class JobLimits(Value):
    """How far a run may go."""

    memory_bytes: int | None = None
    """None: as much as the machine has."""
    pids: int = 16384
    shm_bytes: int = 8 << 30
    seconds: float = 3600.0
    """For the whole run; each probe has its own limit besides."""


class Place(Value):
    """Something that can be probed."""

    reference: str
    """An image reference, or `local`."""
    digest: str | None = None
    """`sha256:...` of the image's manifest or configuration; of the installed distributions for `local`."""


class DevicesWanted(Value):
    """The GPUs that a run gets."""

    count: int = Field(default=0, ge=0)
    names: tuple[str, ...] = ()
    """Indexes or UUIDs of those leased for it on the machine where it runs; none: any `count` of them."""
    model: str = ""
    """The product that a pool has to give, as its engine calls it; empty: any."""


class Sealed(Value):
    """A document with its checksum in front."""

    checksum: str = ""
    """Digest of all bytes of the document that follow the comma after it; set when the document is written."""


class ProbeJob(Sealed):
    """One run of probes in one place."""

    schema_version: Literal[1] = 1
    kind: Literal["probe"] = "probe"
    run: str
    """The run it belongs to: the name of a folder in build_logs/."""
    attempt: int = Field(default=1, ge=1)
    place: Place
    suite: Digest
    """Digest over the probe programs."""
    features: tuple[str, ...]
    """What is probed, prerequisites first; none: devices and packages are read, and nothing is probed."""
    devices: DevicesWanted = DevicesWanted()
    limits: JobLimits = JobLimits()
    mounts: tuple[Bind, ...] = ()
    env: dict[str, str] = {}
    """Laid over the environment there."""
    warm: bool = True
    """Probes that allow it run in a fork of a process that has imported torch."""
    keep_cache: bool = True
    """Keep what was compiled at run time for the next run in the same place on the same kind of GPU."""
    sabotage: dict[str, str] = {}
    """Feature -> kind of damage."""
    seed: int = 0

    @property
    def digest(self) -> str:
        """The digest of the whole job."""
        return digest_of(self.model_dump(mode="json", exclude={"checksum"}))

    @property
    def name(self) -> str:
        """The same for the same job and attempt, so that it is never submitted twice."""
        return f"{self.run}-{self.digest[7:19]}-{self.attempt}"


class LogReference(Value):
    """A log by its content; the bytes travel beside the document."""

    digest: Digest
    bytes: int


class JobResult(Sealed):
    """What a run left behind."""

    schema_version: Literal[1] = 1
    job: Digest
    """Digest of the job."""
    executor: str
    ended: RunEnd
    message: str = ""
    """What went wrong, for people; empty if it finished."""
    harness: HarnessResult | None = None
    """The documents of the probes, how each ended, and devices and packages as read there, as far as it came."""
    unreadable: str = ""
    """Why the harness's document could not be read."""
    log: LogReference | None = None
    """What the harness and whatever surrounds it wrote."""
    seconds: float = 0.0
    """Wall time, the start and end of what surrounds it included."""
    machine: str = ""
    """The name of the machine, where it was another one than that of assay."""
    written: Moment | None = None
    """When this was written, by the clock of the machine where it ran; null in older documents."""


Document = TypeVar("Document", bound=Sealed)


def seal(document: Sealed) -> bytes:
    """Return the document as JSON with its checksum in front."""
    rest = document.model_dump_json(indent=1, exclude={"checksum"}).encode()[1:] + b"\n"
    return b'{"checksum":"' + sha256_of(rest).encode() + b'",' + rest


def unseal(data: bytes, kind: type[Document], *, source: str) -> Document:
    """Read a sealed document back.

    Raises:
        StoreError: it was cut off or changed, or is not a document of this kind and version.
    """
    found = _SEAL.match(data)
    if found is None or len(data) > MAX_BYTES:
        raise StoreError(f"{source} is not a sealed job document", hint="run the job again")
    rest = data[found.end() :]
    if sha256_of(rest) != found[1].decode():
        raise StoreError(f"{source} was cut off or changed after it was written", hint="fetch it or run the job again")
    try:
        # What the harness wrote was read within narrower bounds, and stands some levels deeper here.
        read_json(body := b"{" + rest, limit=MAX_BYTES, depth=2 * DEPTH, items=2 * ITEMS, constants=True)
        return kind.model_validate_json(body)
    except ForeignError as error:
        raise StoreError(f"{source} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{source} is not a document that this version reads: {where}: {first['msg']}") from error

"""The values of diagnosis: causes, evidence in a log, and answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from assay.foundation.stage import Stage
from assay.foundation.strict import Value

__all__ = [
    "CauseClass",
    "Clues",
    "Diagnosis",
    "DiagnosisReport",
    "Evidence",
    "FailureEntry",
    "FailureKind",
    "Near",
    "Signature",
    "Stage",
    "Via",
]


class CauseClass(StrEnum):
    """What sort of thing has to change for the failure to go away."""

    ARCHITECTURE = "architecture"
    """The binary holds no code for this GPU."""
    ABI = "abi"
    """Two binaries were built against different versions of each other."""
    MISSING_LIBRARY = "missing-library"
    TOOLKIT = "toolkit"
    """nvcc, ptxas, Triton or a compiler is missing, too old, or does not fit."""
    HARDWARE_LIMIT = "hardware-limit"
    """The GPU lacks what the kernel needs; no version of the software changes that."""
    FRAMEWORK_GAP = "framework-gap"
    """The software does not handle this GPU or model yet, or any more."""
    DRIVER = "driver"
    RESOLVE = "resolve"
    """The versions asked for do not exist, cannot be reached, or exclude each other."""
    CAPACITY = "capacity"
    """Memory, disk or another finite thing ran out."""
    NUMERIC = "numeric"
    ENVIRONMENT = "environment"
    """The machine or the container around it: no GPU given, no network, no permission."""


class FailureKind(StrEnum):
    """How much a match explains; the order is that of preference."""

    CAUSE = "cause"
    """Names one cause."""
    GENERAL = "general"
    """Names a family; gives way to a `cause` that matches the same line."""
    SYMPTOM = "symptom"
    """An effect that many causes have; told as a cause only where none is found."""
    WRAPPER = "wrapper"
    """Says only that something inside failed."""


class Signature(Value):
    """One way in which an entry shows in a log.

    `anchors` are literal strings, at least one of which stands in every line that `regex` matches: the log is searched
    for them, and the expression is tried only around their places. With `before` or `after` the expression sees that
    many neighbouring lines as well, prefixes of loggers taken off, joined by newlines.
    """

    anchors: tuple[str, ...] = Field(min_length=1)
    regex: str
    before: int = Field(default=0, ge=0, le=40)
    after: int = Field(default=0, ge=0, le=40)


class FailureEntry(Value):
    """One cause of failure that is known, as written in knowledge/failures/."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    cause_class: CauseClass = Field(alias="class")
    stage: Stage
    kind: FailureKind = FailureKind.CAUSE
    signatures: tuple[Signature, ...] = Field(min_length=1)
    cause: str
    """May hold `{name}` for named groups of the expressions."""
    fix: str
    change: str = ""
    """The change of the matrix that fixes the failure, if there is one."""
    axes: tuple[str, ...] = ()
    """Axes of the matrix (or packages) that this cause depends on, most telling first."""
    inconclusive: bool = False
    """Something beside the image made the run fail, on this machine at that time: it says nothing about the image."""
    confidence: float | None = Field(default=None, gt=0, le=1)
    gives_way_to: tuple[str, ...] = ()
    """Entries that explain this one where they are found as well."""
    level: Literal["warning", "info"] = "warning"
    """The mildest log level at which a line still counts."""
    sources: tuple[str, ...] = Field(min_length=1)
    date: str
    """When the sources were read, or the message was seen."""
    evidence: str = "seen"
    examples: tuple[str, ...] = Field(min_length=1)
    near_misses: tuple[str, ...] = Field(min_length=1)


class Evidence(Value):
    """A line of the log, cleaned of colours and control characters and cut to a readable length."""

    line: int
    """Counted from 1 by newlines."""
    text: str


class Via(Value):
    """A wrapper or symptom that was peeled off on the way to the cause."""

    id: str
    line: int
    text: str


class Diagnosis(Value):
    """One cause, and why it is believed."""

    cause: str
    """The entry's id, or `unknown`."""
    cause_class: CauseClass | None
    stage: Stage | None
    kind: FailureKind | None
    confidence: float = Field(ge=0, le=1)
    summary: str
    fix: str
    change: str = ""
    axes: tuple[str, ...] = ()
    inconclusive: bool = False
    """The run says nothing about the image."""
    sources: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    count: int = 0
    """How many lines say so; counting ends at `assay.diagnose.SATURATED`."""
    captured: dict[str, str] = {}
    via: tuple[Via, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the library has an entry for it that is more than a wrapper."""
        return self.cause != "unknown" and self.kind is not FailureKind.WRAPPER

    @property
    def certainty(self) -> str:
        """The confidence in a word: `high`, `medium` or `low`."""
        return "high" if self.confidence >= 0.8 else "medium" if self.confidence >= 0.6 else "low"


class Near(Value):
    """An entry that resembles a failure of no known cause."""

    id: str
    cause: str
    lacks: str
    """Why it does not fit."""


class Clues(Value):
    """What helps where no cause is known."""

    first: Evidence | None = None
    """The first error in time, of the innermost process."""
    versions: dict[str, str] = {}
    """Versions that the log itself names."""
    cards: tuple[str, ...] = ()
    """GPUs and architectures that the log itself names."""
    nearest: tuple[Near, ...] = ()
    search: str = ""
    """Words to search an issue tracker for."""


class DiagnosisReport(Value):
    """The diagnosis of one log."""

    diagnoses: tuple[Diagnosis, ...]
    """Most likely first; independent causes all stand here. Empty where nothing in the log looks like a failure."""
    telling: tuple[Evidence, ...] = ()
    """The lines that look most like a failure, in the order of the log."""
    clues: Clues | None = None
    """Only where something failed for a reason that is not known, or not known for certain."""
    lines: int
    bytes: int

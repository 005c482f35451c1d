"""The exceptions of assay, one tree, divided by who must act.

Failures of what is being tested (a build that breaks, a probe that crashes) are values, never exceptions:
an exception means that assay could not find out. Each class carries the exit code of the command line.

    AssayError                      1
    +-- UsageError                  2   the command line asks for something that does not exist
    +-- QuestionError               2   what was asked about is not there or cannot be read: there is no verdict
    +-- ConfigError                 2   matrix.yaml or an image.yaml is wrong; all problems at once
    +-- NothingSelected             3   the selection is empty
    +-- EngineError                 4   the container engine is missing or failed
    |   +-- EngineMissing           4   no engine answers
    |   +-- GpuMissing              4   no GPU can be given to a container
    +-- RegistryError               5   a registry refused or failed
    |   +-- ManifestMismatch        5   bytes and digest do not belong together
    |   +-- RegistryBroken          5   it keeps failing at reading one thing
    |   +-- RegistryContent         5   what it has there is not what it is called, or too large
    |   +-- TagImmutable            5   it lets nobody move a tag
    +-- PolicyRefused               6   the evidence does not allow it
    |   +-- EvidenceError           6   evidence is damaged, foreign or badly signed
    +-- PackageIndexError           1   a package index refused, failed, or lacks the file
    +-- WheelError                  1   a wheel or shared object cannot be read
    +-- ToolError                   1   a program that assay runs failed
    |   +-- ToolTimedOut            1   it did not end in time
    |   +-- SourceBroken            1   a source does not compile
    +-- StoreError                  1   build_logs/ cannot be read or written, or is in use
    +-- OutputError                 1   standard output is closed or cannot be written
    +-- Interrupted               130   Ctrl-C
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AssayError",
    "ConfigError",
    "EngineError",
    "EngineMissing",
    "EvidenceError",
    "GpuMissing",
    "Interrupted",
    "ManifestMismatch",
    "NothingSelected",
    "OutputError",
    "PackageIndexError",
    "PolicyRefused",
    "Problem",
    "QuestionError",
    "RegistryBroken",
    "RegistryContent",
    "RegistryError",
    "SourceBroken",
    "StoreError",
    "TagImmutable",
    "ToolError",
    "ToolTimedOut",
    "UsageError",
    "WheelError",
]


class AssayError(Exception):
    """The result is unknown, because a required fact could not be determined.

    `message` says what failed and for what; `hint` says what to try next, if anything is known.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class UsageError(AssayError):
    """The command line names something that does not exist or does not fit together."""

    exit_code = 2


class QuestionError(AssayError):
    """What was asked about is not there, or cannot be read: that is not a verdict."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One thing wrong in a file; line and column count from 1, 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0
    message: str

    def __str__(self) -> str:
        where = self.file if self.line == 0 else f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.message}"


class ConfigError(AssayError):
    """A configuration file is wrong; holds every problem found, in reading order."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], *, hint: str | None = None) -> None:
        self.problems: Sequence[Problem] = tuple(sorted(problems))
        count = len(self.problems)
        head = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        super().__init__("\n".join([head + ":", *(f"  {problem}" for problem in self.problems)]), hint=hint)


class NothingSelected(AssayError):
    """The selection matches no cell."""

    exit_code = 3


class EngineError(AssayError):
    """The container engine failed at something that is not the fault of what was run in it."""

    exit_code = 4


class EngineMissing(EngineError):
    """No container engine answers."""


class GpuMissing(EngineError):
    """No GPU can be given to a container or process."""


class RegistryError(AssayError):
    """A registry refused, failed or answered nonsense."""

    exit_code = 5


class ManifestMismatch(RegistryError):
    """The bytes a registry sent do not hash to the digest they were asked by."""


class RegistryBroken(RegistryError):
    """The registry answers, but keeps failing (500) at reading one thing: what it keeps of it may be half written."""


class RegistryContent(RegistryError):
    """What a registry has under a name is not what it is called, or too large to be read; asking again is of no use."""


class TagImmutable(RegistryError):
    """A rule of the registry keeps a tag at what it names."""


class PolicyRefused(AssayError):
    """The recorded evidence does not meet the policy; the message lists every reason."""

    exit_code = 6


class EvidenceError(PolicyRefused):
    """A piece of evidence is damaged, speaks of something else, or its signature does not hold."""


class PackageIndexError(AssayError):
    """A package index could not be reached, refused, or lacks what was asked for."""


class WheelError(AssayError):
    """A wheel, archive member or shared object is damaged or not what it claims to be."""


class ToolError(AssayError):
    """A program that assay runs (uv, docker buildx, ...) failed in a way that says nothing about the cell."""


class ToolTimedOut(ToolError):
    """A program that assay runs did not end in time, and was stopped."""


class SourceBroken(ToolError):
    """A source does not compile, which says something about the cell; `log` has all that the build printed."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class StoreError(AssayError):
    """The record store or a run folder cannot be read or written, or another run holds it."""


class OutputError(AssayError):
    """Standard output is closed, or the disk behind it is full."""


class Interrupted(AssayError):
    """The user asked to stop."""

    exit_code = 130

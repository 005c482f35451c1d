"""What an audit says: findings, predictions and the verdict over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.foundation.strict import Value

__all__ = ["CPU_TORCH", "AuditReport", "CodeRow", "Finding", "Prediction", "Suggestion", "titled", "verdict_of"]

_TROUBLE: Final = frozenset({Outcome.WRONG, Outcome.BROKEN})
CPU_TORCH: Final = "abi-cpu-torch"
"""The known failure that a torch without CUDA leads to."""


class Suggestion(Value):
    """A change that makes a finding go away, as far as known facts tell."""

    package: str
    versions: tuple[str, ...]
    """Nearest first."""
    why: str = ""


class Finding(Value):
    """One thing the audit found."""

    rule: str
    severity: Severity
    package: str = ""
    """`name version` of the wheel."""
    library: str = ""
    """Path inside the wheel or image."""
    target: str = ""
    """For rules about GPU code: `sm_120`."""
    message: str
    symbols: tuple[str, ...] = ()
    """Mangled, the first ones."""
    symbols_count: int = 0
    cause: str | None = None
    """An entry of knowledge/failures/: what would be seen if it were built all the same."""
    suggestions: tuple[Suggestion, ...] = ()
    fix: str = ""
    constraint: str = ""
    """A constraint for the recipe with which a resolver takes other versions: `nvidia-cuda-nvcc==13.0.*`."""


class Prediction(Value):
    """What one feature is expected to do on one target; never to be mixed with what a probe measured."""

    target: str
    feature: str
    outcome: Outcome
    verdict: Verdict
    reason: str
    cause: str | None = None
    asked: bool = False
    """Whether a wheel that was asked about can give it."""


class CodeRow(Value):
    """How the GPU code of one library fits one target."""

    package: str
    library: str
    target: str
    runs: Literal["sass", "ptx", "partial", "none", "unknown"]
    sass: int
    """Containers with machine code for the target."""
    ptx: int
    """Containers whose PTX the driver can compile for it."""
    none: int
    """Containers with neither."""
    targets: tuple[str, ...]
    """What the library has: `sm_90a`, `compute_80 (PTX 8.7)`."""
    needs_cuda: str | None = None
    """The CUDA version the driver must support for the PTX: `12.8`."""
    kernels_without: tuple[str, ...] = ()
    """Some kernels that have no code for the target, mangled."""
    used: bool = True
    """Whether its package loads the library there at all, as far as known."""


def titled(target: str, titles: Mapping[str, str]) -> str:
    """Return a target as people read it: `sm_120 (RTX 5090)`."""
    title = titles.get(target)
    return f"{target} ({title})" if title else target


class AuditReport(Value):
    """Everything one audit says of one cell, image or set of wheels."""

    schema_version: Literal[1] = 1
    subject: Literal["wheels", "image"]
    name: str
    """Cell id, image reference, or the wheels' names."""
    python: str
    base: str
    targets: tuple[str, ...]
    verdict: Verdict
    findings: tuple[Finding, ...]
    predictions: tuple[Prediction, ...] = ()
    code: tuple[CodeRow, ...] = ()
    packages: dict[str, str] = {}
    """Distribution -> version."""
    unread: tuple[str, ...] = ()
    """Wheels of which only names or metadata were read."""
    asked: tuple[str, ...] = ()
    """`name version` of the wheels that were asked about; empty: all alike."""
    assumed: tuple[str, ...] = ()
    """What was not said and was taken from the wheels themselves, in words."""
    platform: str = "x86_64"
    titles: dict[str, str] = {}
    """Target -> the card as people name it."""
    code_unread: tuple[str, ...] = ()
    """Wheels that were asked about and may have GPU code of which nothing was read."""
    fetched_bytes: int = 0
    """Of its wheels, over the wire; of what several reports have in common, told in the first."""
    seconds: float = 0.0

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings of one severity."""
        return [finding for finding in self.findings if finding.severity is severity]

    def verdict_on(self, target: str) -> Verdict:
        """Return the verdict for one target: over what concerns it and what concerns every GPU."""
        return verdict_of(
            (finding for finding in self.findings if finding.target in ("", target)),
            (one for one in self.predictions if one.target == target),
        )

    @property
    def troubled(self) -> tuple[Prediction, ...]:
        """What a wheel that was asked about does wrongly or not at all, as predicted."""
        return tuple(one for one in self.predictions if one.asked and one.outcome in _TROUBLE)

    def shown(self, target: str) -> str:
        """Return a target as people read it: `sm_120 (RTX 5090)`."""
        return titled(target, self.titles)

    @property
    def summary(self) -> tuple[str, ...]:
        """The findings that decided the verdict, one line each."""
        worst = self.of(Severity.ERROR) or self.of(Severity.WARNING)
        return tuple(f"{item.rule} {item.package}: {item.message}" for item in worst)

    def predicted(self) -> dict[str, dict[str, Outcome]]:
        """Return target -> feature -> predicted outcome."""
        found: dict[str, dict[str, Outcome]] = {}
        for item in self.predictions:
            found.setdefault(item.target, {})[item.feature] = item.outcome
        return found


def verdict_of(findings: Iterable[Finding], predictions: Iterable[Prediction] = ()) -> Verdict:
    """Return `fail` with any error, `warn` with any warning, else `ok`.

    Something wrong or broken in a wheel that was asked about is a warning too: nobody reads on below an `ok`.
    """
    severities = {finding.severity for finding in findings}
    if Severity.ERROR in severities:
        return Verdict.FAIL
    if Severity.WARNING in severities or any(one.asked and one.outcome in _TROUBLE for one in predictions):
        return Verdict.WARN
    return Verdict.OK

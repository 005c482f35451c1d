"""What the pages show, as values: results by source, cells, claims, serving series."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

from assay.evidence.claims import Claim
from assay.evidence.ranking import Basis, strength
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value

__all__ = [
    "SERVES",
    "About",
    "Audit",
    "Build",
    "Cause",
    "CellPage",
    "Chart",
    "Event",
    "LockPage",
    "LogExcerpt",
    "Result",
    "ShownLayer",
    "Site",
    "Source",
    "Wheel",
    "is_environment",
]


SERVES: Final = "serves"
"""The feature that a start of the server measures."""


class Source(StrEnum):
    """Where a statement about a feature comes from, strongest first; the three are never mixed."""

    MEASURED = "measured"
    """A probe ran on such a GPU."""
    PREDICTED = "predicted"
    """The audit read the binaries; nothing ran."""
    CLAIMED = "claimed"
    """Somebody wrote so."""


_BASIS: Final[dict[Source, Basis]] = {Source.MEASURED: "record", Source.PREDICTED: "audit", Source.CLAIMED: "claim"}


class Result(Value):
    """One statement about one feature of a cell on a target."""

    feature: str
    target: str
    source: Source
    outcome: Outcome
    reason: str = ""
    cause: str | None = None
    when: datetime | None = None
    run: str = ""
    seconds: float = 0.0
    metrics: dict[str, bool | int | float | str] = {}
    log: str | None = None
    note: str = ""
    """GPU and driver of a measurement; source and date of a claim."""
    link: str = ""
    against: tuple[str, ...] = ()
    """Of a measurement: the weaker statements that say the opposite."""

    @property
    def strength(self) -> int:
        """The rank of the source; less is stronger. A probe that did not run ranks below predictions and claims."""
        return strength("nothing" if self.outcome is Outcome.NOT_RUN else _BASIS[self.source])

    @property
    def basis(self) -> str:
        """The word below the outcome."""
        return "nothing measured" if self.outcome is Outcome.NOT_RUN else str(self.source)

    @property
    def letter(self) -> str:
        """One character for the basis, for the data of the matrix page."""
        return self.basis[0]


class ShownLayer(Value):
    """One layer of an image."""

    bytes: int
    made_by: str


class Build(Value):
    """The newest build of a cell."""

    status: str
    reason: str = ""
    cause: str | None = None
    when: datetime
    run: str
    seconds: float = 0.0
    size: int | None = None
    digest: str | None = None
    layers: tuple[ShownLayer, ...] = ()
    log: str | None = None


class Audit(Value):
    """The newest audit of a cell's wheels, or of its image."""

    subject: str
    verdict: str
    """The worst for the GPUs that the cell is for."""
    verdicts: dict[str, str] = {}
    """target -> the verdict there."""
    when: datetime
    run: str
    summary: tuple[str, ...] = ()
    findings: tuple[dict[str, str], ...] = ()
    """Of the audit's own document, each with whatever fields it has, as text."""


class Wheel(Value):
    """One file of a cell's lock."""

    name: str
    version: str
    index: str
    sha256: str
    size: int | None = None


class LockPage(Value):
    """A cell's lock."""

    digest: str
    python: str
    base_digest: str = ""
    as_of: str = ""
    """Only files uploaded before this date were considered."""
    nightlies: dict[str, str] = {}
    """Distribution -> build date."""
    wheels: tuple[Wheel, ...]


class Cause(Value):
    """A known failure, as its page shows it."""

    cause: str
    fix: str
    sources: tuple[str, ...] = ()
    cause_class: str = ""


class LogExcerpt(Value):
    """The end of a log, cleaned."""

    path: str
    lines: tuple[str, ...]
    cut: bool


class Event(Value):
    """A measurement in time, for the history of a feature."""

    when: datetime
    feature: str
    cell: str
    target: str
    run: str
    outcome: Outcome
    digest: str = ""
    """Of the image that was measured; empty for an environment that is not an image."""


class Series(Value):
    """Points of one line: (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


class Chart(Value):
    """A plot of serving measurements."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]


def is_environment(cell: str) -> bool:
    """Whether a cell is the environment of one machine and no image: `local`, or `local-` and a digest."""
    return cell.partition("-")[0] == "local"


class CellPage(Value):
    """Everything known of a cell."""

    id: str
    image: str
    engine: str
    kind: str
    targets: tuple[str, ...]
    own: tuple[str, ...] = ()
    """Those of them that the cell is for; none: it is not in the matrix."""
    point: dict[str, str] = {}
    base: str = ""
    reason: str = ""
    packages: dict[str, str] = {}
    """Read inside the image by its newest record, or locked where nothing was read."""
    installed: bool = False
    """Whether `packages` were read inside the image."""
    lock: LockPage | None = None
    build: Build | None = None
    audits: tuple[Audit, ...] = ()
    results: tuple[Result, ...] = ()
    servers: tuple[str, ...] = ()
    """One line for each start of a server."""
    charts: tuple[Chart, ...] = ()
    logs: tuple[LogExcerpt, ...] = ()
    devices: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """What measures it again."""
    run: tuple[str, ...] = ()
    """What serves a model with it."""
    speeds: dict[str, str] = {}
    """Target -> the best throughput that was measured there."""

    def best(self, feature: str, target: str) -> Result | None:
        """Return the strongest statement about a feature on a target: measured, else predicted, else claimed."""
        found = [r for r in self.results if r.feature == feature and r.target in {target, ""}]
        return min(found, key=lambda r: r.strength) if found else None

    @property
    def shown(self) -> tuple[str, ...]:
        """The targets that it is for, or on which it was measured; what is only predicted of others is not a row."""
        ran = {result.target for result in self.results if result.source is Source.MEASURED}
        return tuple(one for one in self.targets if not self.own or one in self.own or one in ran)


class About(Value):
    """What a feature is, for people who meet its name for the first time."""

    what: str = ""
    why: str = ""
    tested: str = ""
    """How the probe tests it."""
    off: dict[str, str] = {}
    """Engine -> the flags that switch it off."""


class Site(Value):
    """All pages."""

    title: str
    made: datetime
    cells: tuple[CellPage, ...]
    features: tuple[str, ...]
    targets: tuple[str, ...]
    cards: dict[str, str] = {}
    """Target -> the names of its cards, in the order of the matrix."""
    about: dict[str, About] = {}
    """Feature -> what it is."""
    history: tuple[Event, ...] = ()
    claims: tuple[Claim, ...] = ()
    causes: dict[str, Cause] = {}
    runs: tuple[str, ...] = ()
    """Runs with measurements or builds, oldest first."""
    run_results: dict[str, dict[str, dict[str, str]]] = {}
    """Run -> `cell` or `cell on target` -> feature, `build`, `size`, ... -> outcome, or a number with its unit."""

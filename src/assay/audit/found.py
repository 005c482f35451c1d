"""What `assay find` writes: each release that was tried, why it fails, and the first that fits. Pure."""

from __future__ import annotations

from typing import Literal

from assay.audit.findings import titled
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value

__all__ = ["Attempt", "FindDocument", "MissingFeature", "Search"]


class MissingFeature(Value):
    """A feature that is needed and not predicted to work."""

    target: str
    feature: str
    outcome: Outcome | None
    """None: no package of the set provides it."""
    reason: str


class Attempt(Value):
    """One release with one Python and one CUDA build."""

    version: str
    python: str = ""
    variant: str = ""
    """The CUDA build that was asked for, where the index has several: `torch 2.14.0+cu128`."""
    outcome: Literal["fits", "fails", "no_lock", "no_wheel", "not_read"]
    """`fits`: it locks, the audit finds no error, and all needs are predicted to work; `fails`: it locks, and one of
    these is not so; `no_lock`: no set of versions meets its requirements; `no_wheel`: it has no wheel for the platform;
    `not_read`: its wheels could not be read, so that nothing is known."""
    reasons: tuple[str, ...] = ()
    """Why it does not fit, the weightiest first; for `fits` the warnings."""
    fixes: tuple[str, ...] = ()
    """What would have to change, as far as known."""
    lacking: tuple[MissingFeature, ...] = ()
    constraints: tuple[str, ...] = ()
    """What the resolver was given beside the requirements, because the audit of its first answer asked for it."""
    packages: dict[str, str] = {}
    """Distribution -> version of all that would be installed."""
    main: tuple[str, ...] = ()
    """Of these the ones that were asked for, and the ones that give features."""
    features: dict[str, dict[str, Outcome]] = {}
    """Target -> feature -> predicted outcome."""
    fetched_bytes: int = 0
    """Read of wheels over the wire."""

    @property
    def distance(self) -> tuple[int, int]:
        """Return how far it is from fitting: the nearest attempt has the least."""
        kind = {"fits": 0, "fails": 1, "not_read": 2, "no_lock": 3, "no_wheel": 4}[self.outcome]
        return kind, len(self.lacking) or len(self.reasons)


class Search(Value):
    """The search for one platform."""

    asked: str
    """The requirement: `my-ext>=1.5`."""
    beside: tuple[str, ...] = ()
    """What else has to be installed."""
    needs: tuple[str, ...] = ()
    platform: str
    """`x86_64` or `aarch64`."""
    targets: tuple[str, ...]
    titles: dict[str, str] = {}
    """Target -> the card as people name it."""
    base: str
    attempts: tuple[Attempt, ...]
    """In the order in which they were tried, newest release first."""
    untried: int = 0
    """Older releases that were not tried."""
    seconds: float = 0.0

    @property
    def found(self) -> Attempt | None:
        """Return the first attempt that fits."""
        return next((one for one in self.attempts if one.outcome == "fits"), None)

    @property
    def nearest(self) -> Attempt | None:
        """Return what is nearest to fitting, newest first among equals; None if nothing was tried."""
        return min(self.attempts, key=lambda one: one.distance, default=None)

    def shown(self, target: str) -> str:
        """Return a target as people read it: `sm_120 (RTX 5090)`."""
        return titled(target, self.titles)


class FindDocument(Value):
    """All answers of one call."""

    schema_version: Literal[1] = 1
    searches: tuple[Search, ...]
    """One for each platform of the cards."""

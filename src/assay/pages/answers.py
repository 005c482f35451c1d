"""What the first screen says: for each GPU the images that serve there, the best first. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from packaging.version import InvalidVersion, Version

from assay.engines.table import release_in
from assay.evidence.ranking import strength
from assay.foundation.outcome import Outcome
from assay.pages.model import SERVES, CellPage, Result, Site, is_environment

__all__ = ["GpuAnswer", "ImageAnswer", "answers", "is_apart"]

_BAD: Final = frozenset({Outcome.BROKEN, Outcome.WRONG, Outcome.UNSUPPORTED})
_MOST: Final = 60
"""Images shown for one GPU; the matrix has all."""


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """One image on one GPU."""

    page: CellPage
    version: str
    """Of the engine."""
    result: Result | None
    """Whether its server runs there; None: nothing is known."""
    speed: str
    works: int
    """Features that work there, measured or predicted."""
    command: str

    @property
    def fails(self) -> bool:
        """Whether its server is known not to run."""
        return self.result is not None and self.result.outcome in _BAD

    @property
    def order(self) -> tuple[object, ...]:
        """The best sorts first."""
        known = strength("nothing") if self.result is None else self.result.strength
        return (self.fails, known, tuple(-part for part in _release(self.version)), self.page.id)


@dataclass(frozen=True, kw_only=True)
class GpuAnswer:
    """Everything for one GPU."""

    target: str
    title: str
    images: tuple[ImageAnswer, ...]
    more: int

    @property
    def says(self) -> str:
        """The answer in one sentence."""
        best = self.images[0] if self.images else None
        if best is None or best.fails:
            return "No image is known to serve on it."
        name = f"{best.page.engine} {best.version}".strip()
        if best.result is None:
            return "Nothing was measured or predicted on it yet."
        words = {
            "measured": f"Yes, measured with {name}.",
            "predicted": f"Predicted: yes, with {name}. Not measured yet.",
        }
        return words.get(best.result.basis, f"Claimed, with {name}. Neither measured nor predicted.")


def is_apart(page: CellPage) -> bool:
    """Whether a cell is not an image for users: a control, or the environment of one machine."""
    return page.kind == "control" or is_environment(page.id)


def answers(site: Site) -> list[GpuAnswer]:
    """Return the answers for each GPU, in the order of the matrix."""
    titles = {**site.cards, **{target: target for target in site.targets if target not in site.cards}}
    served = [page for page in site.cells if page.engine != "none" and not is_apart(page)]
    found = []
    for target, title in titles.items():
        images = sorted((_image(page, target) for page in served if target in page.targets), key=lambda one: one.order)
        if images:
            more = max(0, len(images) - _MOST)
            found.append(GpuAnswer(target=target, title=title, images=tuple(images[:_MOST]), more=more))
    return found


def _image(page: CellPage, target: str) -> ImageAnswer:
    stated = [page.best(name, target) for name in (SERVES, f"{page.engine}-engine")]
    known = [one for one in stated if one is not None and one.outcome is not Outcome.NOT_RUN]
    return ImageAnswer(
        page=page,
        version=(page.point.get(page.engine) or release_in(page.packages, page.engine)).removeprefix("src."),
        result=min(known, key=lambda one: one.strength, default=None),
        speed=page.speeds.get(target, ""),
        works=sum(one.outcome is Outcome.WORKS for one in _best(page, target)),
        command=f"assay up MODEL --image {page.id}",
    )


def _best(page: CellPage, target: str) -> Iterable[Result]:
    best: dict[str, Result] = {}
    for result in page.results:
        there = best.get(result.feature)
        if result.target in {target, ""} and (there is None or result.strength < there.strength):
            best[result.feature] = result
    return best.values()


def _release(version: str) -> tuple[int, ...]:
    try:
        return (*Version(version).release, 0, 0, 0)[:3]
    except InvalidVersion:
        return (0, 0, 0)

"""What differs between a cell that fails and the nearest one that works, and which difference probably matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from assay.foundation.strict import Value

__all__ = ["CellFacts", "Contrast", "Difference", "contrast"]


class CellFacts(Value):
    """A cell as far as a comparison needs it: its id and what it is made of (axes, or packages read inside)."""

    cell: str
    target: str = ""
    parts: dict[str, str]


class Difference(Value):
    """One thing that is not the same."""

    name: str
    here: str
    there: str
    implicated: bool
    """Whether the cause is known to depend on it."""


class Contrast(Value):
    """A failing cell beside the nearest that works."""

    cell: str
    works: str
    differences: tuple[Difference, ...]
    suggestion: str
    """The change of the matrix that would make this cell like the one that works."""


def _key(name: str) -> str:
    return name.lower().replace("-", "_")


def _differences(here: Mapping[str, str], there: Mapping[str, str], axes: Sequence[str]) -> tuple[Difference, ...]:
    ranks = {_key(axis): rank for rank, axis in enumerate(axes)}
    mine = {_key(name): value for name, value in here.items()}
    theirs = {_key(name): value for name, value in there.items()}
    found = [
        Difference(name=name, here=mine.get(name) or "none", there=theirs.get(name) or "none", implicated=name in ranks)
        for name in {*mine, *theirs}
        if (mine.get(name) or "") != (theirs.get(name) or "")
    ]
    return tuple(sorted(found, key=lambda d: (ranks.get(d.name, len(ranks)), d.name)))


def contrast(failing: CellFacts, working: Iterable[CellFacts], *, axes: Sequence[str] = ()) -> Contrast | None:
    """Return the differences from the nearest working cell on the same target; None if there is none.

    `axes` are what the cause is known to depend on. Near means: few differences, and among equals the one that
    differs in what the cause depends on, because that one shows most.
    """
    candidates = [
        (other, _differences(failing.parts, other.parts, axes))
        for other in working
        if other.cell != failing.cell and (not failing.target or not other.target or failing.target == other.target)
    ]
    candidates = [(other, differences) for other, differences in candidates if differences]
    if not candidates:
        return None
    other, differences = min(
        candidates, key=lambda pair: (not any(d.implicated for d in pair[1]), len(pair[1]), pair[0].cell)
    )
    telling = [d for d in differences if d.implicated] or list(differences)[:3]
    changes = ", ".join(f"{d.name}: {d.here} -> {d.there}" for d in telling)
    return Contrast(
        cell=failing.cell,
        works=other.cell,
        differences=differences,
        suggestion=f"{other.cell} works; take over from it {changes}",
    )

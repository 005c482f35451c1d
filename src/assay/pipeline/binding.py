"""Binds evidence to the name that it is found under: a tag names a cell, a statement names a repository. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay.evidence.policy import Reason, Why
from assay.evidence.reference import Repository, is_loopback
from assay.evidence.statements import EvidenceVerdict
from assay.matrix.cell import oci_tag
from assay.matrix.policy import suffix_of

__all__ = ["ALIAS", "BindingQuestion", "bind", "is_cell_tag", "names_cell"]

ALIAS: Final = re.compile(r"sm([0-9]{2,3}[a-z]?)-([a-z][a-z0-9]*)")
"""A moving tag: target and level."""


@dataclass(frozen=True, kw_only=True)
class BindingQuestion:
    """What is asked of a digest, and where."""

    repository: Repository
    level: str | None = None
    target: str | None = None
    tag: str | None = None
    """A tag's name is a promise of level, target and cell; None promises nothing."""
    published_as: Repository | None = None
    """Where the publisher put it; None: where it is asked for, or what that mirrors."""


def bind(
    verdicts: Sequence[EvidenceVerdict], asked: BindingQuestion
) -> tuple[list[EvidenceVerdict], list[Reason], list[str]]:
    """Return the verdicts that speak of this repository and, for a tag that names a cell, of that cell.

    Where verdicts are there and none does, all are returned with the reason that stands against them; last comes what
    is worth saying.
    """
    kept = list(verdicts)
    reasons: list[Reason] = []
    notes: list[str] = []
    if asked.tag is not None and is_cell_tag(asked.tag) and kept:
        same = [one for one in kept if names_cell(asked.tag, one, any_level=asked.level is not None)]
        if not same:
            cells = ", ".join(sorted({one.cell for one in kept})[:5])
            message = f"the tag {asked.tag} is the name of a cell, and what it names was verified as another: {cells}"
            reasons.append(Reason(why=Why.OTHER_CELL, message=message))
        kept = same or kept
    if kept:
        home = [one for one in kept if any(_same_place(name, asked) for name in one.repositories)]
        names = sorted({name for one in home or kept for name in one.repositories})
        if not home:
            message = (
                f"the evidence speaks of {', '.join(names[:3]) or 'no repository'}, not of {asked.repository}; if that "
                "is where it was published, and this is a copy, say so: --published-as HOST/PATH"
            )
            reasons.append(Reason(why=Why.OTHER_REPOSITORY, message=message))
        elif not any(_same_host(name, asked.repository) for name in names):
            notes.append(f"published as {names[0]}, read from {asked.repository}")
        kept = home or kept
    return kept, reasons, notes


def is_cell_tag(tag: str) -> bool:
    """Whether a tag says by its form that it is a cell's: aliases are not, nor are words such as `latest` or `prod`."""
    return "-" in tag and ALIAS.fullmatch(tag) is None


def names_cell(tag: str, verdict: EvidenceVerdict, *, any_level: bool = False) -> bool:
    """Whether a tag is the immutable tag of a verdict's cell at its level, of any revision.

    Args:
        any_level: the level is asked for by itself, so that the tag need not end in it.
    """
    try:
        own = oci_tag(verdict.cell)
    except ValueError:
        return False
    ending = f"({re.escape(suffix_of(verdict.level))}){'?' if any_level else ''}"
    return re.fullmatch(f"{re.escape(own)}(-r[1-9][0-9]{{0,5}})?{ending}", tag) is not None


def _same_place(name: str, asked: BindingQuestion) -> bool:
    """Whether a statement's repository is the one that is asked, or may be what that mirrors: its path ends alike."""
    if asked.published_as is not None:
        return name == str(asked.published_as)
    path = name.partition("/")[2]
    return bool(path) and f"/{asked.repository.path}".endswith(f"/{path}")


def _same_host(name: str, repository: Repository) -> bool:
    host = name.partition("/")[0]
    return host == repository.host or (is_loopback(host) and is_loopback(repository.host))

"""Verdicts that are kept: what a report rests on, as one digest, and the report as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable
from dataclasses import asdict
from functools import cached_property
from hashlib import blake2b

from pydantic import ValidationError

from assay.audit.audit import Audited
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.installation import Installation
from assay.audit.knowledge import Knowledge
from assay.foundation.strict import Value
from assay.ports.facts_store import FactsStore
from assay.ports.index import PackageIndex
from assay.ports.verdicts import VerdictStore
from assay.wheels.facts import WheelFacts

__all__ = ["KeptVerdict", "Verdicts"]

_SAMPLE = "_ZNK3c106SymInt6sym_neERKS0_"


class KeptVerdict(Value):
    """What is kept of one audit."""

    report: AuditReport
    uncertain: tuple[tuple[str, str], ...] = ()


def _read(data: bytes) -> KeptVerdict | None:
    """Return a verdict that this machine kept; None if it is damaged: the rules are applied again then."""
    try:
        return KeptVerdict.model_validate_json(data)
    except ValidationError:
        return None


class Verdicts:
    """Verdicts by all they rest on: the same question of the same facts is answered without applying a rule.

    Args:
        store: keeps them.
        knowledge: what the rules know.
        facts: what else is known of a distribution is part of a report's suggestions.
        index: facts read in part count for the origins of this index.
        demangle: spells names.
    """

    def __init__(
        self,
        store: VerdictStore,
        *,
        knowledge: Knowledge,
        facts: FactsStore,
        index: PackageIndex,
        demangle: Callable[[str], str],
    ) -> None:
        self._store = store
        self._knowledge = knowledge
        self._facts = facts
        self._index = index
        self._demangle = demangle

    @cached_property
    def _around(self) -> str:
        """All that is the same for every question of one auditor."""
        return json.dumps([self._knowledge.content, self._demangle(_SAMPLE)])

    def key(self, installation: Installation, targets: Iterable[TargetGpu], problems: Iterable[Finding]) -> str:
        """Return the digest of all that a report rests on, but its name."""
        others = [word for wheel in installation.native for word in self._others(wheel)]
        parts = {
            **{name: getattr(installation, name) for name in ("python", "complete", "named", "installed", "machine")},
            **{name: sorted(getattr(installation, name)) for name in ("elsewhere", "overridden", "asked")},
            "base": asdict(installation.base),
            "wheels": [wheel.content for wheel in installation.wheels],
            "targets": [asdict(target) for target in targets],
            "problems": [problem.model_dump(mode="json") for problem in problems],
            "others": others,
            # Which of them count, where any was read in part; a program may have to be asked.
            "origins": sorted(self._index.origins()) if others else [],
        }
        text = self._around + json.dumps(parts, sort_keys=True, default=sorted)
        return blake2b(text.encode(), digest_size=20).hexdigest()

    def _others(self, wheel: WheelFacts) -> list[str]:
        """Return a word for all other wheels of a distribution that are known: they may be suggested."""
        return sorted(word for word in self._facts.kept(wheel.name) if wheel.sha256 not in word)

    def get(self, key: str, *, name: str, readable: Container[str]) -> Audited | None:
        """Return what was said; None if nothing was, or if reading more may make it certain.

        Args:
            key: of the question.
            name: what the report is called.
            readable: sha256 of wheels of which more can be read.
        """
        data = self._store.get(key)
        kept = None if data is None else _read(data)
        if kept is None or any(sha256 in readable for sha256, _ in kept.uncertain):
            return None
        return Audited(report=kept.report.model_copy(update={"name": name}), uncertain=frozenset(kept.uncertain))

    def put(self, key: str, audited: Audited) -> None:
        """Keep what was said."""
        kept = KeptVerdict(report=audited.report, uncertain=tuple(sorted(audited.uncertain)))
        self._store.put(key, kept.model_dump_json(exclude_defaults=True).encode())

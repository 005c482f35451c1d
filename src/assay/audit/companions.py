"""Which packages must have versions that go together, and what does not work where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion

from assay.audit.knowledge import Companion, Consumer
from assay.foundation.versions import fits, parsed

__all__ = ["Mismatch", "mismatches"]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Two packages of a set that do not go together."""

    companion: Companion
    package: str
    pair: str
    """Both with their versions: `nvidia-cuda-nvcc 13.5.37 and nvidia-cuda-runtime 13.0.96`."""
    consumers: tuple[Consumer, ...]
    """Those that are in the set."""
    constraint: str
    """What to put into a recipe so that a resolver takes versions that go together; empty where nothing is known."""

    @property
    def decides(self) -> bool:
        """Whether something in the set does not work for it."""
        return bool(self.consumers) or not self.companion.consumers

    @property
    def features(self) -> frozenset[str]:
        """What does not work."""
        return frozenset(feature for consumer in self.consumers for feature in consumer.features)

    @property
    def consequence(self) -> str:
        """Who in the set suffers, in words."""
        if not self.consumers:
            return "" if self.decides else "; nothing in this set is known to need them to agree"
        return "; " + ", ".join(consumer.package for consumer in self.consumers) + " needs them to agree"


def mismatches(companions: tuple[Companion, ...], versions: Mapping[str, str]) -> Iterator[Mismatch]:
    """Yield the companions of a set (distribution -> version) that do not go together."""
    for rule in companions:
        beside = versions.get(rule.beside)
        for package in rule.packages:
            version = versions.get(package)
            if version is None or beside is None or _together(rule, version, beside):
                continue
            yield Mismatch(
                companion=rule,
                package=package,
                pair=f"{package} {version} and {rule.beside} {beside}",
                consumers=tuple(
                    consumer
                    for consumer in rule.consumers
                    if consumer.package in versions
                    and fits(versions[consumer.package], consumer.versions)
                    and versions.keys().isdisjoint(consumer.unless)
                ),
                constraint=_constraint(rule, package, beside),
            )


def _together(rule: Companion, version: str, beside: str) -> bool:
    try:
        one, other = parsed(version), parsed(beside)
    except InvalidVersion:
        return True
    match rule.agree:
        case "major":
            return one.major == other.major
        case "minor":
            return one.release[:2] == other.release[:2]
        case "version":
            return one.public == other.public
        case None:
            known = [theirs for mine, theirs in rule.pairs.items() if fits(version, mine)]
            return not known or any(fits(beside, theirs) for theirs in known)


def _constraint(rule: Companion, package: str, beside: str) -> str:
    other = parsed(beside)
    minor = ".".join(map(str, other.release[:2]))
    if rule.constraint:
        return rule.constraint.format(major=other.major, next=other.major + 1, minor=minor)
    match rule.agree:
        case "major":
            return f"{package}=={other.major}.*"
        case "minor":
            return f"{package}=={minor}.*"
        case "version":
            return f"{package}=={other.public}"
        case None:
            mine = next((mine for mine, theirs in rule.pairs.items() if fits(beside, theirs)), None)
            return f"{package}{mine}" if mine else ""

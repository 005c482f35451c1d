"""The `policy:` part of matrix.yaml: what must be recorded of an image before a tag may say so.

A level is a promise that a tag makes. The level `verified` is the one that a GPU stands behind, and its name is kept
for that: an audit-only level has another name, which its tags carry (`<cell>-audited`, `sm120-audited`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from assay.foundation.outcome import Verdict
from assay.foundation.strict import Value

__all__ = [
    "ANY",
    "Basis",
    "Level",
    "Policy",
    "Repositories",
    "Requirement",
    "Signatures",
    "alias_of",
    "keeps_its_word",
    "level_of",
    "suffix_of",
]

ANY: Final = "*"
"""Stands for every image in `images`; a named image goes before it."""

VERIFIED: Final = "verified"
MAX_AGE_DAYS: Final = 36_500

Feature = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Target = Annotated[str, StringConstraints(pattern=r"^sm_[0-9]{2,3}[a-z]?$")]
LevelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$")]
Repository = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\s@]+$")]


class Basis(StrEnum):
    """What a level rests on."""

    PROBE = "probe"
    """Probes that ran on a GPU of the target's architecture, in the image as pulled from the registry."""
    AUDIT = "audit"
    """What the wheels show without a GPU; nothing ran."""


class Signatures(StrEnum):
    """Whether the evidence of a level has to be signed."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class Requirement(Value):
    """What one image has to show on one target."""

    works: tuple[Feature, ...] = ()
    """Features whose outcome must be `works`."""
    may_be_unsupported: tuple[Feature, ...] = ()
    """Features that must be `works` or `unsupported`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        twice = set(self.works) & set(self.may_be_unsupported)
        if twice:
            raise ValueError(f"both required to work and allowed to be unsupported: {', '.join(sorted(twice))}")
        return self

    @property
    def features(self) -> tuple[str, ...]:
        """All features that the requirement speaks of."""
        return (*self.works, *self.may_be_unsupported)


class Level(Value):
    """One promise: on what it rests, and what it asks for."""

    basis: Basis = Basis.PROBE
    max_age_days: Annotated[float, Field(gt=0, le=MAX_AGE_DAYS, allow_inf_nan=False)] | None = None
    """A record older than this no longer counts; None sets no limit."""
    audit: Verdict | None = None
    """The worst verdict of the audit that is still allowed; None asks for no audit."""
    signatures: Signatures = Signatures.OPTIONAL
    images: dict[str, dict[Target, Requirement]] = {}
    """image (or `*`) -> target -> requirement. Unlisted images and targets cannot be published."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.basis is Basis.AUDIT:
            if self.audit is None:
                raise ValueError("a level that rests on the audit must name the worst `audit` verdict it allows")
            if any(requirement.features for targets in self.images.values() for requirement in targets.values()):
                raise ValueError("a level that rests on the audit can require no features: nothing ran")
            return self
        if not self.images:
            raise ValueError("a level that rests on probes must list `images`, with what they have to show")
        for image, targets in self.images.items():
            for target, requirement in targets.items():
                if not requirement.works:
                    raise ValueError(
                        f"images.{image}.{target} requires no feature to work, so it would promise nothing"
                    )
        return self

    def requirement(self, image: str, target: str) -> Requirement | None:
        """Return what an image has to show on a target, or None where the level promises nothing."""
        for name in (image, ANY):
            if name in self.images and target in self.images[name]:
                return self.images[name][target]
        return Requirement() if self.basis is Basis.AUDIT and not self.images else None

    def targets(self, image: str) -> tuple[str, ...]:
        """Return the targets that the level names for an image."""
        return tuple(dict.fromkeys(target for name in (image, ANY) for target in self.images.get(name, {})))


class Repositories(Value):
    """The repositories of images. `{image}` is replaced by the image's name.

    Staging and release are different repositories, because retention deletes in staging, and deleting a manifest takes
    every tag with it, a verified one too (measured with docker-registry 2.8.3).
    """

    staging: Repository = "localhost:5000/assay/staging/{image}"
    release: Repository = "localhost:5000/assay/{image}"

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for name in ("staging", "release"):
            unknown = set(re.findall(r"\{([^}]*)\}", getattr(self, name))) - {"image"}
            if unknown:
                raise ValueError(f"{name}: unknown placeholder {{{unknown.pop()}}}; only {{image}} is known")
        if self.staging == self.release:
            raise ValueError("staging and release must be different repositories")
        if self.staging.split("/")[0] != self.release.split("/")[0]:
            raise ValueError("staging and release must be on the same registry: promotion mounts, it moves no layers")
        return self

    def staging_of(self, image: str) -> str:
        """Return the repository of candidates of an image."""
        return self.staging.replace("{image}", image)

    def release_of(self, image: str) -> str:
        """Return the repository that other people pull an image from."""
        return self.release.replace("{image}", image)


class Policy(Value):
    """Everything that decides whether a tag may be given."""

    repositories: Repositories = Repositories()
    levels: dict[LevelName, Level] = {}
    keys: tuple[str, ...] = ()
    """Public keys (PEM files, relative to matrix.yaml) whose signatures count."""

    @model_validator(mode="after")
    def _names_keep_their_word(self) -> Self:
        for name, level in self.levels.items():
            if not keeps_its_word(name, level.basis):
                raise ValueError(f"levels.{name}: a level on which nothing ran may not be called verified")
            if level.signatures is Signatures.REQUIRED and not self.keys:
                raise ValueError(f"levels.{name}: signatures are required, but `keys` names no key that counts")
        return self


def keeps_its_word(level: str, basis: Basis) -> bool:
    """Whether a level's name fits what it rests on: what is called verified rests on probes."""
    return basis is Basis.PROBE or "verif" not in level


def suffix_of(level: str) -> str:
    """Return what a level adds to the immutable tag of a cell: nothing for `verified`, `-audited` for `audited`."""
    return "" if level == VERIFIED else f"-{level}"


def level_of(tag: str, levels: Iterable[str]) -> str:
    """Return the level that an immutable tag promises by its name: what it ends in, of those known, else `verified`."""
    endings = {suffix_of(level): level for level in levels}
    return next((level for ending, level in endings.items() if ending and tag.endswith(ending)), VERIFIED)


def alias_of(target: str, level: str) -> str:
    """Return the moving tag of a target at a level: `sm120-verified`."""
    return f"{target.replace('_', '')}-{level}"

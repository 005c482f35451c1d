"""What matrix.yaml and images/<name>/image.yaml say, as values."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from assay.engines.table import EngineOrNone
from assay.foundation.platforms import Platform
from assay.foundation.secret import has_password, hide
from assay.foundation.strict import Value
from assay.foundation.text import (
    NUMBER_OR_TEXT,
    AptPackage,
    ArchList,
    Date,
    EnvName,
    GitRef,
    ImageName,
    ImageReference,
    Name,
    PlainText,
    Slug,
    Specifier,
    TargetName,
    VersionText,
)
from assay.matrix.policy import Policy

__all__ = [
    "Axis",
    "AxisValue",
    "Base",
    "BootstrapBase",
    "Control",
    "Exclusion",
    "Group",
    "Image",
    "Index",
    "Matrix",
    "Override",
    "Point",
    "RegistryBase",
    "Rule",
    "SourceTree",
    "Target",
]


_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def _platform(value: object) -> object:
    return Platform.of(value) if isinstance(value, str) else value


def _short(value: object) -> object:
    """Return the id of a platform for its whole name, which has a character that no id has."""
    return value.removeprefix("linux/") if isinstance(value, str) else value


class Target(Value):
    """A GPU architecture to be true on."""

    name: PlainText
    """The cards that have it: `GeForce RTX 5090`."""
    compute_capability: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$"), WithJsonSchema(NUMBER_OR_TEXT)]
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Memory of the named card, GiB."""
    shared_memory_per_block: Annotated[int, Field(gt=0)]
    """Bytes one thread block can have at most."""
    cuda: Specifier
    """CUDA toolkits whose compilers know it."""
    driver: Specifier
    """Drivers that know it."""
    arch_list: ArchList
    """What TORCH_CUDA_ARCH_LIST is for source builds."""
    platforms: Annotated[tuple[Annotated[Platform, BeforeValidator(_platform)], ...], Field(min_length=1)] | None = None
    """The platforms of machines with these cards; left out, those that knowledge/cards.yaml names."""


Glibc = Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$"), WithJsonSchema(NUMBER_OR_TEXT)]
"""A release of the C library: `2.36`."""


class RegistryBase(Value):
    """A base image that a registry has."""

    kind: Literal["registry"]
    image: ImageReference
    python: VersionText
    """The `python3` that the distribution's packages install, `3.12`."""
    glibc: Glibc
    cuda: VersionText | None = None
    """The CUDA toolkit inside, if any."""


class BootstrapBase(Value):
    """A base made of a distribution's own packages; needs no container registry."""

    kind: Literal["bootstrap"]
    distribution: Literal["debian"]
    suite: Annotated[str, Field(pattern=r"^[a-z]+$")]
    python: VersionText
    glibc: Glibc
    packages: tuple[AptPackage, ...] = ()
    cuda: None = None


Base = Annotated[RegistryBase | BootstrapBase, Field(discriminator="kind")]


def _open_address(url: str) -> str:
    if has_password(url) or hide(url) != url:
        raise ValueError(
            "an index's address must hold no user, password or token: it is written into Dockerfiles and given to "
            "programs as an argument; leave it out here, and name a netrc file with it: NETRC for `assay lock`, "
            "ASSAY_NETRC for builds (docs/how-to/mirrors-and-proxies.md)"
        )
    return url


class Index(Value):
    """Where wheels come from. `pypi` without an address is the default of the client."""

    url: Annotated[str, Field(pattern=r"^(https?|file)://[^\s\"'`$\\]+$"), AfterValidator(_open_address)] | None = None
    nightly: bool = False
    keeps_days: Annotated[int, Field(gt=0)] | None = None
    """How long a nightly index keeps a build, days; a lock older than that is warned about."""


_BRANCHES: Final = frozenset({"main", "master", "develop", "dev", "trunk", "head", "nightly"})


class SourceTree(Value):
    """A source to compile instead of a wheel to install."""

    git: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9._~/-]+$")]
    ref: GitRef
    """A tag, or a whole commit hash. A branch moves, and is refused."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{9,40}$")] | None = None
    """The commit of the tag, or how it begins: the build fails when the tag is another one by then.

    `assay lock` asks for a commit that is not given whole, and pins it in the lock.
    """
    subdirectory: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = None
    env: dict[EnvName, PlainText] = {}
    """Environment of the compilation, beside TORCH_CUDA_ARCH_LIST and MAX_JOBS."""

    @field_validator("ref")
    @classmethod
    def _does_not_move(cls, ref: str) -> str:
        if ref.lower() in _BRANCHES or ref.startswith(("refs/", "origin/")):
            raise ValueError(f"{ref!r} is a branch, which moves; name a tag or a whole commit hash")
        return ref

    @property
    def is_commit(self) -> bool:
        """Return whether `ref` is a commit hash."""
        return _COMMIT.fullmatch(self.ref) is not None

    @property
    def is_pinned(self) -> bool:
        """Return whether the recipe itself names a whole commit."""
        return self.is_commit or _COMMIT.fullmatch(self.commit or "") is not None


class AxisValue(Value):
    """One value of an axis. A plain string in YAML is an id that is also the version."""

    id: Slug
    version: VersionText | None = None
    """The exact version; a nightly leaves it out and gives `spec`."""
    spec: Specifier | None = None
    """Which versions a nightly may resolve to, `>=2.12.0.dev0`."""
    index: ImageName | None = None
    date: Date | Literal["latest"] | None = None
    """Which night's build; `latest` is resolved when the cell is locked."""
    source: SourceTree | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"id": value, "version": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> AxisValue:
        if self.date is not None and self.index is None:
            raise ValueError("a dated build needs the index that has it: add index: <name>")
        if self.version is not None and self.spec is not None:
            raise ValueError("give either version or spec")
        return self

    @property
    def nightly(self) -> bool:
        """Whether the exact version is known only after looking at the index."""
        return self.date is not None

    @property
    def pin(self) -> str:
        """What follows the name in a requirement: `==2.8.0`."""
        return f"=={self.version}" if self.version else (self.spec or "")

    def __str__(self) -> str:
        return self.version or self.id


class Axis(Value):
    """A dimension of the matrix."""

    label: Annotated[str, Field(pattern=r"^[a-z0-9]*[a-z]$|^$", max_length=20)] = ""
    """What stands before the value in a cell id: `torch` in `torch2.8.0`."""
    compact: bool = False
    """Leave the dots out in a cell id: `cu128`."""
    description: PlainText = ""
    values: tuple[AxisValue, ...]

    @model_validator(mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return {"values": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _unique(self) -> Axis:
        seen: set[str] = set()
        for value in self.values:
            if value.id in seen:
                raise ValueError(f"the value {value.id!r} occurs twice")
            seen.add(value.id)
        return self


Condition = Annotated[PlainText, Field(max_length=1000)]
"""A value's id, a glob over ids, or a version condition (`>=12.8`)."""
PointValue = Annotated[Slug, BeforeValidator(_short)]
Point = dict[Name, PointValue]
"""Axis -> id of one of its values."""
Match = dict[Name, Condition | tuple[Condition, ...]]


class Exclusion(Value):
    """Cells that are left out, and why."""

    match: Match
    reason: Annotated[PlainText, Field(min_length=10)]


class Rule(Value):
    """A rule: where `when` holds, `need` must hold, or the cell is left out for the reason given."""

    when: Match
    need: Match
    reason: Annotated[PlainText, Field(min_length=10)]


class Group(Value):
    """A named selection."""

    description: PlainText = ""
    select: Annotated[tuple[PlainText, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return {"select": value} if isinstance(value, list) else value


class Matrix(Value):
    """matrix.yaml."""

    version: Annotated[Literal["1"], WithJsonSchema({"enum": [1, "1"]})] = "1"
    targets: dict[TargetName, Target]
    bases: dict[Slug, Base]
    indexes: dict[ImageName, Index]
    axes: dict[Name, Axis]
    groups: dict[ImageName, Group] = {}
    requires: tuple[Rule, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    default_group: ImageName | None = None
    """What is built when nothing is named."""
    policy: Policy = Policy()
    """What must be recorded of an image before a tag may say so."""


class Override(Value):
    """What differs in the cells that match."""

    match: Match
    requirements: tuple[PlainText, ...] | None = None
    """Replaces the image's requirements."""
    extra_requirements: tuple[PlainText, ...] = ()
    constraints: tuple[PlainText, ...] = ()
    """Added to the image's constraints."""
    forced_requirements: tuple[PlainText, ...] = ()
    """Win over what packages ask for (uv's overrides)."""
    system_packages: tuple[AptPackage, ...] | None = None
    env: dict[EnvName, PlainText] = {}
    as_of: Date | None = None


class Expectation(Value):
    """How a negative control must fail."""

    stage: Literal["audit", "build", "probe"]
    cause: Annotated[str, Field(pattern=r"^(?:[a-z0-9-]+|[A-Z][0-9]+)$")]
    """An entry of knowledge/failures/, or a rule of the audit."""


class Control(Value):
    """A cell that must fail, and how; it proves that assay detects the failure."""

    point: Point
    name: Slug
    """Stands at the end of the cell id, after `control`."""
    reason: Annotated[PlainText, Field(min_length=10)]
    expect: Expectation
    targets: tuple[TargetName, ...] | None = None
    requirements: tuple[PlainText, ...] | None = None
    system_packages: tuple[AptPackage, ...] | None = None
    as_of: Date | None = None


class External(Value):
    """An image that others publish: audited and probed, never built."""

    reference: ImageReference


class Healthcheck(Value):
    """The health check of an image's engine."""

    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/_-]*$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    start_period: Annotated[str, Field(pattern=r"^[0-9]{1,9}[smh]$")] = "600s"


class Image(Value):
    """images/<name>/image.yaml: how the cells of an image are made."""

    description: PlainText
    engine: EngineOrNone
    targets: Annotated[tuple[TargetName, ...], Field(min_length=1)]
    external: External | None = None
    id: tuple[Name, ...] = ()
    """The axes that always stand in a cell id, in this order."""
    defaults: dict[Name, PointValue] = {}
    """The values that do not stand in the id."""
    axes: dict[Name, tuple[PointValue, ...]] = {}
    """The cells are the product of these."""
    include: tuple[Point, ...] = ()
    """More cells, each a point."""
    exclude: tuple[Exclusion, ...] = ()
    controls: tuple[Control, ...] = ()
    template: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "server"
    """templates/<name>.Dockerfile.j2."""
    requirements: tuple[PlainText, ...] = ()
    """Requirements with the axes filled in: `torch{{ torch.pin }}`."""
    constraints: tuple[PlainText, ...] = ()
    """Limit the versions of packages that others ask for, without asking for them (uv's constraints)."""
    forced_requirements: tuple[PlainText, ...] = ()
    """Win over what packages ask for (uv's overrides)."""
    overrides: tuple[Override, ...] = ()
    system_packages: tuple[AptPackage, ...] = ()
    env: dict[EnvName, PlainText] = {}
    entrypoint: tuple[PlainText, ...] = ()
    command: tuple[PlainText, ...] = ()
    healthcheck: Healthcheck | None = None
    check_import: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")], ...] = ()
    """Modules whose import shows that an image starts."""
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] = "assay"
    as_of: Date | None = None
    """Resolve as if it were this day; without it, today."""

    @model_validator(mode="after")
    def _one_kind(self) -> Image:
        if self.external is not None and (self.axes or self.include or self.requirements):
            raise ValueError("an external image has no axes, include or requirements: it is not built here")
        if self.external is None and not self.requirements and self.template == "server":
            raise ValueError("requirements is missing: name what the image installs")
        return self

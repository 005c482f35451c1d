"""The flags of an engine by release: knowledge/server_flags.yaml as values. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from packaging.version import InvalidVersion, Version
from pydantic import Field, model_validator

from assay.engines.table import EngineName
from assay.foundation.strict import Value
from assay.foundation.text import Date, EnvName, PlainText, Specifier, VersionText
from assay.foundation.versions import fits

__all__ = [
    "Attention",
    "AttentionChoice",
    "EngineFlags",
    "FeatureSwitch",
    "FlagHistory",
    "FlagName",
    "FlagValue",
    "Flags",
    "ServerFlags",
    "Setting",
    "at_least",
]

FlagName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=80)]
"""A flag without its dashes: `attention-backend`."""
FlagValue = str | tuple[str, ...]
"""`true` is a bare switch; a tuple is a flag with several values."""
Flags = dict[FlagName, FlagValue]


class Setting(Value):
    """Flags and environment that set something in the releases named by `when`."""

    when: Specifier = ""
    flags: Flags = {}
    drop: tuple[FlagName, ...] = ()
    """Flags that ask for the feature and have to go."""
    env: dict[EnvName, PlainText] = {}

    def holds(self, version: str) -> bool:
        """Whether it is for this release; pre-releases count as the release they lead to."""
        return _matches(self.when, version)


class FeatureSwitch(Value):
    """How one feature of an engine is switched off and on."""

    default: Literal["on", "off", "auto"]
    """What the engine does without a flag."""
    off: tuple[Setting, ...] = ()
    on: tuple[Setting, ...] = ()
    probes: tuple[PlainText, ...] = ()
    """Features of the probe suite that speak for it, the most telling first."""
    note: PlainText = ""
    source: PlainText
    date: Date


class AttentionChoice(Value):
    """One attention backend: its name in the flag, and the feature whose outcome speaks for it."""

    value: PlainText
    feature: str
    probes: tuple[PlainText, ...]


class Attention(Value):
    """The attention backends of an engine, the fastest first, and how one is asked for."""

    settings: tuple[Setting, ...]
    """`{value}` stands for the backend."""
    choices: tuple[AttentionChoice, ...]


class FlagHistory(Value):
    """A flag that came, went, was renamed, or never was."""

    since: VersionText | None = None
    """The first release seen to have it."""
    until: VersionText | None = None
    """The last release seen to have it."""
    never: bool = False
    """No release was seen to have it."""
    deprecated: VersionText | None = None
    """The first release seen to warn of it."""
    successor: Flags | None = None
    """What does the same today; values `{value}` are taken over. Empty: nothing is needed."""
    before: Setting | None = None
    """What did the same in releases older than `since`."""
    note: PlainText = ""
    source: PlainText
    date: Date

    def removed_in(self, version: str) -> bool:
        """Whether this release no longer has the flag, or none ever had."""
        asked = _version(version)
        return self.never or (self.until is not None and asked is not None and asked > Version(self.until))

    def missing_in(self, version: str) -> bool:
        """Whether this release lacks the flag, as far as is known: removed, or not yet there."""
        return self.not_yet_in(version) or self.removed_in(version)

    def not_yet_in(self, version: str) -> bool:
        """Whether the flag came later than this release."""
        asked = _version(version)
        return self.since is not None and asked is not None and asked < Version(self.since)

    def deprecated_in(self, version: str) -> bool:
        """Whether this release warns of the flag."""
        asked = _version(version)
        return self.deprecated is not None and asked is not None and asked >= Version(self.deprecated)


class EngineFlags(Value):
    """One engine: how its server is started and what its flags are called."""

    name: str = ""
    """Of the engine; its place in the file says it."""
    package: PlainText
    """The distribution whose version decides."""
    command: tuple[str, ...]
    """What starts the server, before its flags."""
    help: tuple[str, ...]
    """What makes it tell its flags."""
    help_without_driver: tuple[str, ...] = ()
    """A program that prints the options if the server cannot, because a CUDA driver is missing."""
    model_flag: FlagName | None
    """None: the model is the first positional argument."""
    host_flag: FlagName = "host"
    port_flag: FlagName = "port"
    name_flag: FlagName = "served-model-name"
    """Under which name requests ask for the model; without it, under the model's own."""
    key_flag: FlagName = "api-key"
    """The key that requests have to show."""
    quantization_flag: FlagName = "quantization"
    cache_type_flag: FlagName = "kv-cache-dtype"
    port: int
    abbreviates: bool
    """Whether it takes a unique beginning of a flag for the flag (argparse's allow_abbrev)."""
    health: PlainText
    metrics: Setting
    """What makes it tell Prometheus metrics at /metrics."""
    attention: Attention
    features: dict[str, FeatureSwitch]
    flags: dict[FlagName, FlagHistory]


class ServerFlags(Value):
    """knowledge/server_flags.yaml."""

    version: Literal["1"]
    engines: dict[EngineName, EngineFlags]

    @model_validator(mode="after")
    def _name_engines(self) -> ServerFlags:
        for name, engine in self.engines.items():
            self.engines[name] = engine.model_copy(update={"name": name})
        return self


def at_least(version: str, least: str) -> bool:
    """Whether a release is this one or a newer one; False for what is not a version."""
    asked = _version(version)
    return asked is not None and asked >= Version(least)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _matches(condition: str, version: str) -> bool:
    return fits(version, condition)

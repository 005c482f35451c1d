"""From a profile to the command that starts a server of one release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from assay.engines.knowledge import EngineFlags, Flags, FlagValue
from assay.errors import UsageError
from assay.foundation.secret import HIDDEN, hide, is_secret_name, redacted, values_of, words_without
from assay.serving.flags import (
    FlagFinding,
    apply,
    check_flags,
    check_known,
    command_line,
    dated_back,
    modernise,
    switch,
)
from assay.serving.helptext import HelpOption
from assay.serving.profile import Profile

__all__ = ["ServerCommand", "prepare", "shm_bytes", "with_features_off"]


@dataclass(frozen=True, kw_only=True)
class ServerCommand:
    """How one server is started, before host and port are known."""

    engine: EngineFlags
    version: str
    model: str
    flags: Flags
    env: Mapping[str, str] = field(default_factory=dict)
    shm: int = 1 << 30
    notes: tuple[str, ...] = ()
    """What was changed against the profile, one line each."""
    findings: tuple[FlagFinding, ...] = ()
    """What the server's help says against the flags as they will be given."""
    program: tuple[str, ...] = ()
    """Replaces the engine's own command."""

    @property
    def served_name(self) -> str:
        """The name under which the server knows its model."""
        name = self.flags.get(self.engine.name_flag, self.model)
        return name if isinstance(name, str) else name[0]

    @property
    def metrics(self) -> bool:
        """Whether it tells Prometheus metrics."""
        return all(name in self.flags for name in self.engine.metrics.flags)

    @property
    def told(self) -> ServerCommand:
        """The command as it may be kept and shown: without passwords, keys and tokens."""
        return replace(
            self,
            flags={name: self._kept(name, value) for name, value in self.flags.items()},
            env=redacted(self.env),
            program=tuple(words_without(self.program)),
        )

    def _kept(self, name: str, value: FlagValue) -> FlagValue:
        if is_secret_name(name):
            return HIDDEN
        return hide(value) if isinstance(value, str) else tuple(map(hide, value))

    @property
    def secrets(self) -> list[str]:
        """The names of its flags and variables that hold secrets."""
        flags = [f"--{name}" for name, value in self.flags.items() if self._kept(name, value) != value]
        kept = redacted(self.env)
        return [*flags, *(name for name, value in self.env.items() if kept[name] != value)]

    def redacted(self, text: str, environ: Mapping[str, str] | None = None) -> str:
        """Return a log of its server without secrets: servers print their arguments and what surrounds them.

        Args:
            text: the log.
            environ: the environment that a server of this machine inherits.
        """
        return hide(text, values_of(self.flags, self.env, environ or {}))

    def argv(self, *, host: str = "{host}", port: str = "{port}") -> list[str]:
        """Return the whole command line."""
        named = [f"--{self.engine.model_flag}", self.model] if self.engine.model_flag else [self.model]
        return [
            *(self.program or self.engine.command),
            *named,
            f"--{self.engine.host_flag}",
            host,
            f"--{self.engine.port_flag}",
            port,
            *command_line(self.flags),
        ]


def shm_bytes(text: str | None) -> int:
    """Return bytes of `40g` as docker means it.

    1 GiB without it: Docker's own 64 MiB is too little for servers of several processes, and what nobody writes to
    costs nothing.
    """
    if text is None:
        return 1 << 30
    match = re.fullmatch(r"(\d+)([kmg])", text)
    if match is None:
        raise UsageError(f"{text!r} is not a size such as 16g")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30}[match[2]]


def prepare(
    engine: EngineFlags,
    version: str,
    profile: Profile | None,
    *,
    model: str | None,
    extra: Mapping[str, str | tuple[str, ...]] | None = None,
    options: Mapping[str, HelpOption] | None = None,
    as_written: bool = False,
    program: Sequence[str] = (),
) -> ServerCommand:
    """Return the command for a profile on a release.

    Flags that the release renamed, dropped or did not have yet are written as it has them, unless `as_written`.
    `options` is what the server's own help says; without it the flags are checked against the table of the release.

    Raises:
        UsageError: neither the profile nor the caller names a model.
    """
    chosen = model or (profile.model if profile else None)
    if chosen is None:
        raise UsageError("no model is named", hint="add --model NAME_OR_FOLDER, or choose a profile that names one")
    flags: Flags = dict(profile.flags) if profile else {}
    notes: list[str] = []
    if profile is not None and profile.quantization is not None:
        if chosen == profile.model:
            flags.setdefault(engine.quantization_flag, profile.quantization)
        else:
            notes.append(f"quantisation {profile.quantization} is left out: it is that of {profile.model}")
    env: dict[str, str] = {}
    if not as_written:
        flags, changed = modernise(flags, engine, version)
        flags, env, earlier = dated_back(flags, engine, version)
        notes += (*changed, *earlier)
    flags |= extra or {}
    findings = check_flags(flags, options, engine, version) if options else check_known(flags, engine, version)
    return ServerCommand(
        engine=engine,
        version=version,
        model=chosen,
        flags=flags,
        env={**env, **(profile.env if profile else {})},
        shm=shm_bytes(profile.shm_size if profile else None),
        notes=tuple(notes),
        findings=findings,
        program=tuple(program),
    )


def with_features_off(command: ServerCommand, features: Iterable[str]) -> ServerCommand:
    """Return the command with features switched off, in the words of its release."""
    flags, env = command.flags, dict(command.env)
    for feature in sorted(features):
        setting = switch(command.engine, command.version, feature, on=False)
        if setting is not None:
            flags = apply(flags, setting)
            env |= setting.env
    return replace(command, flags=flags, env=env)

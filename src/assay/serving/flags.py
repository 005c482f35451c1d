"""Flags as values: onto a command line, over releases, and against what the server's own help says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assay.engines.knowledge import EngineFlags, FlagHistory, Flags, FlagValue, Setting
from assay.foundation.nearest import nearest
from assay.serving.helptext import HelpOption

__all__ = ["FlagFinding", "apply", "check_flags", "check_known", "command_line", "dated_back", "modernise", "switch"]

FindingKind = Literal["unknown", "abbreviation", "ambiguous", "deprecated", "choice", "arity"]


@dataclass(frozen=True, kw_only=True)
class FlagFinding:
    """What is wrong with one flag of a profile for one server."""

    flag: str
    kind: FindingKind
    message: str
    successor: Flags | None = None
    """What to write instead, if it is known."""

    @property
    def fatal(self) -> bool:
        """Whether the server refuses it, or takes it for something else."""
        return self.kind != "deprecated"


def command_line(flags: Mapping[str, FlagValue]) -> list[str]:
    """Return the words of a command line."""
    words: list[str] = []
    for name, value in flags.items():
        words.append(f"--{name}")
        if isinstance(value, tuple):
            words += value
        elif value != "true":
            words.append(value)
    return words


def apply(flags: Mapping[str, FlagValue], setting: Setting) -> Flags:
    """Return flags with a setting laid over them; two JSON objects of one flag are joined."""
    result = {name: value for name, value in flags.items() if name not in setting.drop}
    for name, value in setting.flags.items():
        joined = _join_json(result[name], value) if name in result else None
        result[name] = value if joined is None else joined
    return result


def _join_json(lower: FlagValue, upper: FlagValue) -> str | None:
    documents: list[Any] = []
    for value in (lower, upper):
        if not isinstance(value, str) or not value.startswith("{"):
            return None
        try:
            documents.append(json.loads(value))
        except ValueError:
            return None
    return json.dumps({**documents[0], **documents[1]})


def switch(engine: EngineFlags, version: str, feature: str, *, on: bool) -> Setting | None:
    """Return what switches a feature off or on in a release; None if nothing is known that would."""
    known = engine.features.get(feature)
    if known is None:
        return None
    for setting in known.on if on else known.off:
        if setting.holds(version):
            return setting
    # A feature that is off unless asked for needs nothing to be off, one that is on nothing to be on.
    return Setting() if known.default == ("on" if on else "off") else None


def modernise(flags: Mapping[str, FlagValue], engine: EngineFlags, version: str) -> tuple[Flags, tuple[str, ...]]:
    """Return flags in the words of a release, and what was changed, one line each.

    What has no successor stays, so that the check against the server's help tells of it.
    """
    result: Flags = {}
    notes: list[str] = []
    for name, value in flags.items():
        history = engine.flags.get(name)
        old = history is not None and (history.removed_in(version) or history.deprecated_in(version))
        if history is None or not old or history.successor is None:
            result[name] = value
            continue
        successor = _same(history, value) or {}
        # What the profile says itself wins over what an old flag stood for.
        result |= {other: new for other, new in successor.items() if other not in flags}
        how = "never was a flag" if history.never else "is gone" if history.removed_in(version) else "is deprecated"
        new_words = " ".join(command_line(successor)) or "nothing: " + (history.note or "it has no effect")
        notes.append(f"--{name} {how} in {engine.package} {version}; written as {new_words}")
    return result, tuple(notes)


def dated_back(
    flags: Mapping[str, FlagValue], engine: EngineFlags, version: str
) -> tuple[Flags, dict[str, str], tuple[str, ...]]:
    """Return flags without those that came after a release, the environment that did the same there, and what changed.

    What nothing is known to have done before stays, so that the check against the server's help tells of it.
    """
    result: Flags = {}
    env: dict[str, str] = {}
    notes: list[str] = []
    for name, value in flags.items():
        history = engine.flags.get(name)
        before = _before(name, flags, engine, version) if history and history.not_yet_in(version) else None
        if history is None or before is None:
            result[name] = value
            continue
        earlier = {key: str(_filled(template, value)) for key, template in before.env.items()}
        older = {other: _filled(template, value) for other, template in before.flags.items()}
        env |= earlier
        result |= {other: new for other, new in older.items() if other not in flags}
        words = [*command_line(older), *(f"{key}={setting}" for key, setting in earlier.items())]
        notes.append(f"--{name} came with {engine.package} {history.since}; written as {' '.join(words)}")
    return result, env, tuple(notes)


def _before(name: str, flags: Mapping[str, FlagValue], engine: EngineFlags, version: str) -> Setting | None:
    """Return what did before what a flag does that a release does not have yet.

    Either the table states it of the flag, or an older flag of the release became it, alone or with others that are
    given too.
    """
    if (said := engine.flags[name].before) is not None:
        return said
    for old, history in engine.flags.items():
        became = history.successor or {}
        if name not in became or history.missing_in(version):
            continue
        if all(
            flags.get(other) is not None and template in {"{value}", flags[other]} for other, template in became.items()
        ):
            return Setting(flags={old: "{value}"})
    return None


def _same(history: FlagHistory, value: FlagValue) -> Flags | None:
    """Return what does the same today as a flag did; None if that is not known."""
    if history.successor is None:
        return None
    return {other: _filled(template, value) for other, template in history.successor.items()}


def _filled(template: FlagValue, value: FlagValue) -> FlagValue:
    if template == "{value}":
        return value
    text = value if isinstance(value, str) else " ".join(value)
    if isinstance(template, tuple):
        return tuple(part.replace("{value}", text) for part in template)
    return template.replace("{value}", text)


def check_flags(
    flags: Mapping[str, FlagValue], options: Mapping[str, HelpOption], engine: EngineFlags, version: str
) -> tuple[FlagFinding, ...]:
    """Return what a server whose help is `options` would refuse, misunderstand or warn of."""
    findings: list[FlagFinding] = []
    for name, value in flags.items():
        option = options.get(name)
        if option is None:
            findings.append(_unknown(name, value, options, engine, version))
        else:
            findings += _known(name, value, option, engine)
    return tuple(findings)


def check_known(flags: Mapping[str, FlagValue], engine: EngineFlags, version: str) -> tuple[FlagFinding, ...]:
    """Return the flags that a release is known to lack; for when its own help cannot be read."""
    findings: list[FlagFinding] = []
    for name, value in flags.items():
        history = engine.flags.get(name)
        if history is None or not history.missing_in(version):
            continue
        successor = _same(history, value) if history.removed_in(version) else None
        hint = _hint(name, dict.fromkeys(engine.flags, _NO_HELP), engine, version, successor)
        message = f"--{name} is not a flag of {engine.package} {version}{hint} ({history.source})"
        findings.append(FlagFinding(flag=name, kind="unknown", message=message, successor=successor))
    return tuple(findings)


_NO_HELP = HelpOption(name="", names=())


def _unknown(
    name: str, value: FlagValue, options: Mapping[str, HelpOption], engine: EngineFlags, version: str
) -> FlagFinding:
    history = engine.flags.get(name)
    successor = _same(history, value) if history and history.removed_in(version) else None
    hint = _hint(name, options, engine, version, successor)
    starts = sorted({option.name for known, option in options.items() if known.startswith(name)})
    if engine.abbreviates and len(starts) == 1:
        message = (
            f"--{name} is not a flag of this server, which silently accepts it as --{starts[0]}, "
            f"the only one that begins so{hint}"
        )
        return FlagFinding(flag=name, kind="abbreviation", message=message, successor=successor)
    if engine.abbreviates and starts:
        choices = ", ".join(f"--{start}" for start in starts[:4])
        message = f"--{name} is not a flag of this server and could be {choices}: it refuses{hint}"
        return FlagFinding(flag=name, kind="ambiguous", message=message, successor=successor)
    return FlagFinding(
        flag=name, kind="unknown", message=f"--{name} is not a flag of this server{hint}", successor=successor
    )


def _hint(
    name: str, options: Mapping[str, HelpOption], engine: EngineFlags, version: str, successor: Flags | None
) -> str:
    history = engine.flags.get(name)
    if successor is not None:
        return f"; {' '.join(command_line(successor)) or 'leave it out'} does the same" + (
            f" ({history.note})" if history and history.note else ""
        )
    if history is not None and history.since is not None:
        older = [
            old
            for old, entry in engine.flags.items()
            if entry.successor and name in entry.successor and not entry.missing_in(version) and old in options
        ]
        before = f"; here it is --{older[0]}" if older else ""
        return f"; it came with {engine.package} {history.since}{before}"
    close = nearest(name, options)
    return "; did you mean " + " or ".join(f"--{candidate}" for candidate in close) + "?" if close else ""


def _known(name: str, value: FlagValue, option: HelpOption, engine: EngineFlags) -> Iterable[FlagFinding]:
    history = engine.flags.get(name)
    if option.deprecated:
        successor = _same(history, value) if history else None
        instead = command_line(successor) if successor else []
        named = instead or [f"--{other}" for other in option.named_instead]
        tail = f"; use {' '.join(named)}" if named else ""
        yield FlagFinding(
            flag=name,
            kind="deprecated",
            message=f"--{name} is deprecated in this server{tail}",
            successor=successor,
        )
    given: Sequence[str] = value if isinstance(value, tuple) else () if value == "true" else (value,)
    if option.arity == "none" and given:
        yield FlagFinding(flag=name, kind="arity", message=f"--{name} takes no value here, not {' '.join(given)!r}")
    elif option.arity in {"one", "many"} and not given:
        yield FlagFinding(flag=name, kind="arity", message=f"--{name} needs a value")
    elif option.arity == "one" and len(given) > 1:
        yield FlagFinding(flag=name, kind="arity", message=f"--{name} takes one value, not {len(given)}")
    for word in given:
        if option.choices and word not in option.choices:
            close = nearest(word, option.choices)
            known = ", ".join(option.choices[:12])
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; it can be {known}"
            yield FlagFinding(flag=name, kind="choice", message=f"--{name} cannot be {word!r} here{hint}")

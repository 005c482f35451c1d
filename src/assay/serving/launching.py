"""Choose the server flags that the evidence supports, each with its reason, from a profile and an image's results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from assay.engines.knowledge import Flags, FlagValue, Setting
from assay.engines.table import engine_named
from assay.errors import UsageError
from assay.evidence.ranking import Standing
from assay.serving.command import ServerCommand, with_features_off
from assay.serving.flags import apply, switch
from assay.serving.memory import Share, Tenant
from assay.serving.modelshape import ModelShape

__all__ = ["Decided", "decide", "tenant_of", "with_memory"]

_DEFAULT_CONTEXT: Final = 8192
_DEFAULT_REQUESTS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A command, and why each of its flags and settings is there."""

    command: ServerCommand
    reasons: Mapping[str, str]
    """Flag (without dashes) or environment variable -> why."""
    notes: tuple[str, ...] = ()
    """What was left on, and on what ground; what is not known."""


def decide(
    command: ServerCommand,
    standings: Mapping[str, Standing],
    *,
    profile_name: str,
    asked: Collection[str] = (),
    strict: bool = False,
) -> Decided:
    """Switch off what is not known to work, and choose an attention backend that is.

    A feature whose outcome is anything but `works` is switched off. One that nobody ran is left on with a note, or
    switched off too with `strict`. `asked` names what the caller laid over the profile.
    """
    reasons = {
        name: f"profile {profile_name}" if profile_name and name not in asked else "asked for"
        for name in [*command.flags, *command.env]
    }
    notes: list[str] = []
    chosen_among = {choice.feature for choice in command.engine.attention.choices}
    for feature, standing in standings.items():
        if feature in chosen_among or feature not in command.engine.features:
            continue
        without = with_features_off(command, [feature])
        if without == command:
            notes += _already_off(command, standing, reasons)
            continue
        if standing.usable and not (strict and standing.unproven):
            notes.append(("on, unproven: " if standing.unproven else "on: ") + str(standing))
            continue
        for name in _changed(command, without):
            reasons[name] = str(standing)
        notes.append(f"off: {standing}")
        command = without
    command, more = _attention(command, standings, reasons, strict=strict)
    return Decided(command=command, reasons=reasons, notes=(*notes, *more))


def _already_off(command: ServerCommand, standing: Standing, reasons: dict[str, str]) -> list[str]:
    """Compare the evidence for a feature with the profile's flags that switch it off."""
    setting = switch(command.engine, command.version, standing.feature, on=False)
    if setting is None or standing.unproven:
        return []
    flags = [name for name, value in setting.flags.items() if command.flags.get(name) == value]
    places = [*flags, *(name for name, value in setting.env.items() if command.env.get(name) == value)]
    for name in places:
        reasons[name] = f"{reasons[name]}; {standing}" if reasons.get(name) else str(standing)
    if not places or not standing.usable:
        return []
    return [f"off by the profile, although it works: {standing}; {', '.join(f'--{name}' for name in flags)} could go"]


def _changed(before: ServerCommand, after: ServerCommand) -> list[str]:
    flags = [name for name, value in after.flags.items() if before.flags.get(name) != value]
    return flags + [name for name, value in after.env.items() if before.env.get(name) != value]


def _filled(setting: Setting, value: str) -> Setting:
    flags: Flags = {name: value if text == "{value}" else text for name, text in setting.flags.items()}
    return Setting(flags=flags, drop=setting.drop, env=dict.fromkeys(setting.env, value))


def _attention(
    command: ServerCommand, standings: Mapping[str, Standing], reasons: dict[str, str], *, strict: bool
) -> tuple[ServerCommand, list[str]]:
    """Keep the attention backend if it may be used; otherwise take the fastest one known to work."""
    choices = command.engine.attention.choices
    known = {choice.value: standings[choice.feature] for choice in choices}
    setting = next((one for one in command.engine.attention.settings if one.holds(command.version)), None)
    if setting is None:
        return command, []
    places = [*setting.flags, *setting.env]
    current = next(
        (str(value) for name in places if (value := command.flags.get(name) or command.env.get(name)) is not None), None
    )
    notes: list[str] = []
    asked = known.get(current) if current is not None else None
    left_alone = current is None and all(one.usable for one in known.values()) and not strict
    if left_alone or (current is not None and (asked is None or asked.usable)):
        if asked is not None:
            notes.append(f"attention {current}: {asked}")
            for name in places:
                if not asked.unproven and name in reasons:
                    reasons[name] += f"; {asked}"
        elif current is None:
            notes.append("attention: the engine's own choice; nothing speaks against any backend")
    else:
        works = [value for value, one in known.items() if one.outcome.value == "works" and not one.unproven]
        open_ones = [value for value, one in known.items() if one.usable and value not in works]
        candidates = works or open_ones
        if not candidates:
            listed = "; ".join(str(one) for one in known.values())
            raise UsageError(f"no attention backend of {command.engine.package} is known to work here: {listed}")
        chosen = candidates[0]
        why = f"{chosen}: {known[chosen]}"
        rejected = [str(one) for value, one in known.items() if not one.usable and value != chosen]
        filled = _filled(setting, chosen)
        command = replace(command, flags=apply(command.flags, filled), env={**command.env, **filled.env})
        for name in places:
            reasons[name] = why + (f"; not {'; not '.join(rejected)}" if rejected else "")
        notes.append(f"attention {why}")
    flashinfer = standings.get("flashinfer")
    if flashinfer is not None and not flashinfer.usable:
        command = _without_flashinfer(command, flashinfer, places, reasons)
    return command, notes


def _without_flashinfer(
    command: ServerCommand, standing: Standing, attention: Collection[str], reasons: dict[str, str]
) -> ServerCommand:
    """Switch off what else uses FlashInfer beside attention: sampling."""
    known = command.engine.features.get("flashinfer")
    off = next((one for one in (known.off if known else ()) if one.holds(command.version)), Setting())
    flags: Flags = {name: value for name, value in off.flags.items() if name not in attention}
    env = {name: value for name, value in off.env.items() if name not in attention}
    for name in [*flags, *env]:
        if command.flags.get(name) != flags.get(name) or name in env:
            reasons[name] = str(standing)
        elif str(standing) not in reasons.get(name, ""):
            reasons[name] = f"{reasons[name]}; {standing}" if reasons.get(name) else str(standing)
    return replace(command, flags={**command.flags, **flags}, env={**command.env, **env})


def _number(flags: Mapping[str, FlagValue], name: str | None) -> int | None:
    value = flags.get(name) if name else None
    return int(value) if isinstance(value, str) and value.isdigit() else None


def tenant_of(
    decided: Decided, shape: ModelShape, *, name: str, context: int | None, requests: int | None, keep_fraction: bool
) -> Tenant:
    """Return what a server wants of the card: from the caller, else from its flags, else usual values.

    With `keep_fraction` the share that the profile names is checked instead of a new one being chosen.
    """
    command = decided.command
    engine = engine_named(command.engine.name)
    flags, names = command.flags, engine.memory
    pool = _number(flags, names.pool)
    longest = context or _number(flags, names.context) or min(shape.context, _DEFAULT_CONTEXT)
    if pool is not None and context is None:
        longest = min(longest, pool)
    fraction = flags.get(names.fraction) if names.fraction else None
    prefill = _number(flags, names.prefill)
    return Tenant(
        name=name,
        engine=engine.name,
        shape=shape,
        context=longest,
        requests=requests or _number(flags, names.requests) or _DEFAULT_REQUESTS,
        graphs=not names.no_graphs & set(flags),
        prefill=prefill if prefill is not None else 8192,
        pool=pool,
        fraction=float(fraction) if keep_fraction and isinstance(fraction, str) else None,
        windowed=engine.keeps_windows_only(command.version, flags),
    )


def with_memory(decided: Decided, tenant: Tenant, share: Share) -> Decided:
    """Return the command with the memory flags of its share."""
    command, reasons = decided.command, dict(decided.reasons)
    names = engine_named(command.engine.name).memory
    flags: Flags = dict(command.flags)
    fraction = f"{share.fraction:g}"
    whole = (
        f"weights {share.weights / 2**30:.2f} GiB, cache {share.cache / 2**30:.2f} GiB "
        f"({share.cache_tokens} tokens), in all {share.total / 2**30:.2f} GiB of the card"
    )
    wanted = {
        names.fraction: (fraction, whole),
        names.context: (str(tenant.context), "longest request, tokens"),
        names.requests: (str(tenant.requests), "requests at once"),
    }
    for name, (value, why) in wanted.items():
        if name is None:
            continue
        if flags.get(name) != value:
            flags[name] = value
            reasons[name] = why
        elif name == names.fraction:
            reasons[name] = f"{reasons.get(name, '')}; {whole}".lstrip("; ")
    return replace(decided, command=replace(command, flags=flags), reasons=reasons)

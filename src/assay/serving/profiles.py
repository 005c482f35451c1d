"""Profiles laid over the ones they extend. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from assay.errors import ConfigError, Problem, UsageError
from assay.foundation.nearest import suggestion
from assay.serving.profile import Profile

__all__ = ["named", "resolve"]


def resolve(name: str, profiles: Mapping[str, Profile]) -> Profile:
    """Return a profile with all that it extends laid under it.

    Raises:
        ConfigError: profiles extend each other in a circle, or engines differ.
    """
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        if current in chain:
            circle = " -> ".join([*chain, current])
            raise ConfigError([Problem(file=f"{name}.yaml", message=f"profiles extend each other: {circle}")])
        chain.append(current)
        current = profiles[current].extends
    if len({profiles[part].engine for part in chain}) > 1:
        raise ConfigError([Problem(file=f"{name}.yaml", message="extends a profile of another engine")])
    merged = profiles[chain[-1]]
    for part in reversed(chain[:-1]):
        upper = profiles[part]
        kept = {flag: value for flag, value in merged.flags.items() if flag not in upper.drop}
        merged = upper.model_copy(
            update={
                "flags": {**kept, **upper.flags},
                "env": {**merged.env, **upper.env},
                "model": upper.model or merged.model,
                "quantization": upper.quantization or merged.quantization,
                "shm_size": upper.shm_size or merged.shm_size,
                "extends": None,
                "drop": (),
            }
        )
    return merged.model_copy(update={"extends": None, "drop": ()})


def named(name: str, profiles: Mapping[str, Profile]) -> Profile:
    """Return a profile by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in profiles:
        raise UsageError(
            f"there is no profile {name!r} for this engine{suggestion(name, profiles)}",
            hint="a profile belongs to one engine: images/*/profiles/ lists those of each image",
        )
    return profiles[name]

"""Reads the data of serving: flags of engines by release, claims of documents, profiles."""

from __future__ import annotations

from pathlib import Path

from assay.adapters.files.regular import read_config
from assay.engines.knowledge import ServerFlags
from assay.engines.table import all_engines
from assay.errors import ConfigError, Problem
from assay.evidence.claims import Claim, read_serving
from assay.foundation.nearest import suggestion
from assay.foundation.yamltext import load, parse
from assay.serving.profile import Profile
from assay.serving.profiles import resolve

__all__ = ["load_claims", "load_profiles", "load_server_flags"]


def load_server_flags(path: Path) -> ServerFlags:
    """Return the flags in knowledge/server_flags.yaml and those that engines bring themselves.

    Raises:
        ConfigError: it is wrong, with every place; or an engine of another distribution is broken.
    """
    known = parse(load(read_config(path), file=str(path)), ServerFlags)
    brought = {engine.name: flags for engine in all_engines() if (flags := engine.own_flags()) is not None}
    return ServerFlags(version="1", engines={**brought, **known.engines})


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Read knowledge/serving_claims.yaml.

    Raises:
        ConfigError: it is wrong, with every place.
    """
    return read_serving(read_config(path), file=str(path))


def load_profiles(folder: Path) -> dict[str, Profile]:
    """Read every profile of a folder, by name.

    Raises:
        ConfigError: every problem of every file at once.
    """
    found: dict[str, Profile] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found[path.stem] = parse(load(read_config(path), file=str(path)), Profile)
        except ConfigError as error:
            problems += error.problems
    for name, profile in found.items():
        if profile.extends is not None and profile.extends not in found:
            message = f"extends {profile.extends!r}, which is not there{suggestion(profile.extends, found)}"
            problems.append(Problem(file=str(folder / f"{name}.yaml"), message=message))
    if problems:
        raise ConfigError(problems)
    return {name: resolve(name, found) for name in found}

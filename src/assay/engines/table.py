"""Finds serving engines by name: those of this room, and those that other distributions bring."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from assay.engines.names import GROUP, OWN, engine_names, others
from assay.errors import ConfigError, Problem, UsageError
from assay.foundation.nearest import nearest, suggestion

if TYPE_CHECKING:
    from assay.engines.engine import ServingEngine

__all__ = ["GROUP", "EngineName", "EngineOrNone", "all_engines", "engine_named", "engine_names", "release_in"]


@cache
def engine_named(name: str) -> ServingEngine:
    """Return an engine.

    Raises:
        UsageError: there is none of that name.
        ConfigError: the distribution that brings it is broken.
    """
    if name in OWN:
        own: ServingEngine = import_module(OWN[name]).ENGINE
        return own
    point = others().get(name)
    if point is None:
        raise UsageError(f"there is no engine {name!r}{suggestion(name, engine_names())}")
    try:
        found: ServingEngine = point.load()
    except Exception as error:
        source = point.dist.name if point.dist else point.value
        message = f"the engine {name!r} of {source} cannot be loaded: {error}; update or remove {source}"
        raise ConfigError([Problem(file=point.value, message=message)]) from error
    return found


def all_engines() -> tuple[ServingEngine, ...]:
    """Return every engine, in the order of their names' list.

    Raises:
        ConfigError: a distribution that brings one is broken.
    """
    return tuple(engine_named(name) for name in engine_names())


def release_in(packages: Mapping[str, str], name: str) -> str:
    """Return the release of an engine among distributions; empty if it is not there.

    Records outlive engines: the distribution of an engine that is no longer installed is taken to have its name.
    """
    own = engine_named(name).packages[:1] if name in engine_names() else ()
    return packages.get(own[0] if own else name, "")


def _checked(name: str, *more: str) -> str:
    if name in OWN or name in more or name in others():
        return name
    *first, last = [repr(known) for known in (*engine_names(), *more)]
    close = nearest(name, [*engine_names(), *more])
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(f"must be {', '.join(first)} or {last}, not {name!r}{hint}")


def _or_none(name: str) -> str:
    return _checked(name, "none")


def _listed(schema: dict[str, Any]) -> None:
    schema["enum"] = [*engine_names()]


def _listed_or_none(schema: dict[str, Any]) -> None:
    schema["enum"] = [*engine_names(), "none"]


EngineName = Annotated[str, AfterValidator(_checked), Field(json_schema_extra=_listed)]
"""The name of an engine in a file."""
EngineOrNone = Annotated[str, AfterValidator(_or_none), Field(json_schema_extra=_listed_or_none)]
"""The name of an engine in a file, or `none`."""

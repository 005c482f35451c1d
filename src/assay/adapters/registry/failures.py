"""What failures of HTTP mean: how long to wait, what a person should try, what it was in the end. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from assay.errors import RegistryBroken, RegistryError
from assay.evidence.reference import is_loopback
from assay.foundation.foreign import ForeignError, read_json, read_pause, read_url

__all__ = [
    "LONGEST_PAUSE",
    "RegistryFault",
    "address",
    "cause",
    "gave_up",
    "hint",
    "keeps_tags",
    "pause",
    "plain",
    "refusal",
    "refused",
]

LONGEST_PAUSE: Final = 30.0
"""Seconds waited for before an attempt at most, whatever the server asks for."""


@dataclass(frozen=True, kw_only=True)
class RegistryFault:
    """Why one attempt failed."""

    reason: str
    """For people."""
    status: int | None = None
    """None if no answer came."""
    codes: frozenset[str] = frozenset()
    """The registry's error codes (distribution-spec, "Error Codes")."""
    told: str = ""
    """Its own words."""
    absent: bool = False
    """Nobody answered at all."""
    pause: float | None = None
    """Seconds that it asks to be left alone."""


def plain(url: str) -> str:
    """Return an address for messages: no user, no query (a signed address carries its secret there)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def pause(attempt: int) -> float:
    """Return seconds: 0.25, 0.5, 1, ... with up to as much again, so that many who failed together do not return so."""
    return float(min(0.25 * 2**attempt, LONGEST_PAUSE / 2)) * (1 + random.random())  # noqa: S311


def keeps_tags(fault: RegistryFault) -> bool:
    """Whether a refused PUT of a manifest is due to a rule of immutability; no two registries say it alike.

    Harbor answers 412, ECR and Artifact Registry 400, Quay and ACR 405 or 409, each with words of their own.
    """
    return fault.status in (409, 412) or (
        fault.status in (400, 403, 405) and bool(re.search("immutab|overwrit|already exist", fault.told, re.IGNORECASE))
    )


def hint(status: int, host: str) -> str | None:
    match status:
        case 401 | 403:
            return f"docker login {host}, with an account that may do this"
        case 404:
            return "is the name of the repository right?"
        case 413:
            return "the registry takes no body of this size; a proxy in front of it may say so"
        case 500 | 507:
            return "look into the registry's log (is its disk full?), then run the same again: it is safe"
        case _:
            return None


def refused(error: BaseException) -> bool:
    return isinstance(_innermost(error), ConnectionRefusedError)


def _innermost(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def cause(error: BaseException) -> str:
    """Return the innermost reason of a nested exception, without addresses."""
    inner = _innermost(error)
    return f"{type(inner).__name__}: {inner}".partition(" for url")[0][:200]


def refusal(method: str, url: str, status: int, headers: Mapping[str, str], body: bytes) -> RegistryFault:
    """Return what a registry says of an error (distribution-spec, "Error Codes")."""
    try:
        errors = read_json(body, limit=1 << 20, items=1000)["errors"][:5]
        told = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)[:400]
        codes = frozenset(str(error.get("code", "")) for error in errors)
    except (ForeignError, KeyError, TypeError, AttributeError):
        told, codes = "", frozenset()
    return RegistryFault(
        reason=f"{method} {plain(url)}: the registry answered {status}" + (f" ({told})" if told else ""),
        status=status,
        codes=codes,
        told=told,
        pause=read_pause(headers.get("Retry-After", ""), now=datetime.now(UTC), most=LONGEST_PAUSE),
    )


def gave_up(method: str, host: str, fault: RegistryFault) -> RegistryError:
    """Return the error for what failed at every attempt."""
    if fault.status == 500 and method in ("GET", "HEAD"):
        return RegistryBroken(fault.reason, hint=hint(500, host))
    if fault.absent and is_loopback(host):
        return RegistryError(
            f"no registry answers at {host}",
            hint="start one: docker-registry serve docs/examples/registry.yml (see docs/how-to/publish.md)",
        )
    advice = f"is {host} up and reachable? What was done is safe to repeat"
    if fault.status == 429:
        advice = "it limits how often it may be asked; run the same again later"
    return RegistryError(fault.reason, hint=advice)


def address(text: str, *, base: str | None) -> str:
    """Read an address that a registry gave.

    Raises:
        RegistryError: it is none.
    """
    try:
        return read_url(text, base=base)
    except ForeignError as error:
        raise RegistryError(f"the registry names an address that cannot be used: {error}: {text[:80]!r}") from error

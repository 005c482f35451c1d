"""Reads METADATA and WHEEL: names and versions come out that can be nothing else. Pure.

Both become parts of paths and of addresses, so that what is not a name or no version is refused here, where it enters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from typing import Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from assay.errors import WheelError
from assay.foundation.budget import FACTS, Budget

__all__ = ["MAX_LINES", "Metadata", "read_metadata", "read_tags"]

MAX_LINES: Final = 20_000
"""Lines of headers; the largest real METADATA have some hundreds."""
MAX_LINE: Final = 4096
MAX_NESTED: Final = 50
_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What METADATA says of a distribution."""

    name: str
    """Normalised."""
    version: str | None
    """As it is written, a version of PEP 440; None where there is none."""
    requires_dist: tuple[str, ...] = ()
    requires_python: str | None = None


def _headers(text: str, what: str, budget: Budget) -> Message:
    """Parse what stands before the first empty line."""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    lines = head.count("\n") + 1
    budget.take(kept=len(head), items=lines)
    if lines > MAX_LINES:
        raise WheelError(f"its {what} has {lines} lines of headers, more than {MAX_LINES}")
    return HeaderParser().parsestr(head)


def read_metadata(text: str, *, budget: Budget | None = None) -> Metadata:
    """Read METADATA.

    Raises:
        WheelError: its name or version is none, or a requirement is absurd.
    """
    message = _headers(text, "METADATA", budget or Budget("its METADATA", FACTS))
    raw_name = str(message.get("Name") or "").strip()
    # What is to be normalised has a bound as well.
    name = canonicalize_name(raw_name[: MAX_LINE + 1])
    if len(raw_name) > MAX_LINE or not _NAME.fullmatch(name):
        raise WheelError(f"its METADATA has the name {raw_name[:80]!r}, which is none")
    version = str(message.get("Version") or "").strip() or None
    if version is not None:
        _check_version(version)
    python = message.get("Requires-Python")
    return Metadata(
        name=name,
        version=version,
        requires_dist=tuple(_line(str(line)) for line in message.get_all("Requires-Dist") or []),
        requires_python=None if python is None else _line(str(python)),
    )


def _check_version(version: str) -> None:
    try:
        if not _VERSION.fullmatch(version):
            raise InvalidVersion(version)
        Version(version)
    except (InvalidVersion, ValueError) as error:
        raise WheelError(f"its METADATA has the version {version[:80]!r}, which is none (PEP 440)") from error


def _line(text: str) -> str:
    line = " ".join(text.split())
    if len(line) > MAX_LINE or line.count("(") > MAX_NESTED or _CONTROL.search(line):
        raise WheelError(f"its METADATA has a requirement that cannot be one: {line[:80]!r}")
    return line


def read_tags(text: str, *, budget: Budget | None = None) -> tuple[str, ...]:
    """Return the tags that a WHEEL file names; those that cannot be tags are left out.

    Raises:
        WheelError: it has absurdly many lines.
    """
    message = _headers(text, "WHEEL", budget or Budget("its WHEEL", FACTS))
    tags = (str(tag).strip() for tag in message.get_all("Tag") or ())
    return tuple(tag for tag in tags if len(tag) <= 255 and tag.isascii() and tag.isprintable())

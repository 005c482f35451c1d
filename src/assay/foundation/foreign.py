"""Reads what others wrote: JSON, integers, addresses, times. Each with a bound, each with one kind of error. Pure.

Whatever comes from a registry, an index, a wheel, a server or a file that someone else made goes through here. A value
that comes out can be hashed, compared, printed and written again without a surprise.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

__all__ = [
    "ForeignError",
    "read_integer",
    "read_json",
    "read_pause",
    "read_text",
    "read_time",
    "read_url",
    "sane_time",
]

BYTES: Final = 8 << 20
"""JSON of more bytes is not read, unless the caller says otherwise."""
DEPTH: Final = 64
ITEMS: Final = 500_000
"""Values of a JSON document, roughly: each takes some 100 bytes once it is read."""
URL_LENGTH: Final = 8192
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)

_INTEGER: Final = re.compile(r"[0-9]{1,20}")
# A string, also one without an end, is one match; possessive, so that no text makes it go back.
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_NO_URL: Final = re.compile(r"[\x00-\x20\x7f-\xa0\\<>\"`{}|^]")


class ForeignError(ValueError):
    """Untrusted input cannot be read; the message has the reason and does not repeat the input."""


def read_json(
    data: bytes | str, *, limit: int = BYTES, depth: int = DEPTH, items: int = ITEMS, constants: bool = False
) -> Any:
    """Read a JSON document.

    Args:
        limit: bytes that it may have.
        depth: how deep its lists and objects may nest.
        items: values that it may have in all.
        constants: NaN and Infinity are numbers, as in metrics of records; elsewhere they are errors.

    Raises:
        ForeignError: it is larger, deeper or longer than that, no UTF-8, no JSON, or has numbers or text that no
            program can rely on (integers of more than 64 bits, floats out of range, halves of characters).
    """
    if len(data) > limit:
        raise ForeignError(f"it has {len(data)} bytes, more than {limit}")
    text = read_text(data) if isinstance(data, bytes) else data
    _measure(text, depth, items)
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=float if constants else _constant
        )
    except ForeignError:
        raise
    except (ValueError, RecursionError) as error:
        raise ForeignError("it is not JSON") from error
    if _SURROGATE.search(text):
        _whole_characters(value)
    return value


def read_text(data: bytes) -> str:
    """Read UTF-8, with or without a byte order mark.

    Raises:
        ForeignError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForeignError(f"it is not UTF-8 (byte {error.start})") from error


def _measure(text: str, depth: int, items: int) -> None:
    """Count before anything is built; stops at the first excess."""
    openings = text.count("[") + text.count("{")
    if openings <= depth and openings + text.count(",") <= items:
        return
    level = found = 0
    for token in _TOKEN.finditer(text):
        sign = text[token.start()]
        if sign in "[{":
            level += 1
            found += 1
            if level > depth:
                raise ForeignError(f"it nests deeper than {depth} levels")
        elif sign in "]}":
            level -= 1
        elif sign == ",":
            found += 1
        if found > items:
            raise ForeignError(f"it has more than {items} values")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 1 << 64:
        raise ForeignError("it has an integer of more than 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ForeignError("it has a number that is out of range")
    return value


def _constant(text: str) -> float:
    raise ForeignError(f"it has {text}, which is not JSON")


def _whole_characters(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.keys())
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise ForeignError("it has half of a surrogate pair, which is not a character") from error


def read_integer(text: str, *, least: int = 0, most: int = (1 << 63) - 1) -> int:
    """Read a whole number of ASCII digits, nothing else: no sign, no space, no digits of other scripts.

    Raises:
        ForeignError: it is no such number, or out of range.
    """
    if not _INTEGER.fullmatch(text):
        raise ForeignError("it is not a whole number in ASCII digits")
    value = int(text)
    if not least <= value <= most:
        raise ForeignError(f"it is not between {least} and {most}")
    return value


def read_url(text: str, *, base: str | None = None, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """Read an address, absolute or, with `base`, relative to another one.

    Raises:
        ForeignError: it is none, has another scheme, no host, or a user's name in it.
    """
    if len(text) > URL_LENGTH or _NO_URL.search(text):
        raise ForeignError("it is too long for an address, or has characters that no address has")
    try:
        url = urljoin(base, text) if base else text
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ForeignError("it is not an address") from error
    if parts.scheme not in schemes:
        raise ForeignError(f"it is not an address of {' or '.join(schemes)}")
    if not host or port == 0:
        raise ForeignError("it is an address without a host, or with an impossible port")
    if "@" in parts.netloc:
        raise ForeignError("it is an address with a user in it")
    return url


def read_time(text: str) -> datetime:
    """Read a moment of ISO 8601 with its zone; returns it in UTC.

    Raises:
        ForeignError: it is none, has no zone, or lies outside of the years that can be meant.
    """
    if len(text) > 40 or not text.isascii():
        raise ForeignError("it is not a time")
    try:
        return sane_time(datetime.fromisoformat(text))
    except ForeignError:
        raise
    except ValueError as error:
        raise ForeignError("it is not a time") from error


def sane_time(moment: datetime) -> datetime:
    """Return a plausible time with a zone, in UTC.

    Raises:
        ForeignError: it has none, or cannot.
    """
    if moment.tzinfo is None:
        raise ForeignError("it is a time without a zone")
    try:
        found = moment.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise ForeignError("it is a time that no calendar has") from error
    if not EARLIEST <= found < LATEST:
        raise ForeignError(f"it is a time outside of the years {EARLIEST.year} to {LATEST.year - 1}")
    return found


def read_pause(text: str, *, now: datetime, most: float) -> float | None:
    """Read how long a server asks to wait (`Retry-After`, RFC 9110): seconds, at most `most`; None if it is unreadable.

    Args:
        now: with a zone; the server may name a date instead of seconds.
    """
    try:
        return float(min(read_integer(text.strip()), most))
    except ForeignError:
        pass
    try:
        moment = sane_time(email.utils.parsedate_to_datetime(text[:64]))
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max((moment - now).total_seconds(), 0.0), most)

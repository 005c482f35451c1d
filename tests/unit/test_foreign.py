"""What others wrote is read within bounds, or refused by one kind of error."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.foundation.foreign import ForeignError, read_integer, read_json, read_pause, read_time, read_url, sane_time

NOW = datetime(2026, 11, 30, tzinfo=UTC)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_json_of_any_program_is_read(value: object, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert read_json(text.encode()) == value


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
        b'["' + b'\\"' * 1_000_000,
        b"NaN",
        b'{"a":Infinity}',
        b"1e999",
        b"9" * 100_000,
        b"[18446744073709551616]",
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'["\\udc00\\ud800"]',
        b"\xff\xfe\x00{",
        "\u00b2".encode(),
        b"",
        b'{"a":1} x',
    ],
    ids=lambda data: repr(data[:16]),
)
def test_json_that_is_refused(data: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(ForeignError):
        read_json(data)
    assert time.monotonic() - began < 5


def test_json_has_three_bounds() -> None:
    with pytest.raises(ForeignError, match="bytes"):
        read_json(b'"' + b"x" * 100 + b'"', limit=50)
    with pytest.raises(ForeignError, match="deeper"):
        read_json(b"[[[1]]]", depth=2)
    with pytest.raises(ForeignError, match="values"):
        read_json(b"[" + b"[]," * 9_000_000 + b"0]", limit=32 << 20)
    # Signs inside of text are no structure.
    assert read_json(json.dumps("[{," * 100), depth=2, items=3) == "[{," * 100
    assert read_json(json.dumps(['\\"[[[[', "]"]), depth=1, items=2) == ['\\"[[[[', "]"]


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert read_json(b'"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"


def test_constants_where_they_are_asked_for() -> None:
    assert math.isinf(read_json(b"Infinity", constants=True))


@pytest.mark.parametrize("text", ["", " 1", "1 ", "+1", "-1", "\u00b2", "\u0661", "1_0", "1e3", "9" * 21, "0x1", "11"])
def test_integers_that_are_refused(text: str) -> None:
    with pytest.raises(ForeignError):
        read_integer(text, most=10)


def test_integers() -> None:
    assert [read_integer("0"), read_integer("007"), read_integer(str(2**63 - 1))] == [0, 7, 2**63 - 1]


@pytest.mark.parametrize(
    "text",
    [
        "http://[::bad/",
        "http://host:99999/",
        "http://host:0/",
        "http://",
        "file:///etc/passwd",
        "javascript:1",
        "http://127.0.0.1@evil.example/",
        "http://a b/",
        "http://a/\n",
        "http://a\\b/",
        "http://a/" + "x" * 9000,
        "/relative",
        "http://\u2100.example/",
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(ForeignError):
        read_url(text)


def test_addresses() -> None:
    assert read_url("https://host.example:5000/v2/?a=b%20c") == "https://host.example:5000/v2/?a=b%20c"
    assert read_url("../next?n=1", base="http://[::1]:5000/v2/x/") == "http://[::1]:5000/v2/next?n=1"
    with pytest.raises(ForeignError):
        read_url("//[", base="http://a/")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-19T12:00:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "2200-01-01T00:00:00Z",
        "yesterday",
        "\u0662026-11-19",
        "",
    ],
)
def test_times_that_are_refused(text: str) -> None:
    with pytest.raises(ForeignError):
        read_time(text)


def test_times_come_in_utc() -> None:
    assert read_time("2026-11-30T01:00:00+01:00") == NOW
    assert sane_time(datetime(2026, 11, 30, 2, tzinfo=timezone(timedelta(hours=2)))).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("5", 5.0),
        ("1000000000", 30.0),
        ("Mon, 30 Nov 2026 00:00:07 GMT", 7.0),
        ("Sun, 29 Nov 2026 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 30.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("\u00b2", None),
        ("-1", None),
        ("1e300", None),
        ("Mon, 30 Nov 2026 00:00:07", None),
    ],
)
def test_pauses_are_bounded(text: str, pause: float | None) -> None:
    assert read_pause(text, now=NOW, most=30.0) == pause

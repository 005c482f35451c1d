"""Foreign text commands no terminal, breaks no page and comes back from JSON as it was."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from xml.dom import minidom

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.audit.formats import junit
from assay.cli import console
from assay.errors import OutputError
from assay.foundation.outcome import Outcome
from assay.foundation.printable import is_printable, json_text, one_line, printable
from assay.pages.badge import badge
from assay.pages.markdown import cell_text

HOSTILE = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b[2J\x1b[Hok: verified", "\x9b31m", "a\rok: verified", "\x00\x08\x7f",
    "\u202egnp.exe", "\u2066a\u2069", "\ud800", "x\udcff", "\u2028\u2029", "\ufeff\ufffe\uffff", "\U000e0041", "]]>",
    "<script>", "a\nok: verified",
)  # fmt: skip


def dangerous(text: str) -> list[str]:
    """Return what is left in a text that a terminal or reader could obey; judged by Unicode's own categories."""
    joiners = {"\u200c", "\u200d"}
    return [
        character
        for character in text
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        and character not in joiners | {"\n", "\t"}
        and unicodedata.bidirectional(character) not in {"AN", "AL"}
    ]


@given(st.text(st.characters(), max_size=30))
def test_no_text_commands_a_terminal(text: str) -> None:
    shown = printable(text)

    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in "\n\t"]
    assert is_printable(shown)
    assert shown == printable(shown)
    assert "\n" not in one_line(text)
    shown.encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_escaped(text: str) -> None:
    assert not dangerous(printable(text))


def test_colours_are_dropped_and_the_rest_is_shown() -> None:
    assert "red" == printable("\x1b[1;31mred\x1b[0m")
    assert r"\x1b]0;title\x07" == printable("\x1b]0;title\x07")
    assert r"\u202egnp" == printable("\u202egnp")
    assert r"a\nb c" == one_line("a\nb\tc")
    assert "é 한 👩\u200d🚀 ש" == printable("é 한 👩\u200d🚀 ש")


@given(st.recursive(st.text(st.characters(), max_size=10), lambda inner: st.lists(inner, max_size=3)))
def test_json_holds_no_raw_control_and_comes_back_exactly(value: object) -> None:
    text = json_text(value)

    text.encode()
    assert is_printable(text)
    assert value == json.loads(text)


class Stream(io.TextIOWrapper):
    """A stream that keeps its bytes, or fails as a full disk does."""

    def __init__(self, *, fails: int | None = None, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")
        self._fails = fails

    def write(self, text: str) -> int:
        if self._fails is not None:
            raise OSError(self._fails, "No space left on device")
        return super().write(text)

    @property
    def bytes(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("text", HOSTILE)
def test_every_way_of_printing_is_harmless(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Stream(), Stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    console.say(text)
    console.warn(text)
    console.fail(text, hint=text)
    console.status(text, text)
    console.data(text)
    console.json_data({text: [text]})
    console.data_table((text, "b"), [(text, text)], title=text)
    console.data_table((text, text), [(text, text), ("x" * 600, text)], title=text)

    for stream in (out, err):
        assert not dangerous(stream.bytes.decode())


def test_a_line_feed_forges_no_message_and_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Stream(), Stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    console.fail("refused\nok: verified", hint="no\nok: verified")
    console.warn("refused\nok: verified")
    console.data_table(("a",), [("x\nok: verified",)])

    assert not [line for line in (out.bytes + err.bytes).decode().splitlines() if line.startswith("ok: verified")]


def test_a_closed_or_full_stdout_is_an_error_and_stderr_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, Stream(fails=28)):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        console.say("x")
        console.fail("x")
        with pytest.raises(OutputError):
            console.data("x")
        with pytest.raises(OutputError):
            console.data_table(("a",), [("x",)])


@pytest.mark.parametrize("columns", ["", "abc", "-5", "0", "1", "19", "١٢", "9" * 5000, "12.5"])
def test_columns_that_are_no_sensible_number_are_skipped(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stream())
    monkeypatch.setenv("COLUMNS", columns)

    assert 500 == console.out().width


@pytest.mark.parametrize("text", HOSTILE)
def test_badges_and_junit_are_well_formed(text: str) -> None:
    found = minidom.parseString(badge(text, text, "#1a7f37"))
    assert not found.getElementsByTagName("script")
    assert dangerous(cell_text(text)) == []
    assert "\n" not in cell_text(text)
    assert "<" not in cell_text(text)
    assert Outcome.WORKS.symbol
    assert junit([])

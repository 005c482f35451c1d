"""Whatever a command raises, its caller gets a message and an exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import jsonschema
import pytest

from assay.cli import console, main
from assay.cli.outermost import BUG, guarded
from assay.errors import (
    AssayError,
    EvidenceError,
    NothingSelected,
    OutputError,
    RegistryError,
    ToolError,
    WheelError,
)
from assay.foundation.printable import is_printable


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


def test_the_exit_code_of_a_command_whose_reader_hangs_up_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`assay verify IMAGE | head -1` must not tell a gate that a revoked image is fine."""
    read, write = os.pipe()
    os.close(read)

    def refuse() -> int:
        console.data("x" * 100_000)
        console.json_data({"ok": False})
        return 6

    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)

        assert guarded(refuse, ["verify"]) == 6


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            NothingSelected("nothing is selected", hint="name a cell"),
            3,
            "error: nothing is selected\n  try: name a cell\n",
        ),
        (click.UsageError("no such option \x1b[2J"), 2, "Error: no such option"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (OutputError("standard output is closed"), 1, "error: standard output is closed\n"),
        (BrokenPipeError(), 0, ""),
        (OSError(36, "File name too long", "x" * 5000), 1, "x: File name too long\n"),
        (PermissionError(13, "Permission denied", b"/a\xff"), 1, "error: /a\\udcff: Permission denied\n"),
    ],
)
def test_expected_values_are_named(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code == guarded(raising(error), ["plan"])

    shown = capsys.readouterr().err
    assert said in shown
    assert "bug" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "error", [KeyError("x"), MemoryError(), RecursionError("deep"), OSError(5, "Input/output error")]
)
def test_a_bug_is_reported_with_a_report_and_its_own_code(
    error: Exception, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert BUG == guarded(raising(error), ["plan", "--project", "x y"]) == 70

    shown = capsys.readouterr().err
    (report,) = tmp_path.glob("assay-bug-*.txt")
    assert "error: this is a bug in assay: " in shown
    assert str(report) in shown
    assert "command: assay plan --project 'x y'" in shown
    assert re.search(r"^assay \S+, Python 3\.\d+\.\d+", shown, re.MULTILINE)
    assert "Traceback" not in shown
    assert "Traceback" in report.read_text()
    assert 0o600 == report.stat().st_mode & 0o777


def test_the_report_of_a_bug_holds_no_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ASSAY_KEY_PASSWORD", "from-the-environment")
    error = ValueError("GET https://user:in-address@host with from-the-environment")

    guarded(raising(error), ["launch", "x", "--env", "PGPASSWORD=in-argument", "--set", "api-key=in-flag"])

    (report,) = tmp_path.glob("assay-bug-*.txt")
    told = capsys.readouterr().err + report.read_text()
    # The line of this test that raises is quoted in the traceback of the file.
    for secret in ("from-the-environment", "in-address@host", "in-argument", "in-flag"):
        assert secret not in told


@pytest.mark.parametrize(
    ("error", "code", "message", "hint"),
    [
        (NothingSelected("nothing is selected", hint="name a cell"), 3, "nothing is selected", "name a cell"),
        (RegistryError("\x1b[2Jdenied https://user:word@host"), 5, "\x1b[2Jdenied https://***@host", None),
        (click.UsageError("no such option"), 2, "no such option", None),
        (
            PermissionError(13, "Permission denied", "/a"),
            1,
            "/a: Permission denied",
            "check the path, its permissions and the free space",
        ),
        (KeyboardInterrupt(), 130, "interrupted", None),
    ],
)
def test_with_format_json_an_error_is_a_document_on_stdout_and_text_on_stderr(
    error: BaseException,
    code: int,
    message: str,
    hint: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert code == guarded(raising(error), ["plan", "--format", "json"])

    shown = capsys.readouterr()
    expected = {"version": 1, "kind": "error", "exit_code": code, "message": message, "hint": hint}
    assert expected == json.loads(shown.out)
    assert "\x1b" not in shown.out + shown.err
    assert shown.err
    jsonschema.validate(json.loads(shown.out), SCHEMA)


SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/error.schema.json").read_text())


def test_a_bug_is_a_document_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert BUG == guarded(raising(KeyError("x")), ["plan", "--format", "json"])

    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    assert BUG == document["exit_code"]
    assert str(tmp_path) in document["hint"]


@pytest.mark.parametrize("words", [[], ["--format", "text"], ["--format"], ["--", "--format", "json"]])
def test_without_format_json_an_error_writes_nothing_to_stdout(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 3 == guarded(raising(NothingSelected("nothing")), ["plan", *words])

    assert not capsys.readouterr().out


def test_an_error_after_the_answer_is_not_a_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        console.json_data({"version": 1})
        raise NothingSelected("nothing")

    assert 3 == guarded(work, ["plan", "--format", "json"])

    shown = capsys.readouterr()
    assert {"version": 1} == json.loads(shown.out)
    assert "error: nothing" in shown.err


def test_the_hint_for_a_wrong_option_is_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["plan", "--nope", "--format=json"])

    assert "assay plan --help" == json.loads(capsys.readouterr().out)["hint"]


@pytest.mark.parametrize("kind", [RegistryError, EvidenceError, ToolError, WheelError])
def test_foreign_text_cannot_forge_an_output_line(kind: type[AssayError], capfd: pytest.CaptureFixture[str]) -> None:
    said = "401: \x1b[2K\x1b]0;x\x07\x9b1A\rdenied\nok: verified\u202e https://user:word@host"

    assert kind.exit_code == guarded(raising(kind(said, hint=said)), [])

    shown = capfd.readouterr().err
    assert is_printable(shown)
    assert not [line for line in shown.splitlines() if line.startswith("ok: verified")]
    assert "word" not in shown


def test_without_a_place_for_the_file_the_traceback_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))

    assert BUG == guarded(raising(KeyError("x")), [])

    assert "Traceback" in capsys.readouterr().err


def test_a_signal_inside_an_import_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        try:
            os.kill(os.getpid(), 15)
            for _ in range(1000):
                pass
        except KeyboardInterrupt as error:
            # What Python 3.11 makes of anything that is raised inside `__set_name__`.
            raise RuntimeError("Error calling __set_name__") from error
        return 0

    assert 130 == guarded(work, [])
    assert "interrupted\n" == capsys.readouterr().err


def test_a_log_is_not_read_from_a_closed_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdin", None)

        assert 2 == main(["diagnose", "-"])

    assert "stdin is closed" in capsys.readouterr().err


def test_only_the_console_asks_a_standard_stream_for_a_terminal() -> None:
    """A stream that the caller closed is None: `sys.stdout.isatty()` would be an error of its own."""
    sources = Path(console.__file__).parents[1].rglob("*.py")
    asks = [path.name for path in sources if re.search(r"sys\.std(in|out|err)\.(isatty|flush)", path.read_text())]

    assert [] == asks

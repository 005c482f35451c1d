"""The linter of the project's English finds what it should, and passes over code."""

from __future__ import annotations

from pathlib import Path

import prose
import pytest

PAGE = Path("page.md")


@pytest.mark.parametrize(
    "text",
    ["It fails for want of a GPU.", "The cells that\nare meant.", "- an item of which\n  nothing is known of it"],
)
def test_dialect_is_found_in_pages(text: str) -> None:
    (problem,) = prose.markdown(PAGE, text)

    assert "write: " in problem.text


@pytest.mark.parametrize(
    "text",
    [
        "`for want of`",
        "```text\nfor want of a GPU\n```",
        "[a link](for-want-of.md)",
        "This is meant for people.",
        "| " + "word " * 25 + "| " + "word " * 25 + "|",
    ],
)
def test_code_and_plain_english_pass(text: str) -> None:
    assert list(prose.markdown(PAGE, text)) == []


def test_long_sentences_and_lines_are_found() -> None:
    found = [problem.text for problem in prose.markdown(PAGE, "word " * 41 + "\n\n" + "x" * 301)]

    assert found == [f"a sentence of 41 words: {('word ' * 12)}...", "a line of 301 characters"]


def test_a_long_list_is_not_a_long_sentence() -> None:
    assert list(prose.markdown(PAGE, "\n".join(["- " + "word " * 20] * 5))) == []


def test_strings_docstrings_and_test_names_of_modules_are_checked() -> None:
    module = '''
def f():
    """Look over this machine."""
    raise ValueError("it ends for want of memory")

def test_what_is_meant_is_found(): ...
'''

    assert [(3, "'Look over this'"), (4, "'for want of'"), (6, "'is meant'")] == sorted(
        (problem.line, problem.text.partition(";")[0]) for problem in prose.python(Path("m.py"), module)
    )


def test_command_line_prints_places_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("It is so for want of time.\n")

    assert prose.main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:1: ")
    page.write_text("It is fine.\n")
    assert prose.main([str(page)]) == 0

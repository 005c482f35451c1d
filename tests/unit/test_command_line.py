"""What all commands share: groups and examples in their help, quiet runs, completion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from doc_commands import wrong
from terminal_tools import project

from assay.cli import COMMANDS, console, main, root
from assay.cli.completing import cells, features, gpus
from assay.cli.examples import EXAMPLES, GROUPS

__all__ = ["project"]


@pytest.fixture(autouse=True)
def _talkative() -> Iterator[None]:
    yield
    console.talk(quiet=False, progress=True)


def test_each_command_is_in_one_group_of_the_help() -> None:
    assert sorted(COMMANDS) == sorted(name for names in GROUPS.values() for name in names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_of_commands_and_options_that_exist(name: str) -> None:
    assert [] == [one for line in EXAMPLES[name] for one in wrong(line)]


def test_help_of_a_command_ends_with_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    main(["up", "--help"])

    assert capsys.readouterr().out.rstrip().endswith(EXAMPLES["up"][-1])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("words", [["--quiet", "plan"], ["plan", "--quiet"], ["-q", "plan"]])
def test_quiet_run_prints_results_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(words)
    printed = capsys.readouterr()

    assert "vllm-blackwell" in printed.out
    assert "" == printed.err


def test_quiet_run_still_prints_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["plan", "--quiet", "--project", str(tmp_path)])

    assert 2 == code
    assert "error: " in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_shell_is_offered_cells_cards_and_features() -> None:
    context = click.Context(root)
    option = click.Option(["--x"])

    assert "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0" in cells(context, option, "vllm-blackwell-cu130")
    assert "RTX 5090" in gpus(context, option, "rtx 50")
    assert ["fp8-gemm,cuda-graphs"] == features(context, option, "fp8-gemm,cuda-g")


def test_completion_outside_of_a_project_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "matrix.yaml").write_text("- wrong")
    monkeypatch.chdir(tmp_path)

    assert [] == cells(click.Context(root), click.Option(["--x"]), "")


# click asks bash for its version, which is a process.
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_script_of_each_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["completion", shell])
    assert "_ASSAY_COMPLETE" in capsys.readouterr().out
    assert "_ASSAY_COMPLETE" not in os.environ

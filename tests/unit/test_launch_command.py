"""What `assay launch` says beside what it writes; and that launch and the pages rest on the same claims."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from terminal_tools import project

from assay.adapters.files.serving import load_claims
from assay.cli import main
from assay.cli.predicting import all_claims
from assay.evidence import claims as ledger

__all__ = ["project"]

ROOT = Path(__file__).parents[2]
CELL = "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0"
WORDS = ["launch", CELL, "--model", "Qwen/Qwen3-32B-AWQ", "--target", "sm_120", "--offline"]


@pytest.mark.usefixtures("project")
def test_a_local_tag_in_a_manifest_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([*WORDS, "--format", "kubernetes"])

    said = capsys.readouterr().err
    assert "is a tag of this machine, which no other node can pull" in said
    assert "--reference" in said


@pytest.mark.usefixtures("project")
def test_a_reference_of_a_registry_is_written_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([*WORDS, "--format", "kubernetes", "--reference", "r.example/vllm@sha256:" + "a" * 64])

    printed = capsys.readouterr()
    assert "r.example/vllm@sha256:" in printed.out
    assert "warning" not in printed.err


@pytest.mark.usefixtures("project")
def test_reasons_are_not_said_twice_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    assert 0 == main(WORDS)

    printed = capsys.readouterr()
    assert "card: sm_120" in printed.out
    assert "card: sm_120" not in printed.err


@pytest.mark.usefixtures("project")
def test_a_closed_standard_output_is_not_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        code = main(WORDS)

    assert 1 == code
    assert "standard output cannot be written: it is closed" in capsys.readouterr().err


def test_launch_and_pages_rest_on_both_ledgers_and_each_claim_counts_once() -> None:
    found = all_claims(ROOT)

    serving = load_claims(ROOT / "knowledge" / "serving_claims.yaml")
    own = ledger.read((ROOT / "images/vllm-blackwell/claims.yaml").read_text(), file="x", image="vllm-blackwell")
    assert set(own) <= set(found)
    keys = [(one.feature, one.target, one.engine, one.date) for one in found if one in serving]
    assert keys
    assert not {(one.feature, one.target, one.engine, one.date) for one in own} & set(keys)

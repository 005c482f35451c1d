"""The first hour of a platform engineer who keeps images for a team, as the README tells it; nothing is built."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readme import typed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.index


def test_a_project_of_ones_own_answers_within_ten_minutes(tmp_path: Path) -> None:
    began, folder = time.monotonic(), tmp_path
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    said: dict[str, str] = {}
    for words in typed("You keep images for a team"):
        match words:
            case ["cd", name]:
                folder /= name
            case ["assay", *rest]:
                command = [sys.executable, "-m", "assay", *rest]
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
                said[" ".join(rest)] = done.stdout + done.stderr
                assert 0 == done.returncode, (rest, done.stdout, done.stderr)
            case ["nox", "-s", session]:
                assert f'name="{session}"' in (folder / "noxfile.py").read_text()
            case _:
                raise AssertionError(f"nobody runs {words}")

    assert time.monotonic() - began < 600
    assert "vllm-blackwell-cu130" in said["plan"]
    assert "vllm-blackwell-cu130" in said["build --dry-run"]
    assert (folder / ".github" / "workflows" / "images.yml").is_file()
    # A typo is an error with its place and a suggestion.
    matrix = (folder / "matrix.yaml").read_text()
    (folder / "matrix.yaml").write_text(matrix.replace("targets:", "tragets:", 1))
    wrong = subprocess.run(
        [sys.executable, "-m", "assay", "plan"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == wrong.returncode
    assert "did you mean 'targets'" in wrong.stderr

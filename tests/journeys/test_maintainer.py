"""The first hour of the maintainer of a CUDA extension's wheel, as the README tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readme import typed

ROOT = Path(__file__).parents[2]
WHEEL = "sgl-kernel==0.3.9.post2"
pytestmark = pytest.mark.index


def audit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
    command = [sys.executable, "-m", "assay", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_grid_names_the_missing_symbol_for_each_torch_and_gpu(tmp_path: Path) -> None:
    ((_, *words),) = typed("You publish a wheel with CUDA code")
    # A wheel that everybody can read stands for the one in dist/.
    words = [WHEEL if word == "dist/*.whl" else word for word in words]
    began = time.monotonic()

    done = audit(tmp_path, *words)

    assert time.monotonic() - began < 600
    assert 1 == done.returncode, done.stderr
    grid = done.stdout
    assert "RTX 5090" in grid
    assert "H200" in grid
    assert "2.8.0" in grid
    assert "2.9.1" in grid
    assert "c10::SymInt::sym_ne" in " ".join(grid.split()), "the symbol that torch 2.9 lacks"
    assert all(len(line) <= 80 for line in grid.splitlines())


@pytest.mark.parametrize(
    ("form", "holds"), [("markdown", "| torch |"), ("html", "<table>"), ("badge", "<svg"), ("json", '"grids"')]
)
def test_the_same_grid_in_the_form_that_a_page_wants(tmp_path: Path, form: str, holds: str) -> None:
    done = audit(tmp_path, "audit", WHEEL, "--torch", "2.8.0,2.9.1", "--target", "RTX 5090", "--format", form)

    assert 1 == done.returncode, done.stderr
    assert holds in done.stdout
    if form == "json":
        assert 1 == json.loads(done.stdout)["schema_version"]


def test_a_wrong_file_is_reported_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "mine-1.0.tar.gz").write_bytes(b"x")

    done = audit(tmp_path, "audit", "dist/mine-1.0.tar.gz", "--target", "RTX 5090")

    assert 2 == done.returncode
    assert "is a source archive" in done.stderr
    assert "pip wheel --no-deps" in done.stderr

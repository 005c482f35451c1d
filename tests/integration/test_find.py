"""`assay find` with the real resolver against an index on loopback, in an empty folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from local_index import LocalIndex, served

from assay.cli import main

ROOT = Path(__file__).parents[2]


def tag(machine: str, python: str = "cp312") -> str:
    return f"{python}-{python}-manylinux_2_28_{machine}"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index with three releases of `ext`: the newest cannot be resolved, the second is for x86-64 alone."""
    index = LocalIndex(tmp_path / "index")
    index.add("ext", "3.0", requires=["numpy>=9"])
    index.add("ext", "2.0", tag=tag("x86_64"), requires=["numpy"])
    index.add("ext", "1.0", tag=tag("aarch64", "cp311"), requires=["numpy<2"])
    index.add("ext", "1.0", tag=tag("x86_64", "cp311"), requires=["numpy<2"])
    index.add("numpy", "2.0")
    index.add("numpy", "1.0")
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    with served(index) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        yield folder


@pytest.mark.usefixtures("empty")
def test_each_platform_has_its_own_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["find", "ext", "--target", "RTX 5090,DGX Spark", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads((ROOT / "schemas/find.schema.json").read_text()))
    answers = {
        one["platform"]: [(item["version"], item["outcome"]) for item in one["attempts"]]
        for one in document["searches"]
    }

    assert code == 0
    assert answers["x86_64"][-1] == ("2.0", "fits")
    assert answers["aarch64"][-1] == ("1.0", "fits")
    assert ("3.0", "no_lock") in answers["x86_64"]


@pytest.mark.usefixtures("empty")
def test_text_says_why_the_newer_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "ext", "--target", "DGX Spark", "--python", "3.11"]) == 0
    told = capsys.readouterr()

    assert "1.0 fits" in told.out
    assert "no wheel for Linux aarch64" in told.out
    assert "resolving for Python 3.11 on aarch64" in told.err
    assert main(["find", "ext>1", "--target", "DGX Spark"]) == 1
    assert "nothing fits" in capsys.readouterr().out


@pytest.mark.usefixtures("empty")
def test_a_folder_of_wheels_is_searched_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = LocalIndex(tmp_path / "mine")
    mine.add("ext", "4.0", requires=["numpy"])

    assert main(["find", "ext", "--target", "sm_120", "--index", str(tmp_path / "mine/files")]) == 0
    assert "4.0 fits" in capsys.readouterr().out

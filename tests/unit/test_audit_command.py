"""`assay audit` of wheels on the command line: what is not a wheel, what an index lacks, and every form of a grid."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
from wheels import wheel_bytes

from assay.cli import main
from assay.errors import PackageIndexError, UsageError
from assay.pipeline.wheel_choice import choose_wheel, refuse_other
from assay.ports.index import IndexFile

ROOT = Path(__file__).parents[2]


class Indexed:
    """An index with these files of `a`."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        names = self._names if project == "a" else ()
        return tuple(IndexFile(project="a", filename=name, url=f"https://x.example/{name}") for name in names)

    def origins(self, index: str | None = None) -> frozenset[str]:
        return frozenset({"https://x.example"})


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("git+https://github.com/a/b", "address of a repository", "pip wheel --no-deps git\\+https"),
        ("https://github.com/a/b.git", "address of a repository", "pip wheel"),
        ("a @ git+https://github.com/a/b", "is not a version of a", "a==VERSION"),
        ("dist/a-1.0.tar.gz", "source archive", "pip wheel --no-deps dist/a"),
        ("https://x.example/a-1.0.zip", "source archive", "pip wheel"),
        ("https://x.example/page", "not the URL of a wheel", "image"),
    ],
)
def test_error_for_a_file_that_is_not_a_wheel_is_specific(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        refuse_other(word)

    assert hint.replace("\\", "") in (told.value.hint or "")


@pytest.mark.parametrize("word", ["vllm-blackwell", "torch>=2.9", "docker.io/a/b:tag", "cell[12]", "a{b,c}"])
def test_cells_and_images_are_not_refused_as_wheels(word: str) -> None:
    refuse_other(word)


def test_a_file_that_is_not_a_wheel_is_refused() -> None:
    with pytest.raises(UsageError, match="is a file but not a wheel"):
        refuse_other("notes.txt", is_file=True)
    refuse_other("a-1.0-py3-none-any.whl", is_file=True)


@pytest.mark.parametrize(
    ("names", "machine", "message", "hint"),
    [
        ((), "x86_64", "does not know the name", "--index"),
        (("a-1.0.tar.gz",), "x86_64", "published as source$", "build the wheel"),
        (("a-1.0.tar.gz", "a-0.9-py3-none-any.whl"), "x86_64", "this version is published only as source", "build"),
        (("a-0.9-py3-none-any.whl",), "x86_64", "it has no such version", "its newest: 0.9"),
        (("a-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",), "aarch64", "for Linux aarch64$", "for Linux x86_64"),
        (("a-1.0-cp312-cp312-win_amd64.whl",), "x86_64", "for Linux x86_64$", "for Windows"),
        (("a-1.0-cp310-cp310-manylinux_2_28_x86_64.whl",), "x86_64", "for Python 3.12 on Linux", "cp310"),
    ],
)
def test_each_thing_that_an_index_lacks_has_its_own_words(
    names: Sequence[str], machine: str, message: str, hint: str
) -> None:
    with pytest.raises(PackageIndexError) as told:
        choose_wheel("a==1.0", "3.12", Indexed(*names), machine)

    assert re.search(message, told.value.message)
    assert hint in (told.value.hint or "")


def written(folder: Path, tag: str, name: str = "plain") -> str:
    path = folder / f"{name}-1.0-{tag}.whl"
    path.write_bytes(wheel_bytes(name, "1.0", {f"{name}/__init__.py": b""}))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--python", "312"], 2, "write 3.12"),
        (["--python", "cp311"], 2, "write 3.11"),
        (["--python", "3.12.4"], 2, "write 3.12"),
        (["--target", "sm_999"], 2, "no GPU has the architecture sm_999"),
        (["--target", "RTX 5091"], 2, "RTX 5090"),
        (["--target", "RTX 5090"], 0, "sm_120 (RTX 5090)"),
        (["--target", "DGX Spark"], 0, "3.12, aarch64"),
        (["--target", "RTX 5090,H200"], 0, "works in 2 of 2"),
        (["--write", "x.pdf"], 2, ".html"),
    ],
)
def test_one_wheel_of_no_libraries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    file = written(tmp_path, "py3-none-any")

    assert main(["audit", file, "--facts", str(tmp_path / "facts"), "--no-record", *arguments]) == code
    told = capsys.readouterr()
    assert words in told.out + told.err


@pytest.mark.parametrize("tag", ["cp312-cp312-win_amd64", "cp312-cp312-macosx_11_0_arm64"])
def test_wheels_for_other_systems_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str) -> None:
    file = written(tmp_path, tag)

    assert main(["audit", file, "--facts", str(tmp_path / "facts"), "--no-record"]) == 1
    assert "this is Linux x86_64" in capsys.readouterr().out


def test_a_file_that_is_not_an_archive_is_a_failed_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain-1.0-py3-none-any.whl"
    path.write_bytes(b"<html>not found</html>" * 100)

    assert main(["audit", str(path), "--facts", str(tmp_path / "facts"), "--no-record"]) == 2
    assert "error" in capsys.readouterr().err


def test_every_form_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path, "cp312-cp312-manylinux_2_28_x86_64"), written(tmp_path, "cp311-cp311-win_amd64")]
    common = ["audit", *files, "--target", "RTX 5090,DGX Spark", "--facts", str(tmp_path / "facts"), "--no-record"]
    outs = [tmp_path / f"grid{suffix}" for suffix in (".md", ".html", ".svg", ".json", ".txt")]

    assert main([*common, "--format", "json", *(f"--write={path}" for path in outs)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(outs[3].read_text())
    schema = json.loads((ROOT / "schemas" / "audit.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert [grid["verdict"] for grid in document["grids"]] == ["fail", "fail"]
    # An x86_64 file on a machine that is aarch64 fails; so does a file for Windows anywhere.
    assert [[cell["state"] for cell in grid["rows"][0]["cells"]] for grid in document["grids"]] == [
        ["loads", "fails"],
        ["fails", "fails"],
    ]
    assert document["grids"][1]["rows"][0]["python"] == "3.11"
    assert outs[0].read_text().startswith("### plain 1.0: fails in 1 of 2")
    assert outs[1].read_text().startswith("<!doctype html>")
    assert outs[2].read_text().startswith("<svg")
    assert "RTX 5090" in outs[4].read_text()
    for form in ("markdown", "html", "badge", "sarif", "junit", "text"):
        assert main([*common, "--format", form]) == 1
        assert "plain" in capsys.readouterr().out


def test_several_files_of_a_distribution_answer_for_their_own_platform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [written(tmp_path, f"cp312-cp312-manylinux_2_28_{machine}") for machine in ("x86_64", "aarch64")]
    options = ["--target", "RTX 5090,DGX Spark", "--facts", str(tmp_path / "facts"), "--no-record", "--format", "json"]

    assert main(["audit", *files, *options]) == 0
    grids = json.loads(capsys.readouterr().out)["grids"]
    assert [[(column["title"], column["platform"]) for column in grid["columns"]] for grid in grids] == [
        [("RTX 5090", "x86_64")],
        [("RTX 5090", "aarch64"), ("DGX Spark", "aarch64")],
    ]


def test_bare_name_error_explains_how_to_name_a_wheel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["audit", "flashmagic", "--project", str(ROOT)]) == 2
    assert "a wheel is named with its version: flashmagic==VERSION" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "flashmagic"]) == 2
    told = capsys.readouterr().err
    assert "'flashmagic' is not a wheel, and there is no project here" in told
    assert "flashmagic==VERSION" in told


def test_grids_are_of_wheels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--format", "html"]) == 2
    assert "only wheels can have a grid" in capsys.readouterr().err

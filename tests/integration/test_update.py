"""`assay update` and `assay find --add` in a small project, with the real resolver and an index on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from elf_maker import shared_object
from local_index import LocalIndex, served
from schema_tools import answers

from assay.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
MATRIX = """\
targets:
  sm_120: {name: RTX 5090, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX, platforms: [linux/amd64, linux/arm64]}
bases:
  slim: {kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36}
indexes:
  pypi: {}
axes:
  ext: {label: e, values: [1.0]}
  helper:
    label: h
    values:
      # The first helper.
      - 1.0
"""
IMAGE = """\
description: an image
engine: none
targets: [sm_120]
id: [ext, helper]
defaults: {base: slim}
include:
  - {ext: 1.0, helper: 1.0}
requirements: ["ext{{ ext.pin }}", "helper{{ helper.pin }}"]
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    """A project on `ext` 1.0, and an index that has 2.0, and 3.0 which nothing resolves."""
    index = LocalIndex(tmp_path / "index")
    index.add("ext", "1.0")
    index.add("ext", "2.0", requires=["helper<3"])
    index.add("ext", "3.0", requires=["helper>=9"])
    for version in ("1.0", "2.0", "3.0"):
        index.add("helper", version)
    root = tmp_path / "project"
    (root / "images/i").mkdir(parents=True)
    (root / "matrix.yaml").write_text(MATRIX)
    (root / "images/i/image.yaml").write_text(IMAGE)
    monkeypatch.chdir(root)
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    with served(index) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        assert main(["lock"]) == 0
        yield index


def files() -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(Path().rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("index")
def test_update_proposes_the_newest_that_locks_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    capsys.readouterr()

    assert main(["update", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    answers(document, "update")
    (proposal,) = document["proposals"]
    assert (proposal["cell"], proposal["refused"]) == ("i-e2.0-h2.0", "")
    assert proposal["changes"] == {
        "ext": {"before": "1.0", "after": "2.0"},
        "helper": {"before": "1.0", "after": "2.0"},
    }
    assert proposal["held"][-1] == "helper 3.0 is available, but 2.0 stays: ext 2.0 requires helper<3"
    assert ["3.0", "2.0"] == [one["version"] for one in proposal["search"]["attempts"]]
    assert before == files()


@pytest.mark.usefixtures("index")
def test_the_patch_is_what_write_writes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(["update", "--patch"]) == 0
    patch = tmp_path / "change.patch"
    patch.write_text(capfd.readouterr().out)
    before = files()
    subprocess.run(["git", "apply", str(patch)], check=True)
    applied = files()
    assert applied != before

    for path in applied.keys() - before.keys():
        Path(path).unlink()
    for path, text in before.items():
        Path(path).write_text(text)
    assert main(["update", "--write"]) == 0
    assert applied == files()
    assert "      - 1.0\n      - 2.0\n" in applied["matrix.yaml"]
    assert "values: [1.0, 2.0]" in applied["matrix.yaml"]
    assert "- {ext: 2.0, helper: 2.0}" in applied["images/i/image.yaml"]
    assert main(["lock", "--check"]) == 0
    capfd.readouterr()
    assert main(["update"]) == 0
    assert "i on linux/amd64: up to date" in capfd.readouterr().out


def test_what_the_audit_of_the_cell_refuses_is_not_written(
    index: LocalIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    index.prune("ext", "2.0")
    index.prune("ext", "3.0")
    index.prune("helper", "2.0")
    index.prune("helper", "3.0")
    index.add("ext", "2.0", tag="cp311-cp311-manylinux_2_28_x86_64", files={"ext/_C.abi3.so": broken()})
    before = files()

    assert main(["update", "--write"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "i on linux/amd64: up to date" in told
    assert "not 2.0: ext 2.0: ext/_C.abi3.so needs libnowhere.so.1" in told
    assert before == files()


def broken() -> bytes:
    """Return a library that needs one which nothing brings."""
    return shared_object(b"\0libnowhere.so.1\0", needed=(1,))


@pytest.mark.usefixtures("index")
def test_find_adds_a_cell_for_another_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "ext", "--target", "sm_120", "--platform", "linux/arm64", "--add"]) == 0
    told = capsys.readouterr()

    assert "2.0 fits" in told.out
    assert "platform: arm64" in Path("images/i/image.yaml").read_text()
    lock = Path("images/i/cells/i-e2.0-h2.0-arm64/lock.txt").read_text()
    assert "# platform: aarch64-manylinux_2_36" in lock
    assert main(["lock", "--check"]) == 0


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("numpy", "--target", "sm_120"), "no image of this project installs numpy"),
        (("ext", "--target", "sm_90"), "the image i is not built for sm_90"),
        (("ext", "--target", "sm_120", "--python", "3.12"), "takes indexes, base, packages and Python"),
        (("ext", "--target", "sm_120", "--image", "j"), "there is no image 'j'"),
    ],
)
def test_what_cannot_be_added_is_said(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    before = files()

    assert main(["find", *words, "--add"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert before == files()


NIGHTLY = """\
  torch:
    label: t
    values:
      - {id: nightly, spec: ">=2.16.0.dev0", index: nights, date: latest}
"""
NIGHTLY_IMAGE = """\
description: an image on a nightly
engine: none
targets: [sm_120]
id: [torch]
defaults: {base: slim}
include:
  - {torch: nightly}
requirements: ["torch{{ torch.pin }}"]
"""


def test_a_newer_night_is_proposed_and_written(
    index: LocalIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights = LocalIndex(tmp_path / "nights")
    nights.add("torch", "2.16.0.dev20261128+cu130", requires=["helper<3"])
    with served(nights) as address:
        text = MATRIX.replace("  pypi: {}\n", f"  pypi: {{}}\n  nights: {{url: {address}, nightly: true}}\n")
        Path("matrix.yaml").write_text(text + NIGHTLY)
        Path("images/n").mkdir()
        Path("images/n/image.yaml").write_text(NIGHTLY_IMAGE)
        assert main(["lock"]) == 0
        lock = Path("images/n/cells/n-tnightly/lock.txt")
        before = lock.read_text()
        assert "# nightly: torch 20261128" in before
        nights.add("torch", "2.16.0.dev20261129+cu130", requires=["helper<3"])
        capsys.readouterr()

        assert main(["update", "image=n"]) == 0
        assert "n-tnightly: a newer nightly resolves" in capsys.readouterr().out
        assert before == lock.read_text(), "a proposal changes nothing"
        assert main(["update", "image=n", "--write"]) == 0
        assert "# nightly: torch 20261129" in lock.read_text()

        nights.prune("torch", "2.16.0.dev20261129+cu130")
        nights.add("torch", "2.16.0.dev20261130+cu130", requires=["helper>=9"])
        capsys.readouterr()
        main(["update", "image=n", "--write"])
        told = " ".join(capsys.readouterr().out.split())
        assert "# nightly: torch 20261130" not in lock.read_text(), "what does not resolve is not written"
        assert "n-tnightly" in told


@pytest.mark.usefixtures("index")
def test_the_workflow_opens_one_pull_request_with_what_changed(tmp_path: Path) -> None:
    """The steps of docs/examples/update.yml, in a clone, with GitHub's program played by a script."""
    environment, called = os.environ | {"IMAGE": "i", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}, tmp_path / "gh"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "assay").write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} -m assay "$@"\n')
    # The first time there is no such pull request; afterwards it is open.
    (programs / "gh").write_text(
        f'#!/bin/sh\necho "$@" >> {called}\n[ "$2" = view ] && [ -e {called}.made ] && echo OPEN\n'
        f'if [ "$2" = create ]; then touch {called}.made; fi\nexit 0\n'
    )
    for path in programs.iterdir():
        path.chmod(0o755)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    origin = tmp_path / "origin.git"
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (
        ("init", "-q", "-b", "main", "."),
        ("add", "-A"),
        (*who, "commit", "-q", "-m", "all"),
        ("clone", "-q", "--bare", ".", str(origin)),
    ):
        subprocess.run(["git", *words], check=True)
    steps = yaml.safe_load((ROOT / "docs/examples/update.yml").read_text())["jobs"]["update"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step and "pipx" not in step["run"]]
    assert 3 == len(scripts)

    for attempt in range(2):
        clone = tmp_path / f"clone{attempt}"
        subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
        for script in scripts:
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", script], cwd=clone, env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert 0 == done.returncode, f"{script}: {done.stdout}{done.stderr}"

    assert 1 == called.read_text().count("pr create")
    branch = subprocess.run(
        ["git", "show", "update-i:matrix.yaml"], cwd=origin, capture_output=True, text=True, check=True
    ).stdout
    assert "      - 1.0\n      - 2.0\n" in branch
    assert "i-e2.0-h2.0" in (tmp_path / "summary").read_text()

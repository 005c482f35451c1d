"""`assay init` makes a project that works at once, and never replaces a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from assay import __version__
from assay.adapters.files.project import ProjectFiles
from assay.cli import main
from assay.matrix.plan import make

IMAGES = ("sglang-blackwell", "vllm-blackwell")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert 0 == main(["init", str(tmp_path / "mine")])
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("words", "images"),
    [((), IMAGES), (("--image", "vllm"), IMAGES[1:]), (("--image", "sglang-blackwell"), IMAGES[:1])],
    ids=["both", "vllm", "sglang"],
)
def test_a_new_project_passes_its_checks(
    tmp_path: Path, words: tuple[str, ...], images: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["init", str(tmp_path), *words])
    said = capsys.readouterr()
    for check in (["plan"], ["lock", "--check"], ["render", "--check"], ["policy", "check"]):
        assert 0 == main([*check, "--project", str(tmp_path)]), capsys.readouterr()

    plan = make(ProjectFiles(tmp_path).load())
    assert sorted(images) == sorted(cell.image for cell in plan.cells)
    assert () == tuple(plan.excluded)
    assert plan.cells == tuple(plan.select(["starter"])) == tuple(plan.select([], default=True))
    assert set(images) == set(plan.project.matrix.policy.levels["verified"].images)
    assert f"assay-images=={__version__}\n" == (tmp_path / "requirements.txt").read_text()
    assert "assay audit" in said.err
    assert "assay build" in said.err
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {os.path.relpath(line, tmp_path) for line in said.out.splitlines()}
    assert {".gitignore", ".github/workflows/images.yml", "noxfile.py", "images/docker-bake.json"} <= written


def test_locks_of_the_starter_are_those_of_the_repository(project: Path, root: Path) -> None:
    locks = list(project.glob("images/*/cells/*/lock.txt"))

    assert 2 == len(locks)
    for path in locks:
        assert (root / path.relative_to(project)).read_bytes() == path.read_bytes()
        assert (root / path.relative_to(project)).with_name("Dockerfile").read_bytes() == path.with_name(
            "Dockerfile"
        ).read_bytes()


def test_files_that_exist_are_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noxfile.py").write_text("mine")
    (tmp_path / "matrix.yaml").symlink_to("nowhere")

    assert 2 == main(["init", str(tmp_path)])
    error = capsys.readouterr().err
    assert "already has\n  matrix.yaml\n  noxfile.py\n" in error
    assert ["matrix.yaml", "noxfile.py"] == sorted(path.name for path in tmp_path.iterdir())
    assert "mine" == (tmp_path / "noxfile.py").read_text()


def test_a_disk_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, original = tmp_path / "deep" / "mine", Path.open

    def full(path: Path, mode: str = "r", **more: object) -> object:
        if path == target / "noxfile.py":
            raise OSError(28, "No space left on device", str(path))
        return original(path, mode, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    assert 0 != main(["init", str(target)])

    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_a_folder_beside_other_files_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.chdir(tmp_path)

    assert 0 == main(["init"])
    assert "mine" == (tmp_path / "README.md").read_text()


def test_an_unknown_image_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["init", str(tmp_path / "new"), "--image", "vlm"])

    assert "did you mean 'vllm'?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_workflow_pins_actions_and_takes_no_write_permission(project: Path) -> None:
    workflow = yaml.safe_load((project / ".github" / "workflows" / "images.yml").read_text())
    (job,) = workflow["jobs"].values()

    assert {} == workflow["permissions"]
    assert {"contents": "read"} == job["permissions"]
    for step in job["steps"]:
        assert "uses" not in step or 40 == len(step["uses"].partition("@")[2])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "works: [torch-device,",
            "works: [torch-devise,",
            "no probe tests 'torch-devise'; did you mean 'torch-device'",
        ),
        ("        vllm-blackwell:\n", "        vlm-blackwell:\n", "no image 'vlm-blackwell'; did you mean"),
        ("          sm_120:\n", "          sm_121:\n", "no target 'sm_121'; did you mean 'sm_120'?"),
        ("  repositories:", "  keys: [missing.pem]\n  repositories:", "the key missing.pem does not exist"),
    ],
    ids=["feature", "image", "target", "key"],
)
def test_a_typo_in_the_policy_is_found_with_its_line(
    project: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    path = project / "matrix.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    changed = new.partition("\n")[0]
    line = next(number for number, text in enumerate(path.read_text().split("\n"), 1) if changed in text)

    assert 2 == main(["policy", "check", "--project", str(project)])
    assert f"matrix.yaml:{line}:" in (error := capsys.readouterr().err)
    assert message in error

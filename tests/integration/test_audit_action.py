"""The steps of action.yml: what its script runs, and that nothing in it can change under its user."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wheels import wheel_bytes

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A folder as a runner has it, with an `assay` of this checkout and wheels in dist/."""
    program = tmp_path / "assay"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "src"} exec {sys.executable} -m assay "$@"\n')
    program.chmod(0o755)
    (tmp_path / "dist").mkdir()
    for tag in ("cp312-cp312-manylinux_2_28_x86_64", "cp312-cp312-win_amd64"):
        (tmp_path / "dist" / f"plain-1.0-{tag}.whl").write_bytes(wheel_bytes("plain", "1.0", {"plain/a.py": b"1"}))
    return tmp_path


def run(folder: Path, **inputs: str) -> tuple[int, str, dict[str, str], str]:
    env = {
        "PATH": os.environ["PATH"], "HOME": str(folder),
        "ASSAY": str(folder / "assay"), "RUNNER_TEMP": str(folder / "t"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_OUTPUT": str(folder / "outputs"),
        **{f"INPUT_{name.upper()}": value for name, value in inputs.items()},
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(ROOT / "tools" / "audit_action.sh")],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    summary, outputs = folder / "summary.md", folder / "outputs"
    told = dict(line.split("=", 1) for line in outputs.read_text().splitlines()) if outputs.exists() else {}
    return done.returncode, summary.read_text() if summary.exists() else "", told, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="the action's script is for bash")
def test_the_grid_reaches_the_summary(runner: Path) -> None:
    code, summary, outputs, stderr = run(runner, wheels="dist/*x86_64.whl", target="H200,RTX 5090")

    assert (code, outputs["code"]) == (0, "0"), stderr
    assert "### plain 1.0: works in 2 of 2" in summary
    assert "RTX 5090" in summary
    names = {path.name for path in Path(outputs["folder"]).iterdir()}
    assert names == {"grid.md", "grid.html", "grid.svg", "grid.json"}
    assert json.loads((Path(outputs["folder"]) / "grid.json").read_text())["schema_version"] == 1


def test_a_failed_verdict_is_kept_for_the_last_step(runner: Path) -> None:
    code, summary, outputs, _ = run(runner, wheels="dist/*.whl", target="RTX 5090")

    assert (code, outputs["code"]) == (0, "1")
    assert "is for Windows" in summary


def test_a_failed_question_is_distinguished(runner: Path) -> None:
    code, summary, outputs, stderr = run(runner, wheels="dist/*x86_64.whl", target="sm_999")

    assert (code, outputs["code"]) == (0, "2")
    assert "has no answer (exit code 2)" in summary
    assert "no GPU has the architecture sm_999" in stderr


@pytest.mark.parametrize(("wheels", "words"), [("dist/*.none.whl", "no wheel matches"), ("", "names none")])
def test_no_wheel_at_all_is_an_error(runner: Path, wheels: str, words: str) -> None:
    code, _, _, stderr = run(runner, wheels=wheels)

    assert code == 2
    assert words in stderr


def test_input_is_never_read_as_shell_or_options(runner: Path) -> None:
    nasty = "$(touch pwned); `touch pwned` --help"
    code, _, outputs, _ = run(runner, wheels=f"--help\n{nasty}", target="RTX 5090", torch=nasty)

    assert code == 0
    assert outputs["code"] == "2"
    assert not (runner / "pwned").exists()


GH = """#!/bin/sh
printf '%s\\n' "$*" >>calls
case "$*" in
  *--paginate*) printf '%s\\n' "$THERE" ;;
esac
exit "${GH_CODE:-0}"
"""


@pytest.mark.parametrize(("there", "method"), [("", "POST repos/o/r/issues/7/comments"),
                                               ("41\n42", "PATCH repos/o/r/issues/comments/41")])  # fmt: skip
def test_the_grid_is_posted_once_and_then_replaced(tmp_path: Path, there: str, method: str) -> None:
    done, calls = comment(tmp_path, there=there)

    assert 0 == done.returncode, done.stderr
    assert method in calls.splitlines()[1]
    assert (tmp_path / "comment.md").read_text() == "<!-- assay audit: wheels -->\n### grid\n"


def test_a_token_that_may_only_read_is_a_warning(tmp_path: Path) -> None:
    done, _ = comment(tmp_path, code="1")

    assert 0 == done.returncode
    assert "::warning::the grid could not be posted" in done.stdout


def comment(folder: Path, *, there: str = "", code: str = "0") -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the script that posts the grid, with a `gh` that knows these comments of ours."""
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod(0o755)
    (folder / "grid.md").write_text("### grid\n")
    env = {
        "PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "GH_REPO": "o/r", "NUMBER": "7",
        "GITHUB_JOB": "wheels", "THERE": there, "GH_CODE": code,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(ROOT / "tools" / "comment_action.sh")],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, (folder / "calls").read_text()


def test_every_action_is_pinned_and_no_script_holds_an_expression() -> None:
    steps = ACTION["runs"]["steps"]
    used = [step["uses"] for step in steps if "uses" in step]

    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)
    assert not [step["name"] for step in steps if "${{" in step.get("run", "")]
    # Input reaches the script by names that the script reads, each declared.
    (audit,) = [step for step in steps if step.get("id") == "audit"]
    read = set(re.findall(r"\$\{?INPUT_([A-Z]+)", (ROOT / "tools" / "audit_action.sh").read_text()))
    assert {name.removeprefix("INPUT_") for name in audit["env"] if name.startswith("INPUT_")} == read
    assert {name.lower() for name in read} <= set(ACTION["inputs"])

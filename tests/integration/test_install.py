"""The wheel and the sdist are the whole product: built, installed into clean environments, used without a checkout."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from uv import find_uv_bin
from wheels import wheel_bytes

from assay import __version__

ROOT = Path(__file__).parents[2]
EVERY_HELP = """
import contextlib, io
from assay.cli import COMMANDS, main
for name in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            code = main([name, "--help"])
        except SystemExit as ended:
            code = ended.code
    assert code == 0 and "Usage: assay " + name in said.getvalue(), (name, code)
print(len(COMMANDS))
"""
EVERY_RESOURCE = """
import sys
from pathlib import Path
import assay
from assay import resources
for kind in resources.KINDS:
    folder = resources.folder(kind)
    assert folder.is_relative_to(sys.prefix), folder
    for path in [folder] if folder.is_file() else resources.files(kind).values():
        print(path.relative_to(Path(assay.__file__).parent))
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment with nothing but assay and its locked requirements, and an empty folder to work in."""

    environment: Path
    folder: Path
    more: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *command: str, code: int = 0, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, as a user without any variable of this checkout would."""
        done = subprocess.run(
            [str(self.environment / "bin" / command[0]), *command[1:]],
            cwd=cwd or self.folder,
            env=self.env(**env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert code == done.returncode, f"{command}: {done.stdout}{done.stderr}"
        return done

    def env(self, **more: str) -> dict[str, str]:
        """Return the variables of a fresh shell."""
        path = f"{self.environment / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "NO_COLOR": "1", "COLUMNS": "80", **self.more, **more}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module", params=["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    environment, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("empty")
    (artifact,) = built.glob(request.param)
    uv, locked = find_uv_bin(), ROOT / "tools" / "requirements" / "use.txt"
    install = [uv, "pip", "install", "--quiet", "--python", str(environment)]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
    subprocess.run([*install, "--require-hashes", "--only-binary", ":all:", "-r", str(locked)], check=True)
    # The locked hatchling builds the sdist: no isolated environment, so no package without a hash.
    subprocess.run([*install, "--no-deps", "--no-build-isolation", str(artifact)], check=True)
    yield Installed(environment=environment, folder=folder)
    shutil.rmtree(environment)


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=source, check=True
    )

    assert contents(wheel) == contents(tmp_path / wheel.name)


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_everything_that_ships_is_found_in_the_package(installed: Installed) -> None:
    found = installed.run("python", "-c", EVERY_RESOURCE).stdout.split()

    for kind in ("images", "knowledge", "probes", "templates"):
        here = {str(path.relative_to(ROOT)) for path in (ROOT / kind).rglob("*") if path.is_file()}
        here = {name for name in here if "__pycache__" not in name}
        assert here == {name.removeprefix("resources/") for name in found if name.startswith(f"resources/{kind}/")}
    assert {"resources/matrix.yaml", "resources/project/matrix.yaml.j2", "resources/pages/style.css"} <= set(found)


def test_every_command_has_its_help(installed: Installed) -> None:
    assert f"assay, version {__version__}" in installed.run("assay", "--version").stdout
    assert int(installed.run("python", "-c", EVERY_HELP).stdout) > 15


def test_a_new_project_works_at_once(installed: Installed, tmp_path: Path) -> None:
    installed.run("assay", "init", "mine", cwd=tmp_path)
    project = tmp_path / "mine"

    plan = installed.run("assay", "plan", "--format", "ids", cwd=project).stdout.split()
    assert 2 == len(plan)
    assert "2 of 2 cells" in installed.run("assay", "lock", "--check", cwd=project).stderr
    installed.run("assay", "render", "--check", cwd=project)
    installed.run("assay", "policy", "check", cwd=project)
    assert plan[0] in installed.run("assay", "report", cwd=project).stdout


def test_a_wheel_and_a_log_are_judged_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    wheel = tmp_path / "plain-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(wheel_bytes("plain", "1.0", {"plain/a.py": b"1"}))
    log = tmp_path / "server.log"
    log.write_text("INFO start\nRuntimeError: CUDA error: no kernel image is available for execution on the device\n")

    assert "plain 1.0: ok" in installed.run("assay", "audit", wheel.name, "--target", "RTX 5090", cwd=tmp_path).stdout
    said = installed.run("assay", "diagnose", log.name, cwd=tmp_path).stdout
    assert "holds neither machine code for this GPU" in " ".join(said.split())


def test_what_needs_no_project_works_without_one(installed: Installed) -> None:
    launched = installed.run(
        "assay", "launch", "me/vllm:1", "--engine-version", "0.33.0", "--target", "sm_120", "--model", "m", "--offline",
        code=2,
    )  # fmt: skip
    assert "matrix.yaml" not in launched.stderr
    assert "marlin" in installed.run("assay", "probe", "--list").stdout
    # The audits that ship with assay answer: no wheel is read.
    recommended = installed.run("assay", "recommend", "--target", "sm_120", code=3)
    assert "assay up MODEL --image vllm-blackwell-" in recommended.stdout
    assert "reading" not in recommended.stderr
    measured = installed.run("assay", "recommend", "--target", "H200", "--need", "vllm-engine").stdout
    assert "NVIDIA H200" in measured
    installed.run("assay", "facts", "list")
    assert [] == [path.name for path in installed.folder.iterdir() if path.name not in {".cache", ".config"}]


def workflow_steps(project: Path) -> dict[str, str]:
    """Return the commands of the workflow that `assay init` writes, by their names or themselves."""
    (job,) = yaml.safe_load((project / ".github" / "workflows" / "images.yml").read_text())["jobs"].values()
    return {step.get("name", step["run"]): step["run"] for step in job["steps"] if "run" in step}


def commit(project: Path, env: dict[str, str]) -> str:
    """Commit everything in a project, and return the commit."""
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "--allow-empty", "-m", "all")):
        subprocess.run(["git", *words], cwd=project, env=env, check=True)
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project, env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def run_step(installed: Installed, project: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does: `bash -e`, failing where any command of a pipe fails."""
    words = ["bash", "-eo", "pipefail", "-c", script]
    return subprocess.run(words, cwd=project, env=installed.env(**env), capture_output=True, text=True, check=False)


def test_every_step_of_the_workflow_passes_in_a_new_project(installed: Installed, tmp_path: Path) -> None:
    installed.run("assay", "init", ".", cwd=tmp_path)
    head = commit(tmp_path, installed.env())
    steps = workflow_steps(tmp_path)
    # The release that requirements.txt pins is the one that is installed here.
    assert "python -m pip install -r requirements.txt" == next(iter(steps))
    assert f"assay-images=={__version__}\n" == (tmp_path / "requirements.txt").read_text()
    steps.pop(next(iter(steps)))

    assert 5 == len(steps)
    for name, script in steps.items():
        done = run_step(installed, tmp_path, script, BASE=head)
        assert 0 == done.returncode, f"{name}: {done.stdout}{done.stderr}"


@pytest.mark.index
def test_the_workflow_audits_the_cells_whose_locks_changed(installed: Installed, tmp_path: Path) -> None:
    base = commit(tmp_path, installed.env())
    installed.run("assay", "init", ".", "--image", "vllm", cwd=tmp_path)
    commit(tmp_path, installed.env())
    known = os.environ.get("ASSAY_CACHE") or str(Path.home() / ".cache" / "assay")

    done = run_step(installed, tmp_path, list(workflow_steps(tmp_path).values())[-1], BASE=base, ASSAY_CACHE=known)
    assert 0 == done.returncode, f"{done.stdout}{done.stderr}"
    assert "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0: " in done.stdout
    # The audit that ships with assay says what this one says: its rules and knowledge are the same.
    made, shipped = predicted(tmp_path / "build_logs" / "records"), predicted(ROOT / "docs" / "records" / "audits")
    for cell, targets in made.items():
        assert targets == {target: shipped[cell][target] for target in targets}
    assert made


def predicted(folder: Path) -> dict[str, Any]:
    """Return by cell what the audits of a folder predict."""
    read = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*-audit-*.json"))]
    return {one["cell"]: one["predictions"] for one in read}


@pytest.mark.parametrize("command", ["plan", "lock", "render", "build", "report", "publish", "audit", "policy check"])
def test_what_needs_a_project_says_how_to_make_one(installed: Installed, command: str) -> None:
    error = installed.run("assay", *command.split(), code=2).stderr

    assert "no matrix.yaml here or above" in error
    assert "`assay init` makes a project" in error

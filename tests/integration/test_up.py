"""`assay up`, `status`, `logs` and `down` with a real engine, and the small server of the third engine in an image."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from project_tools import Project, lock_text
from tern_project import CELL, TERN_IMAGE, tern_project, write_tern_image

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.files.records import FileStore
from assay.evidence.record import ServeRecord, ServeStatus

NAME = "model"
TEMPLATE = """\
FROM {{ base.reference }}
LABEL dev.assay.lock={{ labels['dev.assay.lock'] | env }}
"""
HERE = ("--image", TERN_IMAGE, "--engine", "tern", "--gpus", "none", "--context", "1024")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    DockerEngine().load(write_tern_image(tmp_path_factory.mktemp("tern")))
    return TERN_IMAGE


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str) -> Iterator[Project]:
    assert image
    with tern_project(tmp_path, monkeypatch) as found:
        try:
            yield found
        finally:
            found.run("down", "--all", "--grace", "1")


def cache(project: Project, *, owner: int) -> Path:
    """Return a Hugging Face cache of another user."""
    folder = project.root / "cache"
    folder.mkdir(mode=0o700)
    os.chown(folder, owner, owner)
    return folder


def test_a_model_is_served_asked_shown_and_stopped(project: Project) -> None:
    folder = cache(project, owner=1000)

    up = project.run("up", "model", *HERE, "--cache", str(folder))

    assert 0 == up.returncode, up.stderr
    assert re.search(r"^greedy: \S+", up.stderr, re.MULTILINE)
    assert re.search(r"^sampled: \S+", up.stderr, re.MULTILINE)
    answered = subprocess.run(["sh", "-c", up.stdout], capture_output=True, check=True, timeout=60)
    assert "choices" in json.loads(answered.stdout)
    # What the server wrote belongs to the owner of the cache.
    assert 1000 == (folder / "hub" / "version.txt").stat().st_uid
    status = project.run("status", "--format", "json")
    (server,) = json.loads(status.stdout)["servers"]
    assert (0, NAME, "healthy") == (status.returncode, server["name"], server["health"])
    assert "tern ready" in project.run("logs").stdout
    (record,) = FileStore(project.root / "build_logs").records(kind="serve")
    assert isinstance(record, ServeRecord)
    assert (ServeStatus.OK, ["greedy", "sampled"]) == (record.status, [check.name for check in record.checks])
    again = project.run("up", "model", *HERE, "--cache", str(folder))
    assert (0, True) == (again.returncode, "is already running" in again.stderr)
    assert 0 == project.run("down", NAME).returncode
    assert 3 == project.run("down", NAME).returncode


def test_a_server_that_crashes_is_removed_and_diagnosed(project: Project) -> None:
    folder = cache(project, owner=1000)
    crash = json.dumps({"crash": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"})

    up = project.run("up", "model", *HERE, "--cache", str(folder), "--env", f"MISBEHAVE={crash}")

    assert 1 == up.returncode
    assert "CUDA out of memory" in up.stderr
    assert "build_logs/" in up.stderr
    assert [] == json.loads(project.run("status", "--format", "json").stdout)["servers"]


def test_a_server_that_answers_wrong_stays_and_is_reported(project: Project) -> None:
    folder = cache(project, owner=1000)
    misbehave = json.dumps({"fail_on": {"top_p": 500}})

    up = project.run("up", "model", *HERE, "--cache", str(folder), "--env", f"MISBEHAVE={misbehave}")

    assert 1 == up.returncode, up.stderr
    assert "sampled: FAILED: HTTP 500" in up.stderr
    assert "healthy" == json.loads(project.run("status", "--format", "json").stdout)["servers"][0]["health"]


def test_a_dry_run_changes_nothing(project: Project) -> None:
    folder = project.root / "cache"

    up = project.run("up", "model", *HERE, "--cache", str(folder), "--dry-run")

    assert 0 == up.returncode, up.stderr
    assert "tern_server" in up.stderr
    assert not folder.exists()
    assert [] == json.loads(project.run("status", "--format", "json").stdout)["servers"]


def test_without_a_gpu_it_tells_what_it_would_do_and_what_is_missing(project: Project) -> None:
    project.run("lock", "small-tern1.2.0")

    up = project.run("up", "model", "--offline")

    assert 4 == up.returncode, up.stderr
    assert "image   small-tern1.2.0 (to be built" in up.stderr
    assert "fail      gpu: no NVIDIA GPU, or no driver" in up.stderr
    assert "install NVIDIA's driver" in up.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "/no/such/folder"), "the model folder /no/such/folder is not there"),
        (("up", "no/such-model", "--offline", *HERE), "model no/such-model was not found"),
        (("up", "model", *HERE, "--memory-gib", "0.5", "--requests", "4096"), "does not fit"),
        (("logs",), "no server is up"),
    ],
)
def test_what_cannot_be_served_is_reported_beforehand(project: Project, words: tuple[str, ...], said: str) -> None:
    done = project.run(*words)

    assert done.returncode in {2, 3}, done.stderr
    assert said in " ".join(done.stderr.split())


def test_an_image_that_is_missing_is_built_and_then_served(project: Project) -> None:
    matrix = (project.root / "matrix.yaml").read_text()
    tiny = f'  tiny: {{kind: registry, image: "{TERN_IMAGE}", python: 3.11, glibc: 2.36}}'
    project.write("matrix.yaml", re.sub(r"  tiny: \{kind: bootstrap[^\n]*", tiny, matrix))
    project.change("images/small/image.yaml", 'requirements: ["tern-serve{{ tern.pin }}"]\n', "")
    project.write("templates/tiny.Dockerfile.j2", TEMPLATE)
    project.write(f"images/small/cells/{CELL}/lock.txt", lock_text(CELL))
    reference = f"assay/small:{CELL}"
    words = (
        "up",
        "model",
        "--gpus",
        "none",
        "--context",
        "1024",
        "--cache",
        str(cache(project, owner=1000)),
        "--offline",
    )
    try:
        planned = project.run(*words, "--dry-run")
        assert f"image   {CELL} (to be built" in planned.stderr, planned.stderr
        assert DockerEngine().image(reference) is None

        project.change("templates/tiny.Dockerfile.j2", "LABEL", "RUN no-such-program\nLABEL")
        failed = project.run(*words)
        assert 1 == failed.returncode, failed.stderr
        assert f"{CELL} could not be built" in failed.stderr
        project.write("templates/tiny.Dockerfile.j2", TEMPLATE)

        up = project.run(*words)

        assert 0 == up.returncode, up.stderr
        assert re.search(r"^greedy: \S+", up.stderr, re.MULTILINE)
        assert f"image   {CELL} (here" in project.run(*words, "--dry-run").stderr
    finally:
        project.run("down", "--all", "--grace", "1")
        DockerEngine().remove_image(reference, force=True)

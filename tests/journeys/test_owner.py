"""The first hour of the owner of an RTX 5090, who wants a model served tonight: what the README tells them to type."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project_tools import Project
from readme import typed
from tern_project import TERN_IMAGE, tern_project, write_tern_image

from assay.adapters.docker.engine import DockerEngine

ROOT = Path(__file__).parents[2]
DRY, UP, STATUS, DOWN = (words[1:] for words in typed("You have a GPU and want a model served"))
# A small model and the small server stand for the real ones; no GPU is used.
STANDS_FOR = ("--image", TERN_IMAGE, "--engine", "tern", "--gpus", "none", "--context", "1024")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    DockerEngine().load(write_tern_image(tmp_path))
    with tern_project(tmp_path, monkeypatch) as found:
        (found.root / "hf").mkdir()
        os.chown(found.root / "hf", 1000, 1000)
        monkeypatch.setenv("HF_HOME", str(found.root / "hf"))
        try:
            yield found
        finally:
            found.run("down", "--all", "--grace", "1")


def here(words: list[str]) -> list[str]:
    return ["model" if word.startswith("Qwen/") else word for word in words]


@pytest.mark.index
def test_what_would_be_done_is_answered_without_a_gpu(tmp_path: Path) -> None:
    began = time.monotonic()

    # A new user's machine: nothing is known of any wheel.
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "ASSAY_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "assay", *DRY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    said = done.stderr
    assert "RTX 50" in said.splitlines()[0]
    assert re.search(r"^image   vllm-blackwell-\S+ \((to be built|here)", said, re.MULTILINE)
    assert "vllm-engine: works, predicted: audit" in said
    assert "awq-marlin: works, predicted: audit" in said
    assert re.search(r"^memory  weights 18\.0 GiB", said, re.MULTILINE)
    assert "nvidia-container-toolkit" in said
    assert time.monotonic() - began < 600


def test_model_is_served_and_answers_and_goes(project: Project) -> None:
    up = project.run(*here(UP), *STANDS_FOR)

    assert 0 == up.returncode, up.stderr
    answered = subprocess.run(["sh", "-c", up.stdout], capture_output=True, check=True, timeout=60)
    assert "choices" in json.loads(answered.stdout)
    status = project.run(*STATUS)
    assert (0, True) == (status.returncode, "healthy" in status.stdout)
    assert 0 == project.run(*DOWN).returncode
    assert "no server is up" in project.run(*STATUS).stderr


def test_server_that_crashes_names_the_cause_and_the_fix(project: Project) -> None:
    crash = json.dumps({"crash": "RuntimeError: CUDA error: no kernel image is available for execution on the device"})

    up = project.run(*here(UP), *STANDS_FOR, "--env", f"MISBEHAVE={crash}")

    assert 1 == up.returncode
    assert "arch-no-kernel-image" in up.stderr
    assert 3 == project.run(*DOWN).returncode


def test_log_of_a_cache_that_the_server_may_not_write_is_diagnosed(project: Project) -> None:
    (project.root / "server.log").write_text(
        "PermissionError: [Errno 13] Permission denied: '/cache/huggingface/hub/models--Qwen--Qwen3-32B-AWQ'\n"
    )

    done = project.run("diagnose", "server.log")

    assert "hf-cache-permission" in done.stdout

"""Probes on a pool by the command line, in processes of this machine: submit, leave, look, collect, render."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from probe_suite import write_suite
from schema_tools import answers

from assay.adapters.files.records import FileStore
from assay.evidence.record import ProbeRecord
from assay.foundation.outcome import Outcome

PROGRAM = """
FEATURE = "{feature}"
REQUIRES = ()
TIMEOUT = 100
GPUS = 0
WARM = False


def run(probe):
    import os
    import time

    {body}
    probe.equal("sum", 1 + 1, 2)
"""
POOLS = """
pools:
  box: {kind: local, executor: local}
  hpc: {kind: slurm, partition: gpu, folder: /shared, gpus: [h200]}
"""


@dataclass
class Project:
    """A folder with pools.yaml and two probes."""

    folder: Path

    @property
    def held(self) -> Path:
        """A file; as long as it exists, the probe `waits` does."""
        return self.folder / "held"

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "assay", *words]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.Popen(
            argv, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def json(self, *words: str) -> tuple[int, Any]:
        """Run a command; return its code and its document."""
        code, out, err = self.run(*words, "--format", "json")
        assert out, err
        document = json.loads(out)
        answers(document, *words)
        return code, document

    def probe(self, feature: str, *more: str) -> tuple[str, ...]:
        return ("probe", "--on", "box", "--gpus", "0", "--python", sys.executable, "--feature", feature, *more)

    @property
    def records(self) -> list[ProbeRecord]:
        found = FileStore(self.folder / "build_logs").records(kind="probe")
        return [item for item in found if isinstance(item, ProbeRecord)]


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Project:
    made = Project(tmp_path)
    for name in ("matrix.yaml", "images", "knowledge", "templates"):
        (tmp_path / name).symlink_to(root / name)
    wait = f'while os.path.exists("{made.held}"): time.sleep(0.2)'
    bodies = {"quick": "pass", "waits": wait}
    programs = {name: PROGRAM.format(feature=name, body=body) for name, body in bodies.items()}
    write_suite(tmp_path / "probes", root, programs)
    (tmp_path / "pools.yaml").write_text(POOLS)
    return made


def test_a_run_on_a_pool_leaves_one_record_and_is_not_run_twice(project: Project) -> None:
    code, document = project.json(*project.probe("quick"))
    again = project.json(*project.probe("quick"))

    assert 0 == code
    assert ["quick"] == list(document["records"][0]["features"])
    assert (0, document) == again
    assert [Outcome.WORKS] == [item.features["quick"].outcome for item in project.records]


def test_a_detached_run_is_listed_and_collected(project: Project) -> None:
    project.held.touch()
    code, _, said = project.run(*project.probe("waits", "--detach"))
    assert 0 == code, said
    listed = project.json("jobs")[1]["jobs"]
    early = project.json("collect")
    project.held.unlink()
    deadline = time.monotonic() + 60
    while project.run("collect")[0] and time.monotonic() < deadline:
        time.sleep(0.5)
    later = project.json("jobs", "--all")[1]["jobs"]

    assert ["running"] == [item["state"] for item in listed]
    assert 1 == early[0]
    assert ["done"] == [item["state"] for item in later]
    assert 1 == len(project.records)


def test_ctrl_c_leaves_the_jobs_running_and_the_same_command_goes_on(project: Project) -> None:
    project.held.touch()
    process = project.start(*project.probe("waits"))
    while not project.json("jobs")[1]["jobs"]:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    listed = project.json("jobs")[1]["jobs"]
    project.held.unlink()
    code, _, again = project.run(*project.probe("waits"))

    assert 130 == process.returncode, said
    assert "detached" in said
    assert ["running"] == [item["state"] for item in listed]
    assert 0 == code, again
    assert "1 of 1 jobs are in the pool already" in again
    assert 1 == len(project.records)


def test_what_is_rendered_runs_elsewhere_and_its_results_are_taken(project: Project) -> None:
    code, _, said = project.run(*project.probe("quick", "--render", "jobs"))
    assert 0 == code, said
    (document,) = (project.folder / "jobs").glob("*/jobs/*.json")
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    runner, (suite,) = project.folder / "jobs" / "run_probes.py", (project.folder / "jobs").glob("suite-*.zip")
    ran = subprocess.run(
        [sys.executable, str(runner), str(suite), str(document), "-"], capture_output=True, timeout=100, check=True
    )
    (elsewhere / "some.log").write_bytes(ran.stdout)
    run = document.name.rsplit("-", 2)[0]
    code, _, said = project.run("collect", run, "--from", str(elsewhere))

    assert 0 == code, said
    assert [Outcome.WORKS] == [item.features["quick"].outcome for item in project.records]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("probe", "--on", "bx"), 2, "did you mean 'box'"),
        (("probe", "--on", "hpc", "--gpu", "h20"), 2, "has no GPU 'h20'; did you mean 'h200'"),
        (("probe", "--detach"), 2, "belong to --on POOL"),
        (("collect", "pool-none"), 2, "there is no run 'pool-none' on a pool"),
    ],
)
def test_bad_input_is_answered_in_clear_words(project: Project, words: tuple[str, ...], code: int, said: str) -> None:
    ended, _, err = project.run(*words)

    assert (code, True) == (ended, said in " ".join(err.split())), err


def test_a_project_without_pools_is_told_where_to_find_one(project: Project) -> None:
    (project.folder / "pools.yaml").unlink()

    code, _, said = project.run("probe", "--on", "box")
    assert 2 == code
    assert "there is no pools.yaml" in said

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
from assay.adapters.pools.local import LocalProbePool
from assay.evidence.record import ProbeRecord
from assay.foundation.outcome import Outcome
from assay.matrix.pools import LocalPool, load_pools

CARD = Path(__file__).parents[1] / "fixtures" / "card" / "libcuda.so.1"
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
  engine: {kind: local}
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

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "assay", *words]
        environment = {**os.environ, "COLUMNS": "200", **more}
        return subprocess.Popen(
            argv, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str, **more: str) -> tuple[int, str, str]:
        process = self.start(*words, **more)
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


def test_ctrl_c_leaves_the_jobs_running_and_the_same_command_continues(project: Project) -> None:
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


def test_without_pools_the_error_names_where_to_find_one(project: Project) -> None:
    (project.folder / "pools.yaml").unlink()

    code, _, said = project.run("probe", "--on", "box")
    assert 2 == code
    assert "there is no pools.yaml" in said


@pytest.fixture
def two_cards(project: Project) -> dict[str, str]:
    """The environment of a machine with two cards: the driver's library, and what nvidia-smi prints."""
    folder = project.folder / "driver"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to(CARD)
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor _ in 1 2; do echo 'NVIDIA H200, 9.0, 143771, 580.159.04'; done\n")
    program.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    # Leases are machine-wide; those of this test are its own.
    leases = project.folder / "tmp"
    leases.mkdir()
    return {"LD_LIBRARY_PATH": str(folder), "PATH": path, "CARDS": "2", "TMPDIR": str(leases)}


def test_doctor_shows_the_gpus_that_jobs_of_this_machine_can_get(project: Project, two_cards: dict[str, str]) -> None:
    code, shown, said = project.run("doctor", "--pools", **two_cards)
    rows = {tuple(line.split()[:2]): line for line in shown.splitlines()}
    one = project.run("doctor", "--pools", **two_cards, CUDA_VISIBLE_DEVICES="1")[1]

    assert 1 == code
    assert rows["box", "gpus"].rstrip().endswith("2 of 2 x NVIDIA H200, 9.0")
    assert "1 of 2 x NVIDIA H200, 9.0" in one
    # Here is an engine without NVIDIA's runtime, or none: cards that the driver shows are no use to containers then.
    assert " fail " in rows["engine", "gpus"]
    assert "to fix engine, gpus: " in said


def test_jobs_of_two_runs_take_a_card_each_and_a_third_waits(project: Project, two_cards: dict[str, str]) -> None:
    seen = project.folder / "seen"
    seen.mkdir()
    body = f"""
    mine = os.environ["CUDA_VISIBLE_DEVICES"]
    assert not os.path.exists(f"{seen}/{{mine}}"), "two jobs on one card"
    open(f"{seen}/{{mine}}", "w").close()
    deadline = time.time() + 60
    while len(os.listdir("{seen}")) < 2 and not os.path.exists("{seen}-both"): assert time.time() < deadline
    open("{seen}-both", "w").close()
    time.sleep(1)
    os.unlink(f"{seen}/{{mine}}")
    probe.metric("card", "card " + mine)"""
    names = ("first", "second", "third")
    for name in names:
        text = PROGRAM.format(feature=name, body=body.strip()).replace("GPUS = 0", "GPUS = 1")
        (project.folder / "probes" / "features" / f"{name}.py").write_text(text)
    words = [("probe", "--on", "box", "--python", sys.executable, "--feature", name) for name in names]
    ended = [process.communicate(timeout=120) for process in [project.start(*one, **two_cards) for one in words]]
    found = {name: item for made in project.records for name, item in made.features.items()}

    assert set(names) == set(found), ended
    assert [Outcome.WORKS] * 3 == [item.outcome for item in found.values()], found
    assert {"card 0", "card 1"} == {item.metrics["card"] for item in found.values()}


def test_a_run_submits_as_many_jobs_as_there_are_cards(
    tmp_path: Path, two_cards: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in two_cards.items():
        monkeypatch.setenv(name, value)

    def room(more: str, *, on_gpus: bool = True) -> int:
        pool = load_pools(f"pools: {{box: {{kind: local{more}}}}}\n").pool("box")
        assert isinstance(pool, LocalPool)
        return LocalProbePool(pool, tmp_path, on_gpus=on_gpus).room

    assert [2, 7, 4] == [room(""), room(", at_once: 7"), room("", on_gpus=False)]
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert 4 == room("")

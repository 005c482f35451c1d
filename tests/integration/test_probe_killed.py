"""`assay probe` is killed in the middle, as when power is lost: what it had measured is kept, nothing is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from probe_suite import write_suite
from project_tools import Project
from python_image import write_python_image

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.files.records import FileStore
from assay.evidence.record import ProbeRecord
from assay.foundation.outcome import Outcome
from assay.ports.engine import LABEL_RUN

FEATURES = ("a-quick", "b-random", "c-held", "d-last")
ONLY = tuple(word for name in FEATURES for word in ("--feature", name))
LOCAL = ("probe", "--executor", "local", "--gpus", "0", *ONLY)
PROGRAM = """
FEATURE = "{feature}"
REQUIRES = ()
TIMEOUT = 300
GPUS = 0
WARM = False


def run(probe):
    import random
    import time

    probe.equal("sum", sum(range(10)), 45)
    probe.metric("drawn", random.SystemRandom().random())
    {wait}
"""


HELD = """import os, subprocess, sys
    if os.path.exists("HELD"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "HELD"], start_new_session=True)
        time.sleep(300)"""
"""As long as a file is there, the probe hangs, and so does what it started in a session of its own."""


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Project:
    made = Project(tmp_path)
    waits = dict.fromkeys(FEATURES, "pass") | {"c-held": HELD.replace("HELD", str(tmp_path / "held"))}
    programs = {name.replace("-", "_"): PROGRAM.format(feature=name, wait=wait) for name, wait in waits.items()}
    write_suite(tmp_path / "probes", root, programs)
    return made


def until(holds: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def drafted(project: Project) -> set[str]:
    """Return the features that the drafts of the project say were measured."""
    found: set[str] = set()
    for path in project.root.glob("build_logs/*/unfinished/*.json"):
        try:
            features = json.loads(path.read_bytes())["features"]
        except FileNotFoundError:
            continue
        found |= {name for name, item in features.items() if item["outcome"] != Outcome.NOT_RUN}
    return found


def records(project: Project) -> list[ProbeRecord]:
    found = FileStore(project.root / "build_logs").records(kind="probe")
    return sorted((item for item in found if isinstance(item, ProbeRecord)), key=lambda item: item.created)


def processes(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_text():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def drawn(record: ProbeRecord, feature: str) -> object:
    """Return a number that no other run of the probe gives."""
    return record.features[feature].metrics["drawn"]


def killed_in_the_middle(project: Project) -> None:
    """Run the probes in this Python and kill assay, and nothing else, when two have ended and the third hangs."""
    held = project.write("held", "")
    folder = project.root / "temporary"
    folder.mkdir()
    process = project.start(*LOCAL, env={"TMPDIR": str(folder)})
    try:
        until(lambda: {"a-quick", "b-random"} <= drafted(project) and processes(str(held)))
        harness = processes(str(folder))
    finally:
        process.kill()
        process.communicate(timeout=30)
    # The kernel asks the harness to end, which takes along what it started.
    until(lambda: not processes(str(project.root)))
    assert harness
    assert [] == records(project)
    held.unlink()


def test_next_run_in_local_python_resumes(project: Project) -> None:
    killed_in_the_middle(project)

    done = project.run(*LOCAL)
    again = project.run(*LOCAL)

    assert (0, 0) == (done.returncode, again.returncode), done.stderr
    first, second = records(project)
    assert "b-random" in next(line for line in done.stderr.splitlines() if f"{first.run} was killed" in line)
    assert "2 of 4 features are recorded already" in done.stderr
    assert "all 4 features are recorded already" in again.stderr
    assert [drawn(first, name) for name in FEATURES[:2]] == [drawn(second, name) for name in FEATURES[:2]]
    assert {Outcome.NOT_RUN} == {first.features[name].outcome for name in FEATURES[2:]}
    assert {Outcome.WORKS} == {item.outcome for item in second.features.values()}
    logs = {name: item.log or "" for name, item in second.features.items()}
    assert all((project.root / "build_logs" / log).is_file() for log in logs.values())
    assert [first.run, first.run, second.run, second.run] == [logs[name].partition("/")[0] for name in FEATURES]
    assert [] == list(project.root.glob("build_logs/*/unfinished"))


def test_force_repeats_measurements_of_a_killed_run(project: Project) -> None:
    killed_in_the_middle(project)

    done = project.run(*LOCAL, "--force")

    assert 0 == done.returncode, done.stderr
    first, second = records(project)
    assert all(drawn(first, name) != drawn(second, name) for name in FEATURES[:2])


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    engine = DockerEngine()
    name = f"assay/test-killed:{uuid4().hex[:12]}"
    folder = tmp_path / "image"
    folder.mkdir()
    engine.load(write_python_image(folder, name, {}))
    yield name
    engine.remove_image(name, force=True)


@pytest.mark.engine
def test_next_run_in_a_container_resumes_and_removes_the_previous_one(project: Project, image: str) -> None:
    import docker

    # Long enough for the kill to come before its end.
    project.write("probes/features/c_held.py", PROGRAM.format(feature="c-held", wait="time.sleep(10)"))
    words = ("probe", image, "--gpus", "0", *ONLY)
    process = project.start(*words)
    try:
        until(lambda: {"a-quick", "b-random"} <= drafted(project))
    finally:
        process.kill()
        process.communicate(timeout=30)
    (run,) = {path.parts[-3] for path in project.root.glob("build_logs/*/unfinished/*.json")}
    client = docker.from_env()
    label: dict[str, Any] = {"label": f"{LABEL_RUN}={run}"}
    try:
        (left,) = client.containers.list(filters=label)
        assert "running" == left.status

        done = project.run(*words)

        assert 0 == done.returncode, done.stderr
        assert [] == client.containers.list(all=True, filters=label)
        assert [] == client.volumes.list(filters=label)
    finally:
        client.close()
        DockerEngine().sweep(run)
    first, second = records(project)
    assert run == first.run
    assert str(left.name) in next(line for line in done.stderr.splitlines() if "of a killed run" in line)
    assert "2 of 4 features are recorded already" in done.stderr
    assert [drawn(first, name) for name in FEATURES[:2]] == [drawn(second, name) for name in FEATURES[:2]]
    assert {Outcome.WORKS} == {item.outcome for item in second.features.values()}

"""A job document is run by a command of its own, as SSH, Slurm or Kubernetes would call it on another machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from probe_suite import write_suite

from assay.adapters.executors.fake import FakeLeases
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite, suite_in
from assay.adapters.executors.run_job import log_of
from assay.adapters.executors.table import EXECUTORS
from assay.adapters.files.records import FileStore
from assay.errors import StoreError
from assay.evidence.record import ProbeRecord, dump, parse
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.pipeline.probe import ProbeFlow, ProbeOptions, ProbeSubject
from assay.pipeline.probe_record import ProbeCause
from assay.ports.executor import Executor, JobListener, Stop
from assay.ports.jobs import JobResult, Place, ProbeJob, seal, unseal

PROGRAM = """
FEATURE = "{feature}"
REQUIRES = ()
TIMEOUT = 300
GPUS = 0
WARM = False


def run(probe):
    import os
    import random
    import sys
    import time

    sys.stderr.write("said by {feature}\\n")
    {body}
"""
BODIES = {
    "a-quick": 'probe.metric("drawn", random.SystemRandom().random()); probe.equal("sum", 1 + 1, 2)',
    "b-wrong": 'probe.equal("sum", 1 + 1, 3)',
    "c-crash": "os.abort()",
    "d-held": 'os.path.exists("HELD") and time.sleep(300)',
}


@dataclass(frozen=True)
class Machine:
    """Another machine, which has the same probes and is given job documents."""

    folder: Path
    probes: Path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def words(self, job: ProbeJob | bytes) -> list[str]:
        path = self.folder / "job.json"
        path.write_bytes(job if isinstance(job, bytes) else seal(job))
        module = "assay.adapters.executors.run_job"
        options = ("--executor", "local", "--python", sys.executable, "--probes", str(self.probes))
        return [sys.executable, "-m", module, str(path), str(self.result), *options]

    def start(self, job: ProbeJob) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.words(job), stderr=subprocess.PIPE)

    def run(self, job: ProbeJob | bytes) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(job), stderr=subprocess.PIPE, text=True, timeout=300, check=False)

    def read(self) -> JobResult:
        return unseal(self.result.read_bytes(), JobResult, source="result.json")


@dataclass(frozen=True)
class Sending:
    """An executor that sends each job there and takes the result from its document."""

    here: Executor
    there: Machine

    name = "local"

    def gpus(self) -> tuple[str, ...]:
        return self.here.gpus()

    def place(self, reference: str) -> Place:
        return self.here.place(reference)

    def labels(self, reference: str) -> Mapping[str, str]:
        return self.here.labels(reference)

    def sweep(self) -> list[str]:
        return []

    def run(self, job: ProbeJob, *, listener: JobListener | None = None, stop: Stop | None = None) -> JobResult:
        done = self.there.run(job)
        assert 0 == done.returncode, done.stderr
        result = self.there.read()
        assert result.log is not None
        log = log_of(self.there.result).read_bytes()
        assert (result.log.digest, result.log.bytes) == (sha256_of(log), len(log))
        assert listener is not None
        listener.log(log)
        return result


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Machine:
    bodies = {name: body.replace("HELD", str(tmp_path / "held")) for name, body in BODIES.items()}
    programs = {name: PROGRAM.format(feature=name, body=body) for name, body in bodies.items()}
    folder = tmp_path / "there"
    folder.mkdir()
    return Machine(folder, write_suite(tmp_path / "probes", root, programs))


@pytest.fixture
def executor(machine: Machine) -> Executor:
    suites = ProbeSuites(suite_in(machine.probes))
    return EXECUTORS["local"](ExecutorSettings(suites=suites, python=sys.executable))


def job(machine: Machine, executor: Executor, *features: str, **more: Any) -> ProbeJob:
    suite = digest_of_suite(suite_in(machine.probes))
    given = {"run": "r", "place": executor.place("local"), "suite": suite, "features": features, **more}
    return ProbeJob.model_validate(given)


def record_of(executor: Executor, machine: Machine, folder: Path) -> ProbeRecord:
    suite = suite_in(machine.probes)
    flow = ProbeFlow(
        executor=executor,
        leases=FakeLeases(),
        store=FileStore(folder),
        suite=suite,
        suite_digest=digest_of_suite(suite),
        diagnose=lambda text: ProbeCause("aborted") if "SIGABRT" in text else None,
    )
    (made,) = flow.run([ProbeSubject(place=executor.place("local"), cell="local-1")], ProbeOptions(gpus=0))
    assert [made] == list(FileStore(folder).records(kind="probe"))
    for name in ("harness.log", "a-quick.log", "result.json"):
        assert (folder / made.run / "local-1" / "probes" / name).is_file()
    return made


def test_a_job_sent_as_json_gives_the_same_record_as_one_run_in_process(
    machine: Machine, executor: Executor, tmp_path: Path
) -> None:
    here = record_of(executor, machine, tmp_path / "one")
    there = record_of(Sending(executor, machine), machine, tmp_path / "two")

    def settled(record: ProbeRecord) -> dict[str, Any]:
        """Leave out what no two runs share: times, the run's name, a random number, the temporary folder."""
        fields = record.model_dump(mode="json", exclude={"created", "run", "notes"})
        for feature in fields["features"].values():
            feature["seconds"] = 0
            feature["log"] = feature["log"].partition("/")[2]
            feature["metrics"].pop("drawn", None)
            feature["reason"] = re.sub(r"assay-probe-\w+", "assay-probe", feature["reason"])
        return {**fields, "notes": record.notes[1:]}

    assert settled(here) == settled(there)
    assert {"a-quick", "b-wrong", "c-crash", "d-held"} == set(there.features)
    assert "aborted" == there.features["c-crash"].cause
    assert there == parse(dump(there))


def test_a_job_whose_result_is_there_is_not_run_again(machine: Machine, executor: Executor) -> None:
    asked = job(machine, executor, "a-quick")
    assert 0 == machine.run(asked).returncode
    first = machine.result.read_bytes()

    assert 0 == machine.run(asked).returncode
    assert first == machine.result.read_bytes()
    assert 0 == machine.run(asked.model_copy(update={"attempt": 2})).returncode
    assert first != machine.result.read_bytes()


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data.replace(b'"works"', b'"wrong"')])
def test_a_result_that_was_damaged_does_not_count(
    machine: Machine, executor: Executor, damage: Callable[[bytes], bytes]
) -> None:
    asked = job(machine, executor, "a-quick")
    assert 0 == machine.run(asked).returncode
    machine.result.write_bytes(damage(machine.result.read_bytes()))
    with pytest.raises(StoreError):
        machine.read()

    assert 0 == machine.run(asked).returncode
    assert "finished" == machine.read().ended


def until_measured(machine: Machine, feature: str) -> None:
    deadline = time.monotonic() + 60
    while not (machine.result.exists() and feature in getattr(machine.read().harness, "probes", {})):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_what_was_measured_is_there_when_the_machine_is_lost(machine: Machine, executor: Executor) -> None:
    held = machine.folder.parent / "held"
    held.touch()
    asked = job(machine, executor, "a-quick", "d-held")
    with machine.start(asked) as process:
        until_measured(machine, "a-quick")
        process.kill()
    lost = machine.read()

    assert "unfinished" == lost.ended
    assert lost.harness is not None
    assert {"a-quick"} == set(lost.harness.probes)
    held.unlink()
    assert 0 == machine.run(asked).returncode
    assert "finished" == machine.read().ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_leaves_a_result(
    machine: Machine, executor: Executor, number: signal.Signals
) -> None:
    (machine.folder.parent / "held").touch()
    with machine.start(job(machine, executor, "a-quick", "d-held")) as process:
        until_measured(machine, "a-quick")
        process.send_signal(number)
        assert 0 == process.wait(60)
    result = machine.read()

    assert "stopped" == result.ended
    assert result.harness is not None
    assert {"a-quick": Outcome.WORKS.value} == {
        name: (ended.document or {}).get("outcome") for name, ended in result.harness.probes.items()
    }


def test_jobs_that_cannot_be_run_here_are_refused_and_leave_nothing(machine: Machine, executor: Executor) -> None:
    fine = job(machine, executor, "a-quick")
    other = {"reference": "local", "digest": "sha256:" + "0" * 64}
    refused: dict[str, tuple[ProbeJob | bytes, int, str]] = {
        "cut off": (seal(fine)[:-5], 1, "cut off or changed"),
        "no job": (b"{}", 1, "not a sealed job document"),
        "other probes": (job(machine, executor, suite="sha256:" + "0" * 64), 2, "is not here"),
        "another place": (job(machine, executor, place=other), 2, "in the job"),
        "no such probe": (job(machine, executor, "a-quik"), 2, "did you mean"),
        "more GPUs than any machine has": (job(machine, executor, devices={"count": 1000}), 4, "GPU"),
    }

    for name, (document, code, said) in refused.items():
        done = machine.run(document)
        assert code == done.returncode, (name, done.stderr)
        assert said in done.stderr, name
        assert "Traceback" not in done.stderr, name
        assert not machine.result.exists(), name


def test_a_result_that_cannot_be_written_is_reported(machine: Machine, executor: Executor) -> None:
    if os.geteuid() == 0:
        machine.result.mkdir()
    else:
        machine.folder.chmod(0o500)
    done = machine.run(job(machine, executor, "a-quick"))

    assert 1 == done.returncode
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr

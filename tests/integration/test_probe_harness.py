"""The harness survives whatever a probe does: every kind of sabotage that needs no GPU, on a probe that works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from probe_suite import write_suite

from assay.adapters.executors.local import LocalTaskHost
from assay.adapters.executors.probe_executor import ProbeExecutor
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite
from assay.evidence import suite as probes
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.outcome import Outcome
from assay.ports.jobs import Place, ProbeJob

PROGRAM = """
FEATURE = "toy"
REQUIRES = ()
TIMEOUT = 3
GPUS = 0
WARM = True


def run(probe):
    probe.equal("sum", sum(range(10)), 45)
    probe.faster("toy", 1.0, 2.0)
    if probe.sabotage == "missing-library":
        probe.module("json")
"""
AFTER = PROGRAM.replace('"toy"', '"after"').replace("REQUIRES = ()", 'REQUIRES = ("toy",)')
BESIDE = PROGRAM.replace('"toy"', '"beside"')


@pytest.fixture
def suite(tmp_path: Path, root: Path) -> Path:
    return write_suite(tmp_path / "probes", root, {"toy": PROGRAM, "after": AFTER, "beside": BESIDE})


def harness(suite: Path, sabotage: dict[str, str], *, warm: bool = False) -> tuple[HarnessResult, list[Declaration]]:
    texts = {str(path.relative_to(suite)): path.read_text() for path in suite.glob("features/*.py")}
    chosen = probes.order(probes.declarations(texts), ["toy", "after", "beside"])
    job = probes.job(chosen, work=str(suite.parent / "work"), warm=warm, sabotage=sabotage)
    (suite.parent / "job.json").write_text(json.dumps(job))
    result = suite.parent / "result.json"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, suite / "harness.py", suite.parent / "job.json", result],
        check=True, timeout=90, env=environment, capture_output=True,
    )  # fmt: skip
    return HarnessResult.model_validate_json(result.read_bytes()), chosen


@pytest.mark.parametrize(
    ("kind", "outcome", "words"),
    [
        ("", Outcome.WORKS, ""),
        ("perturb", Outcome.WRONG, "sum"),
        ("nan", Outcome.WRONG, "sum"),
        ("slow", Outcome.DEGRADED, "2.00 x"),
        ("missing-library", Outcome.BROKEN, "cannot open shared object file"),
        ("segfault", Outcome.BROKEN, "SIGSEGV"),
        ("abort", Outcome.BROKEN, "SIGABRT"),
        ("exit", Outcome.BROKEN, "exit code 3"),
        ("garbage", Outcome.BROKEN, "not JSON"),
        ("hang", Outcome.INCONCLUSIVE, "3 s"),
        ("kill", Outcome.INCONCLUSIVE, "from outside"),
        ("out-of-memory", Outcome.INCONCLUSIVE, "out of memory"),
        ("no-answer", Outcome.INCONCLUSIVE, "no answer within"),
        ("leftover", Outcome.WORKS, ""),
    ],
)
def test_each_sabotage_gets_its_outcome_and_hurts_nothing_else(
    suite: Path, kind: str, outcome: Outcome, words: str
) -> None:
    began = time.monotonic()

    result, chosen = harness(suite, {"toy": kind})

    judged = probes.judge_all(result, chosen)
    assert outcome is judged["toy"].outcome, judged["toy"].reason
    assert words in judged["toy"].reason
    assert Outcome.WORKS is judged["beside"].outcome
    good = outcome in (Outcome.WORKS, Outcome.DEGRADED)
    assert (Outcome.WORKS if good else Outcome.NOT_RUN) is judged["after"].outcome
    assert good or "prerequisite toy" in judged["after"].reason
    assert result.finished
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("says", "outcomes"),
    [
        # Asked before the probe, and after it where it was slow.
        ([""], [Outcome.DEGRADED, Outcome.WORKS]),
        (["3.0 GiB in use"], [Outcome.INCONCLUSIVE, Outcome.WORKS]),
        (["", "3.0 GiB in use"], [Outcome.INCONCLUSIVE, Outcome.WORKS]),
    ],
    ids=["alone", "before", "after"],
)
def test_a_slow_probe_beside_another_process_is_left_open_and_what_rests_on_it_runs(
    suite: Path, says: list[str], outcomes: list[Outcome]
) -> None:
    for name in ("toy", "after"):
        path = suite / "features" / f"{name}.py"
        told = '    import os\n    probe.metric("told", os.environ["ASSAY_OTHERS"])\n'
        path.write_text(path.read_text().replace("GPUS = 0", "GPUS = 1") + told)
    facts = {"devices": [{"name": "x", "capability": "9.0", "memory_bytes": 1, "uuid": "GPU-0"}]}
    (suite / "probelib" / "facts.py").write_text(f"import json, sys\njson.dump({facts}, open(sys.argv[1], 'w'))\n")
    (suite / "probelib" / "others.py").write_text(
        f"import sys\nassert sys.argv[1:] == ['GPU-0']\nlines = open({str(suite.parent / 'says')!r}).readlines()\n"
        f"print(lines[0].strip())\nopen({str(suite.parent / 'says')!r}, 'w').writelines(lines[1:] or lines)\n"
    )
    (suite.parent / "says").write_text("".join(f"{line}\n" for line in says))
    result, chosen = harness(suite, {"toy": "slow"})
    judged = probes.judge_all(result, chosen)

    assert outcomes == [judged[name].outcome for name in ("toy", "after")], judged
    assert says[-1] == result.probes["toy"].others
    assert says[0] == judged["toy"].metrics["told"]
    assert "" == result.probes["beside"].others


def test_gigabytes_of_output_are_bounded(suite: Path) -> None:
    # Two gibibytes take longer than the toy's limit on a slow machine.
    program = suite / "features" / "toy.py"
    program.write_text(program.read_text().replace("TIMEOUT = 3", "TIMEOUT = 60"))

    result, chosen = harness(suite, {"toy": "flood"})

    ended = result.probes["toy"]
    assert Outcome.WORKS is probes.judge_all(result, chosen)["toy"].outcome
    assert ended.stdout_bytes == 2048 << 20
    assert len(ended.stdout) < 100_000
    assert "bytes left out" in ended.stdout


def test_processes_left_by_a_probe_are_killed(suite: Path) -> None:
    marker = f"leftover-{os.getpid()}-{time.monotonic_ns()}"
    program = suite / "features" / "toy.py"
    program.write_text(
        program.read_text()
        + f"""
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{marker}"], start_new_session=True)
"""
    )

    harness(suite, {})

    assert [] == _marked(marker)


def test_stopped_harness_kills_its_probe_and_keeps_results(suite: Path, tmp_path: Path) -> None:
    marker = f"stopped-{os.getpid()}-{time.monotonic_ns()}"
    program = suite / "features" / "beside.py"
    program.write_text(
        program.read_text().replace("TIMEOUT = 3", "TIMEOUT = 600")
        + f"""
    import subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{marker}"], start_new_session=True)
    time.sleep(600)
"""
    )
    texts = {str(path.relative_to(suite)): path.read_text() for path in suite.glob("features/*.py")}
    chosen = probes.order(probes.declarations(texts), ["toy", "beside"])
    (tmp_path / "job.json").write_text(json.dumps(probes.job(chosen, work=str(tmp_path / "work"), warm=False)))
    running = subprocess.Popen([sys.executable, suite / "harness.py", tmp_path / "job.json", tmp_path / "result.json"])
    deadline = time.monotonic() + 60
    while not _marked(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _marked(marker)

    running.terminate()

    assert 128 + signal.SIGTERM == running.wait(30)
    assert [] == _marked(marker)
    result = HarnessResult.model_validate_json((tmp_path / "result.json").read_bytes())
    assert ({"toy"}, False) == (set(result.probes), result.finished)


def _marked(marker: str) -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and marker in _command_line(path.name)]


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return ""


def test_the_result_is_there_after_each_probe(suite: Path) -> None:
    program = suite / "features" / "beside.py"
    program.write_text(program.read_text() + "    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n")

    with pytest.raises(subprocess.CalledProcessError):
        harness(suite, {})

    result = HarnessResult.model_validate_json((suite.parent / "result.json").read_bytes())
    assert not result.finished
    assert {"toy", "after"} <= set(result.probes)


def test_a_probe_that_compares_nothing_is_a_fault(suite: Path) -> None:
    program = suite / "features" / "toy.py"
    program.write_text(program.read_text().split("def run")[0] + "def run(probe):\n    pass\n")

    result, chosen = harness(suite, {})

    judged = probes.judge_all(result, chosen)["toy"]
    assert Outcome.BROKEN is judged.outcome
    assert "compared nothing" in judged.reason


def test_without_torch_the_suite_is_reported(root: Path, tmp_path: Path) -> None:
    """The real suite in this environment, which has no torch and no GPU: nothing is red, every reason is told."""
    folder = root / "probes"
    texts = {str(path.relative_to(folder)): path.read_text() for path in folder.glob("features/*.py")}
    chosen = probes.order(probes.declarations(texts))
    job: dict[str, Any] = probes.job(chosen, work=str(tmp_path / "work"))
    for item in job["probes"]:
        item["gpus"] = 0
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run(
        [sys.executable, folder / "harness.py", tmp_path / "job.json", tmp_path / "result.json"],
        check=True, timeout=120, capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip

    result = HarnessResult.model_validate_json((tmp_path / "result.json").read_bytes())

    judged = probes.judge_all(result, chosen)
    assert "package torch is not installed" == judged["torch-device"].reason
    dependent = [item for name, item in judged.items() if name not in ("torch-device", "numa", "abi-import")]
    assert {Outcome.NOT_RUN} == {item.outcome for item in dependent}
    assert all(item.reason.startswith("prerequisite") for item in dependent)


def test_environments_of_this_machine_do_not_share_what_they_compile(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    program = """
import json, sys
cache = json.load(open(sys.argv[1]))["cache"]
json.dump({"schema_version": 1, "suite_digest": "", "python": "", "executable": cache}, open(sys.argv[2], "w"))
"""
    suite = {"harness.py": program.encode()}
    caches = []
    for python in (sys.executable, str(other), sys.executable):
        executor = ProbeExecutor(LocalTaskHost(python=python, cache=tmp_path / "cache"), ProbeSuites(suite))
        place = Place(reference="local", digest="sha256:same")
        asked = ProbeJob(place=place, run="r", suite=digest_of_suite(suite), features=())
        result = executor.run(asked).harness
        assert result is not None
        caches.append(result.executable)

    assert caches[0] == caches[2]
    assert caches[0] != caches[1]
    assert all(Path(cache).parent == tmp_path / "cache" for cache in caches)

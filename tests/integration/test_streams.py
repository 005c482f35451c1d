"""Closed and full streams, odd terminals, pipes among the records, signals: a real process ends cleanly each time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project_tools import Project

from assay.adapters.files.records import FileStore
from assay.evidence.record import FeatureResult, ProbeRecord, now
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome

SOURCE = str(Path(__file__).parents[2] / "src")
CLEAN = (b"Traceback", b"Exception ignored", b"bug of assay")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "p")
    store = FileStore(made.root / "build_logs")
    for feature in ("one", "two"):
        store.append(
            ProbeRecord(
                created=now(), run="r", cell=made.cell("1.0"), image="sundae", suite_digest="sha256:" + "5" * 64,
                executor="docker", devices=(), packages={}, features={feature: FeatureResult(outcome=Outcome.WORKS)},
            )
        )  # fmt: skip
    return made


def shell(project: Project, script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=project.root,
        env={**os.environ, "A": f"{sys.executable} -m assay", "PYTHONPATH": SOURCE, **env},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("$A plan >&-", 1),
        ("$A plan 2>&-", 0),
        ("$A plan <&- >&- 2>&-", 1),
        ("$A plan nothing-like-this 2>&-", 3),
        ("$A report --html s >&-", 0),
        ("$A plan >/dev/full", 1),
        ("$A report --format json >/dev/full", 1),
        ("$A --help >/dev/full", 1),
        ("$A --help >&-", 1),
        ("$A --version >&-", 1),
        ("$A build --help >&-", 1),
        ("$A --version <&- >&- 2>&-", 1),
        ("$A plan 2>/dev/full", 0),
        ("$A plan | true; exit ${PIPESTATUS[0]}", 0),
        ("$A report --format json | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", 0),
        ("COLUMNS= $A plan", 0),
        ("COLUMNS=abc $A report", 0),
        ("COLUMNS=1 $A recommend --target sm_120 --offline > /dev/null; exit 0", 0),
        ("COLUMNS=-5 $A doctor >/dev/null; exit 0", 0),
        ("LC_ALL=POSIX PYTHONIOENCODING=ascii $A plan", 0),
    ],
)
def test_streams(script: str, code: int, project: Project) -> None:
    done = shell(project, script)

    assert not [words for words in CLEAN if words in done.stderr + done.stdout], done.stderr.decode()
    assert code == done.returncode or (code == 3 and done.returncode == 2), done.stderr.decode()


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def damage_zone(path: Path) -> None:
    value = json.loads(path.read_bytes())
    value["created"] = "2026-11-30T00:00:00"
    data = json.dumps(value).encode()
    path.unlink()
    path.with_name(f"20261130T000000-probe-{sha256_of(data)[7:23]}.json").write_bytes(data)


@pytest.mark.parametrize("damage", [damage_fifo, damage_device, damage_zone])
@pytest.mark.parametrize("command", ["report", "report --html site", "recommend --target sm_120"])
def test_invalid_record_is_skipped(damage: Callable[[Path], None], command: str, project: Project) -> None:
    damage(min((project.root / "build_logs" / "records").glob("*.json")))

    done = shell(project, f"$A {command}")

    assert done.returncode in {0, 1, 3}, done.stderr.decode()
    assert not [words for words in CLEAN if words in done.stderr + done.stdout], done.stderr.decode()


def of_assay(err: bytes) -> bool:
    """Tell whether a traceback has a line of assay: Python's own, before it runs the first one, are not ours."""
    return b"/assay/" in err or not err.rstrip().endswith(b"KeyboardInterrupt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_any_moment_ends_the_process(number: signal.Signals, project: Project) -> None:
    chance = random.Random(7)
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "assay", "report", "--html", "site"],
            cwd=project.root,
            env={**os.environ, "PYTHONPATH": SOURCE},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(chance.uniform(0.02, 0.8))
        process.send_signal(number)
        _, err = process.communicate(timeout=30)

        # Before assay runs, and where Python itself ends by the signal, the code is Python's.
        assert process.returncode in {0, 130, -number, -signal.SIGINT} or not of_assay(err)
        assert not [words for words in CLEAN if words in err and of_assay(err)], err.decode()

"""Records in a real registry, pushed by several processes at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from registry_tools import real_registry

from assay.adapters.files.records import FileStore
from assay.evidence.record import BuildRecord, BuildStatus

ROOT = Path(__file__).parents[2]
BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)
WRITERS, EACH = 8, 50


def started(folder: Path, verb: str, host: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assay", "records", verb, f"{host}/team/records"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    _, stderr = process.communicate(timeout=120)
    assert 0 == process.returncode, stderr
    return stderr


@pytest.mark.registry
def test_eight_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    for writer in range(WRITERS):
        store = FileStore(tmp_path / f"w{writer}" / "build_logs")
        for number in range(EACH):
            # Clocks of machines differ by a day, and say nothing about what is kept.
            moment = BEGAN + timedelta(days=writer % 2, seconds=number)
            store.append(BuildRecord(created=moment, run="r", cell=f"c{writer}-{number}", status=BuildStatus.BUILT))
    (tmp_path / "reader").mkdir()
    with real_registry(tmp_path) as host:
        writers = [started(tmp_path / f"w{writer}", "push", host) for writer in range(WRITERS)]
        assert all("50 records pushed to" in said(writer) for writer in writers)

        assert "400 records pulled from" in said(started(tmp_path / "reader", "pull", host))
        assert 400 == len(list((tmp_path / "reader" / "build_logs" / "records").glob("*.json")))
        assert 400 == len(list(FileStore(tmp_path / "reader" / "build_logs").records()))
        assert "0 records pulled from" in said(started(tmp_path / "reader", "pull", host))
        assert "0 records pushed to" in said(started(tmp_path / "w3", "push", host))
        assert "350 records pulled from" in said(started(tmp_path / "w3", "pull", host))

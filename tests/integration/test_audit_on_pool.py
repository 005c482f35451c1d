"""`assay audit --on POOL` with real workers: 2 000 cells equal one machine's, two workers killed; wheels read once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from many_cells import known_wheels, locked, many_cells, written_by
from project_tools import Project
from wheels import serving, wheel_bytes

from assay.matrix.lock import LockedWheel

POOLS = "pools:\n  farm: {kind: local, executor: local, at_once: 4}\n  far: {kind: ssh, hosts: [{context: gpu1}]}\n"
ELF = Path(__file__).parents[1] / "fixtures" / "elf"


def workers(project: Project) -> dict[int, Path]:
    """Return process id -> mark of each worker that was started."""
    found: dict[int, Path] = {}
    for mark in (project.root / "build_logs" / ".pool").glob("*/processes/*"):
        words = mark.read_text().split()
        found |= {int(words[0]): mark} if words else {}
    return found


@pytest.mark.timeout(600)
def test_2000_cells_on_four_workers_equal_one_machine_when_two_are_killed(tmp_path: Path) -> None:
    project = many_cells(tmp_path / "project", 2000, POOLS)
    known_wheels(project, 2000, tmp_path / "one" / "facts", tmp_path / "farm" / "facts")
    alone = {"ASSAY_CACHE": str(tmp_path / "one")}
    first = project.run("audit", "--no-record", "--format", "json", env=alone, timeout=300)
    one = project.run("audit", "--no-record", "--format", "json", env=alone, timeout=300)

    farm = project.start(
        "audit", "--no-record", "--format", "json", "--on", "farm", env={"ASSAY_CACHE": str(tmp_path / "farm")}
    )
    killed: list[int] = []
    deadline = time.monotonic() + 120
    while len(killed) < 2 and time.monotonic() < deadline and farm.poll() is None:
        for pid, mark in workers(project).items():
            written = written_by(mark.parents[2], mark)
            if pid not in killed and len(killed) < 2 and 0 < written < 20:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        time.sleep(0.01)
    out, err = farm.communicate(timeout=300)

    assert 2 == len(killed), err
    assert 2 == err.count("the pool lost a worker"), err
    assert "this machine does" not in err
    assert one.stdout == out
    assert 1 == first.returncode == one.returncode == farm.returncode
    assert 2000 == len(json.loads(out)["reports"])
    assert not list((project.root / "build_logs" / ".pool").glob("audit-*"))


def test_each_wheel_is_read_once_in_the_whole_farm(tmp_path: Path) -> None:
    project = many_cells(tmp_path / "project", 120, POOLS)
    native = {f"thing/{name}": (ELF / name).read_bytes() for name in ("libprovider.so.1", "libconsumer.so")}
    with serving() as (server, address):
        wheels = []
        for name in ("thing", "other", "third"):
            data = wheel_bytes(name, "1.0", native if name == "thing" else {f"{name}/__init__.py": b"1"})
            filename = f"{name}-1.0-{'cp311-cp311-linux_x86_64' if name == 'thing' else 'py3-none-any'}.whl"
            sha256 = hashlib.sha256(data).hexdigest()
            server.files[f"/simple/{name}/"] = f'<a href="/{filename}#sha256={sha256}">x</a>'.encode()
            server.files[f"/{filename}"] = data
            wheels.append(LockedWheel(name=name, version="1.0", filename=filename, sha256=sha256))
        for number in range(1, 121):
            locked(project, number, *wheels)
        index = {"UV_DEFAULT_INDEX": f"{address}/simple"}
        one = project.run("audit", "--no-record", env={"ASSAY_CACHE": str(tmp_path / "one"), **index})
        alone = len(server.requests), server.sent
        server.requests.clear()
        server.sent = 0
        done = project.run("audit", "--no-record", "--on", "farm", env={"ASSAY_CACHE": str(tmp_path / "farm"), **index})

    assert 0 == done.returncode, done.stderr
    assert "3 wheels to read, on 3 workers" in done.stderr
    assert "120 cells to audit, on 3 workers" in done.stderr
    assert alone == (len(server.requests), server.sent)
    assert alone[1] > 0
    assert one.stdout == done.stdout
    assert 120 == len(re.findall(r"^sundae-f\d+\.0\b", done.stdout, re.MULTILINE))


def test_a_pool_without_a_shared_folder_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    project = many_cells(tmp_path, 3, POOLS)
    done = project.run("audit", "--on", "far")
    wheel = project.run("audit", "torch==2.8.0", "--on", "farm")

    assert (2, 2) == (done.returncode, wheel.returncode)
    assert "share no folder with this one" in done.stderr
    assert "assay facts push|pull" in done.stderr
    assert "--on is for cells" in wheel.stderr

"""Probes on two Docker contexts over a real sshd, of which one drops in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_coordinating import Coordinating, Teller
from farm_engines import NODES, NodeEngines
from farm_jobs import Farm
from python_image import write_python_image
from ssh_daemons import SshDaemons

from assay.adapters.pools.table import probe_pool
from assay.matrix.pools import load_pools

JOBS = int(os.environ.get("ASSAY_FARM_CONTAINERS", "12"))
STUB = "assay/farm-ssh-stub:1"
pytestmark = [pytest.mark.farm, pytest.mark.timeout(600)]
POOLS = """
pools:
  farm: {kind: ssh, hosts: [{context: farm-a, count: 2}, {context: farm-b, count: 2}], patience: 60}
"""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeEngines]:
    archive = write_python_image(tmp_path_factory.mktemp("image"), STUB, {})
    # Sockets lie below it, whose paths have at most 108 characters.
    root = Path(tempfile.mkdtemp(prefix="farm-ssh-", dir="/var/tmp"))
    with NodeEngines(root, (archive,)) as made:
        yield made
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def hosts(engines: NodeEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshDaemons]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with SshDaemons(tmp_path / "hosts", monkeypatch) as made:
        for name, node in zip(("farm-a", "farm-b"), NODES, strict=True):
            made.start(name, f"DOCKER_HOST={engines.host(node)}")
            argv = ["docker", "context", "create", name, "--docker", f"host=ssh://{name}"]
            subprocess.run(argv, check=True, timeout=60, capture_output=True)
        yield made


def test_every_job_is_recorded_once_when_a_host_drops(engines: NodeEngines, hosts: SshDaemons, tmp_path: Path) -> None:
    farm = Farm(tmp_path / "project", seconds=1.0)
    (farm.folder / "pools.yaml").write_text(POOLS)
    plan = farm.plan(farm.subjects(JOBS, reference=STUB))
    coordinating = Coordinating(farm, plan, environment={"ASSAY_FARM_UNKNOWN": "10"})
    tell = Teller(coordinating)
    try:
        coordinating.start()
        coordinating.until(JOBS // 4)
        hosts.drop("farm-b")
        tell("farm-b is gone")
        coordinating.until(JOBS // 2)
        coordinating.processes[-1].kill()
        coordinating.processes[-1].wait()
        tell("the coordinator is killed")
        time.sleep(1)
        coordinating.start()
        coordinating.until(JOBS)
        code = coordinating.processes[-1].wait(120)
    finally:
        coordinating.end()
    tell(f"{JOBS} jobs, {len(farm.records())} records")
    assert 0 == code
    farm.check(plan, [])
    listed = ["docker", "-H", engines.host("gpu1"), "ps", "-aq"]
    assert "" == subprocess.run(listed, capture_output=True, text=True, check=True).stdout, "containers are left"


def test_doctor_names_the_host_that_does_not_answer(hosts: SshDaemons, tmp_path: Path) -> None:
    hosts.drop("farm-b")
    pool = probe_pool("farm", load_pools(POOLS).pool("farm"), tmp_path)
    found = {item.name: item.ok for item in pool.inventory("registry.invalid")}

    assert Counter({"farm-a": True, "farm-b": False, "farm-a: registry": False}) == Counter(found)

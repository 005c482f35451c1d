"""Probes on a real Slurm of four nodes that loses nodes, its controller, and the coordinator."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from farm_coordinating import Coordinating, Teller
from farm_jobs import Farm
from many_cells import known_wheels, many_cells
from slurm_cluster import PROGRAMS, SlurmCluster

from assay.adapters.pools.table import probe_pool
from assay.matrix.pools import load_pools

TASKS = int(os.environ.get("ASSAY_FARM_TASKS", "60"))
pytestmark = [pytest.mark.farm, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert missing == [], f"install slurmctld, slurmd, slurm-client and munge; missing: {missing}"
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        yield made


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path / "project", seconds=0.1)


def pools(farm: Farm, partition: str = "low") -> str:
    """Return a pools.yaml whose container runtime is a stand-in: it starts the program, and leaves the image alone."""
    runtime = f"env ASSAY_IMAGE={{image}} {sys.executable} {{arguments}}"
    return (
        f"pools:\n  farm:\n    kind: slurm\n    partition: {partition}\n    folder: {farm.folder}/shared\n"
        f'    gpus: [h200]\n    runtime: "{runtime}"\n'
    )


def test_every_task_is_recorded_once_whatever_happens_to_the_cluster(cluster: SlurmCluster, farm: Farm) -> None:
    (farm.folder / "pools.yaml").write_text(pools(farm))
    plan = farm.plan(farm.subjects(TASKS), gpus=("h200",))
    coordinating = Coordinating(farm, plan)
    tell = Teller(coordinating)

    steps: list[tuple[float, Callable[[], None]]] = [
        (0.05, lambda: lose_node(cluster, tell)),
        (0.2, lambda: preempt(cluster, tell)),
        (0.3, lambda: kill_coordinator(coordinating, tell)),
        (0.45, lambda: (tell("n2 is back"), cluster.start_node("n2"))[0]),  # type: ignore[func-returns-value]
        (0.5, lambda: kill_controller(cluster, tell)),
        (0.65, lambda: hold(cluster, tell)),
        (0.7, lambda: (tell("a second coordinator"), coordinating.start())[0]),  # type: ignore[func-returns-value]
    ]
    try:
        coordinating.start()
        for share, step in steps:
            coordinating.until(int(TASKS * share))
            step()
        coordinating.until(TASKS)
        codes = [process.wait(60) for process in coordinating.processes if process.returncode != -signal.SIGKILL]
    finally:
        coordinating.end()

    tell(f"{TASKS} tasks, {len(farm.records())} records")
    assert [0, 0] == codes
    farm.check(plan, [])


def lose_node(cluster: SlurmCluster, tell: Callable[[str], None]) -> None:
    cluster.kill("n2")
    tell(f"n2 is lost with {cluster.end_jobs_on('n2')} processes")


def preempt(cluster: SlurmCluster, tell: Callable[[str], None]) -> None:
    for _ in range(2):
        cluster.command("sbatch", "-p", "high", "--gres=gpu:2", "-o", "/dev/null", "--wrap", "sleep 4")
    tell("two jobs of a partition that pre-empts take two nodes")


def kill_coordinator(coordinating: Coordinating, tell: Callable[[str], None]) -> None:
    coordinating.processes[-1].kill()
    coordinating.processes[-1].wait()
    tell("the coordinator is killed")
    time.sleep(3)
    coordinating.start()
    tell("another coordinator runs the same command")


def kill_controller(cluster: SlurmCluster, tell: Callable[[str], None]) -> None:
    cluster.kill("slurmctld")
    tell("the controller is killed")
    time.sleep(6)
    cluster.start_controller()
    tell("the controller is back")


def hold(cluster: SlurmCluster, tell: Callable[[str], None]) -> None:
    pending = cluster.command("squeue", "-h", "-t", "PD", "-o", "%i").split()[:5]
    for job in pending:
        cluster.command("scontrol", "hold", job)
    tell(f"{len(pending)} jobs are held")


def test_doctor_asks_the_partition_and_a_node_of_it(cluster: SlurmCluster, farm: Farm) -> None:
    text = pools(farm).replace("gpus: [h200]", "gpus: [h200, b200]")
    items = probe_pool("farm", load_pools(text).pool("farm"), farm.folder).inventory("127.0.0.1:9")
    found = {item.name: item.ok for item in items}

    assert (True, True, False) == (found["partition"], found["gpu h200"], found["gpu b200"])
    assert (True, True, False) == (found["node: folder"], found["node: runtime"], found["node: registry"])
    absent = probe_pool("farm", load_pools(pools(farm, "none")).pool("farm"), farm.folder).inventory(None)
    assert not {item.name: item.ok for item in absent}["partition"]


def test_a_result_that_is_cut_off_is_measured_again(cluster: SlurmCluster, farm: Farm) -> None:
    pool = probe_pool("farm", load_pools(pools(farm)).pool("farm"), farm.folder)
    plan = farm.plan(farm.subjects(1), gpus=("h200",))
    name = plan.jobs[0].job.name
    result = farm.folder / "shared" / plan.run / "results" / f"{name}.json"
    result.parent.mkdir(parents=True)
    result.write_bytes(b'{"checksum":"sha256:' + b"0" * 64 + b'", "schema_ver')
    ends = list(farm.coordinator(pool, plan).run())

    farm.check(plan, ends)


def test_a_partition_that_is_not_there_is_no_failure_of_the_cell(cluster: SlurmCluster, farm: Farm) -> None:
    pool = probe_pool("farm", load_pools(pools(farm, "none")).pool("farm"), farm.folder)
    plan = farm.plan(farm.subjects(1), gpus=("h200",), seconds=121.0)
    coordinator = farm.coordinator(pool, plan)
    coordinator._limits = type(coordinator._limits)(patience=3.0, every=0.5)
    (end,) = coordinator.run()

    assert "not the cell's fault: refused" in end.words
    assert [] == farm.records()


def test_an_audit_on_slurm_equals_one_machine_when_a_worker_is_killed(cluster: SlurmCluster, tmp_path: Path) -> None:
    pool = f"kind: slurm, partition: low, folder: {tmp_path}/shared, at_once: 4, assay: {sys.executable}"
    project = many_cells(tmp_path / "project", 400, f"pools: {{hpc: {{{pool}}}}}\n")
    known_wheels(project, 400, tmp_path / "one" / "facts", tmp_path / "shared" / "facts")
    one = {"ASSAY_CACHE": str(tmp_path / "one")}
    for _ in range(2):
        alone = project.run("audit", "--no-record", "--format", "json", env=one, timeout=120)

    audit = project.start("audit", "--no-record", "--format", "json", "--on", "hpc")
    deadline = time.monotonic() + 120
    ids: list[str] = []
    while not ids and time.monotonic() < deadline:
        time.sleep(0.05)
        listed = [line.split() for line in cluster.command("squeue", "-h", "-t", "R", "-o", "%i %j").splitlines()]
        # Of other tests there may be jobs that still end.
        ids = [number for number, name in listed if name.startswith("audit-")]
    # Stopped as it begins, so that it cannot be done before it is cancelled.
    cluster.command("scancel", "--full", "--signal=STOP", ids[0])
    while not list((tmp_path / "shared").glob("audit-*/results/*-1-*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.command("scancel", ids[0])
    out, err = audit.communicate(timeout=240)

    assert 1 == audit.returncode, err
    assert alone.stdout == out
    assert "the pool lost a worker (cancelled" in err
    assert "this machine does" not in err

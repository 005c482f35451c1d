"""Probes on a real Kubernetes that loses pods, containers, a node, its API server, and the coordinator."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_coordinating import Coordinating, Teller
from farm_engines import NODES
from farm_jobs import Farm
from kube_cluster import BINARIES, CONTEXT, NAMESPACE, PROGRAMS, KubeCluster, pause_image
from python_image import write_python_image

from assay.adapters.pools.table import probe_pool
from assay.matrix.pools import load_pools
from assay.ports.jobs import Place

JOBS = int(os.environ.get("ASSAY_FARM_PODS", "100"))
STUB = "assay/farm-stub:1"
pytestmark = [pytest.mark.farm, pytest.mark.timeout(1500)]
POOLS = f"""
pools:
  farm:
    kind: kubernetes
    context: {CONTEXT}
    namespace: {NAMESPACE}
    gpus: [NVIDIA-H200]
    cpu: 500m
    memory: 200Mi
    scratch: 1Gi
    patience: 60
    attempts: 8
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeCluster]:
    binaries = Path(os.environ["ASSAY_FARM_BIN"])
    missing = [name for name in BINARIES if not (binaries / name).is_file()]
    missing += [name for name in PROGRAMS if shutil.which(name) is None]
    assert missing == [], f"missing: {missing}"
    images = tmp_path_factory.mktemp("images")
    stub = write_python_image(images, STUB, {})
    pause = pause_image(stub)
    # Sockets lie below it, whose paths have at most 108 characters.
    root = Path(tempfile.mkdtemp(prefix="farm-k8s-", dir="/var/tmp"))
    began = time.monotonic()
    try:
        with KubeCluster(root, binaries, (stub, pause)) as made:
            print(f"two nodes after {time.monotonic() - began:.0f} s")
            yield made
    finally:
        if not os.environ.get("ASSAY_FARM_KEEP"):
            shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    made = Farm(tmp_path / "project", seconds=2.0)
    (made.folder / "pools.yaml").write_text(POOLS)
    return made


def running(cluster: KubeCluster) -> list[str]:
    words = ("get", "pods", "-n", NAMESPACE, "--field-selector", "status.phase=Running", "-o", "name")
    return cluster.admin(*words, check=False).split()


def test_every_job_is_recorded_once_whatever_happens_to_the_cluster(cluster: KubeCluster, farm: Farm) -> None:
    plan = farm.plan(farm.subjects(JOBS, reference=STUB), gpus=("NVIDIA-H200",))
    environment = {"KUBECONFIG": str(cluster.config)}
    wrapped = ("nsenter", f"--net=/var/run/netns/{cluster.net}")
    coordinating = Coordinating(farm, plan, environment=environment, wrapped=wrapped)
    tell = Teller(coordinating)
    quota = '{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"few"},"spec":{"hard":{"pods":"4"}}}'
    try:
        cluster.admin("-n", NAMESPACE, "apply", "-f", "-", stdin=quota)
        tell("the namespace may have four pods")
        coordinating.start()
        coordinating.until(3)
        cluster.admin("-n", NAMESPACE, "delete", "resourcequota", "few")
        tell("the quota is gone")
        coordinating.until(int(JOBS * 0.1))
        cluster.until(lambda: len(running(cluster)) >= 3, "three running pods", 120)
        for pod in running(cluster)[:3]:
            cluster.admin("-n", NAMESPACE, "delete", pod, "--grace-period=0", "--force", "--wait=false", check=False)
            tell(f"{pod} is deleted by force")
        cluster.until(lambda: kill_container(cluster, tell), "a running container", 120)
        coordinating.until(int(JOBS * 0.25))
        cluster.kill("apiserver")
        tell("the API server is killed")
        time.sleep(6)
        cluster.restart("apiserver")
        tell("the API server is back")
        coordinating.until(int(JOBS * 0.4))
        coordinating.processes[-1].kill()
        coordinating.processes[-1].wait()
        cluster.send("kubelet-gpu2", signal.SIGSTOP)
        lost = time.monotonic()
        tell("the coordinator is killed, and the node gpu2 is lost")
        coordinating.start()
        tell("another coordinator runs the same command")
        time.sleep(max(0.0, 45 - (time.monotonic() - lost)))
        tell(f"nodes: {cluster.nodes()}")
        cluster.send("kubelet-gpu2", signal.SIGCONT)
        tell("gpu2 is back")
        coordinating.until(JOBS)
        code = coordinating.processes[-1].wait(120)
    finally:
        coordinating.end()
    tell(f"{JOBS} jobs, {len(farm.records())} records")
    assert 0 == code
    farm.check(plan, [])
    left = cluster.admin("-n", NAMESPACE, "get", "jobs,configmaps,networkpolicies", "-l",
                         f"assay-images.org/run={plan.run}", "-o", "name")  # fmt: skip
    assert "" == left, "the run was not swept"


def kill_container(cluster: KubeCluster, tell: Teller) -> bool:
    """Kill the container of a probe, if one runs; return whether one did."""
    for node in NODES:
        base = ("docker", "-H", cluster.host(node))
        found = subprocess.run(
            (*base, "ps", "-q", "--filter", "name=k8s_probe"), capture_output=True, text=True, check=False
        )
        for container in found.stdout.split():
            if subprocess.run((*base, "kill", container), capture_output=True, check=False).returncode == 0:
                tell(f"a container on {node} is killed")
                return True
    return False


def test_an_image_that_cannot_be_pulled_is_not_a_failure_of_its_cell(cluster: KubeCluster, farm: Farm) -> None:
    (subject,) = farm.subjects(1)
    digest = subject.place.digest
    place = Place(reference=f"registry.invalid/none@{digest}", digest=digest)
    plan = farm.plan([type(subject)(place=place, cell="gone")], gpus=("NVIDIA-H200",))
    environment = {"KUBECONFIG": str(cluster.config), "ASSAY_FARM_PATIENCE": "15"}
    coordinating = Coordinating(
        farm, plan, environment=environment, wrapped=("nsenter", f"--net=/var/run/netns/{cluster.net}")
    )
    try:
        code = coordinating.start().wait(120)
    finally:
        coordinating.end()

    said = (farm.folder / "coordinator.log").read_text()
    assert 1 == code
    assert "not the cell's fault: pull failed" in said
    assert [] == farm.records()


def test_doctor_finds_gpus_and_rights(
    cluster: KubeCluster, farm: Farm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster.enter(monkeypatch, tmp_path, config=cluster.admin_config)
    pool = probe_pool("farm", load_pools(POOLS).pool("farm"), farm.folder)
    found = {item.name: (item.ok, item.found) for item in pool.inventory(None)}
    monkeypatch.setenv("KUBECONFIG", str(cluster.config))
    mine = {item.name: (item.ok, item.found) for item in pool.inventory(None)}

    assert (True, "8 NVIDIA-H200 (sm_90)") == found["gpus"]
    assert found["gpu NVIDIA-H200"][0]
    assert (None, "this account may not list nodes") == mine["gpus"]
    assert all(ok for name, (ok, _) in mine.items() if name.startswith("may "))

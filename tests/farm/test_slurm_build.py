"""Images that workers on a real Slurm assemble and push to a real registry, without an engine; a node is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from assembly_tools import CELL, AssemblyProject, simple_index
from registry_tools import real_registry
from slurm_cluster import PROGRAMS, SlurmCluster
from wheels import serving, wheel_bytes

from assay.adapters.registry.client import connect
from assay.evidence.reference import Repository

CELLS = 8
WHEELS = {
    "demo-1.0-py3-none-any.whl": wheel_bytes("demo", "1.0", {"demo/__init__.py": b"x = 1\n"}),
    "other-1.0-py3-none-any.whl": wheel_bytes("other", "1.0", {"other.py": b"y = 2\n"}),
}
pytestmark = [pytest.mark.farm, pytest.mark.timeout(300)]


def many_cells(project: AssemblyProject, registry: str, shared: Path) -> None:
    """Give the project more cells with the same wheels, and a pool."""
    values = ", ".join(map(str, range(1, CELLS + 1)))
    for path in (project.root / "matrix.yaml", project.root / "images" / "plain" / "image.yaml"):
        path.write_text(path.read_text().replace("[1]", f"[{values}]"))
    cells = project.root / "images" / "plain" / "cells"
    for number in range(2, CELLS + 1):
        other = CELL.replace("v1", f"v{number}")
        (cells / other).mkdir()
        (cells / other / "lock.txt").write_text((cells / CELL / "lock.txt").read_text().replace(CELL, other))
    pool = f"kind: slurm, partition: low, folder: {shared}, assay: {sys.executable}"
    (project.root / "pools.yaml").write_text(f"registry: {registry}/team/{{image}}\npools: {{hpc: {{{pool}}}}}\n")


def test_every_cell_is_assembled_on_a_node_when_one_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert missing == [], f"install slurmctld, slurmd, slurm-client and munge; missing: {missing}"
    shared = tmp_path / "shared"
    with (
        serving() as (server, index),
        real_registry(tmp_path / "registry") as registry,
        SlurmCluster(tmp_path / "slurm") as cluster,
    ):
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        server.files.update(simple_index(WHEELS))
        project = AssemblyProject(root=tmp_path / "project", index=f"{index}/simple", wheels=WHEELS)
        many_cells(project, registry, shared)
        shutil.copytree(project.layers, shared / "layers", symlinks=True)
        # Nothing of an engine is found: neither here nor on the nodes.
        environment = project.environment(DOCKER_HOST="unix:///nowhere.sock")
        del environment["ASSAY_LAYERS"]
        argv = [sys.executable, "-m", "assay", "build", "*", "--no-audit", "--on", "hpc"]
        began = time.monotonic()
        building = subprocess.Popen(
            argv, cwd=project.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        node = ""
        while not node and building.poll() is None:
            time.sleep(0.05)
            for row in cluster.command("squeue", "-h", "-t", "R", "-o", "%i %N %j").splitlines():
                job, where, name = row.split()
                # Stopped as it begins, so that it cannot be done before its node is lost.
                cluster.command("scancel", "--full", "--signal=STOP", job)
                run = shared / name.rpartition("-")[0]
                # The signal may come before the program or after its end.
                stopped = "T" in cluster.jobs_on(where).values()
                if stopped and not (run / "results" / f"{name}.json").exists():
                    node = where
                    break
        assert node, building.communicate()
        cluster.kill(node)
        print(f"{node} is lost with {cluster.end_jobs_on(node)} processes", flush=True)
        out, err = building.communicate(timeout=240)
        print(f"{time.monotonic() - began:.1f} s", out, err, flush=True)
        again = subprocess.run(argv, cwd=project.root, env=environment, text=True, capture_output=True, check=False)
        records = [json.loads(path.read_text()) for path in (project.root / "build_logs/records").glob("*.json")]
        built = {record["cell"]: record["image_digest"] for record in records if record["status"] == "built"}
        alone = project.digest(CELL)
        repository = Repository.parse(f"{registry}/team/plain")
        found = {cell: connect().resolve(repository, cell) for cell in built}

    assert 0 == building.returncode
    assert Counter({"built": CELLS}) == Counter(record["status"] for record in records)
    assert CELLS == len(built)
    assert "the cell moves" in err
    assert "this machine assembles it" not in err
    assert built == {cell: there and there.digest for cell, there in found.items()}
    assert alone["digest"] == built[CELL]
    assert (0, f"{CELLS} cached") == (again.returncode, again.stderr.splitlines()[-1])
    assert [] == list(shared.glob("build-*")), "jobs are left"

"""Probes in Apptainer's containers on a real Slurm, as an account without rights: images come by digest."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from farm_jobs import FACTS, Farm
from python_image import write_python_image
from registry_tools import real_registry
from slurm_cluster import PROGRAMS, SlurmCluster

from assay.adapters.pools.table import probe_pool
from assay.adapters.registry.client import connect
from assay.evidence.oci import MANIFEST, Manifest
from assay.evidence.record import ProbeRecord
from assay.evidence.reference import Repository
from assay.matrix.pools import load_pools
from assay.pipeline.probe_record import ProbeSubject
from assay.ports.jobs import Place
from assay.ports.pools import Loss, ProbePool

pytestmark = [pytest.mark.farm, pytest.mark.timeout(300)]
ACCOUNT = "daemon"
# The made-up facts say what the container is like.
SEEN = """
import os, socket

space = os.statvfs("/tmp")
facts["packages"] = {
    "of image": os.environ.get("FARM", "none"), "of node": os.environ.get("OF_NODE", "none"),
    "user": str(os.getuid()),
    "root": "writable" if os.access("/usr", os.W_OK) else "read-only",
    "network": ",".join(name for _, name in socket.if_nameindex()),
    "room": "enough" if space.f_blocks * space.f_frsize > 256 << 20 else "little",
    "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "none"),
}
"""


@dataclass
class Cluster:
    slurm: SlurmCluster
    pool: ProbePool
    registry: str
    place: Path


def pushed(archive: Path, repository: Repository) -> str:
    """Push an image, whose user, entrypoint and environment a container must heed or ignore; return its digest."""
    with tarfile.open(archive) as tar:
        read = {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]
    entry = json.loads(read["index.json"])["manifests"][0]
    manifest = json.loads(read["blobs/sha256/" + entry["digest"][7:]])
    config = json.loads(read["blobs/sha256/" + manifest["config"]["digest"][7:]])
    config["config"] |= {"User": "65532", "Entrypoint": ["/bin/false"]}
    config["config"]["Env"] += ["FARM=image"]
    registry = connect()
    raw = json.dumps(config).encode()
    manifest["config"] |= {"digest": registry.put_blob(repository, raw), "size": len(raw)}
    for layer in manifest["layers"]:
        registry.put_blob(repository, read["blobs/sha256/" + layer["digest"][7:]])
    made = Manifest.parse(json.dumps(manifest).encode(), MANIFEST)
    registry.put_manifest(repository, "1", made)
    return made.digest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = [name for name in (*PROGRAMS, "apptainer") if shutil.which(name) is None]
    assert missing == [], f"install slurmctld, slurmd, slurm-client, munge and apptainer; missing: {missing}"
    account = pwd.getpwnam(ACCOUNT)
    place = Path(tempfile.mkdtemp(prefix="assay-farm-"))
    place.chmod(0o755)
    before = os.umask(0)
    for name in ("home", "node"):
        (place / name).mkdir()
        os.chown(place / name, account.pw_uid, account.pw_gid)
    with pytest.MonkeyPatch.context() as patch, real_registry(place / "registry") as registry:
        patch.setenv("HOME", str(place / "home"))
        patch.setenv("APPTAINER_NOHTTPS", "true")
        patch.setenv("TMPDIR", str(place / "node"))
        patch.setenv("OF_NODE", "secret")
        patch.setenv("FARM", "node")
        fuse = Path("/dev/fuse")
        if not (fuse.exists() and fuse.stat().st_mode & 0o002):
            # Images cannot be mounted there, and are unpacked for each job.
            patch.setenv("APPTAINER_UNSQUASH", "true")
        with SlurmCluster(place / "slurm") as slurm:
            patch.setenv("SLURM_CONF", str(slurm.conf))
            options = f"[--uid={account.pw_uid}, --gid={account.pw_gid}]"
            settings = f"kind: slurm, partition: low, folder: {place}/shared, gpus: [h200], options: {options}"
            pools = load_pools(f"pools: {{farm: {{{settings}, runtime: apptainer}}}}\n")
            yield Cluster(slurm, probe_pool("farm", pools.pool("farm"), place), registry, place)
    os.umask(before)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def pinned(cluster: Cluster) -> Place:
    archive = write_python_image(cluster.place, "farm/stub:1", {})
    digest = pushed(archive, Repository.parse(f"{cluster.registry}/team/stub"))
    return Place(reference=f"{cluster.registry}/team/stub@{digest}", digest=digest)


def farm_of(tmp_path: Path, seconds: float) -> Farm:
    farm = Farm(tmp_path / "project", seconds=seconds)
    farm.suite["probelib/facts.py"] = FACTS.replace("with open", f"{SEEN}\nwith open").encode()
    return farm


def measured(farm: Farm) -> list[ProbeRecord]:
    return [item for item in farm.store.records(kind="probe") if isinstance(item, ProbeRecord)]


def left_over(cluster: Cluster) -> list[str]:
    """Return what is left of the jobs' scratch folders once no job runs."""
    deadline = time.monotonic() + 30
    while cluster.slurm.command("squeue", "-h", "-t", "R,CG") and time.monotonic() < deadline:
        time.sleep(0.2)
    return [path.name for path in (cluster.place / "node").iterdir()]


def test_an_image_by_digest_is_probed_with_its_own_environment_alone(
    cluster: Cluster, pinned: Place, tmp_path: Path
) -> None:
    farm = farm_of(tmp_path, 0.1)
    found = {item.name: item.ok for item in cluster.pool.inventory(cluster.registry)}
    for gpus in (("h200",), ()):
        plan = farm.plan([ProbeSubject(place=pinned, cell="stub", image="stub")], gpus=gpus)
        ends = list(farm.coordinator(cluster.pool, plan).run())
        assert [None] == [end.loss for end in ends], [end.words for end in ends]
    records = measured(farm)
    seen = [dict(item.packages) for item in records]

    assert found["node: runtime"]
    assert found["node: registry"]
    assert {"works"} == {result.outcome.value for item in records for result in item.features.values()}
    assert {pinned.digest} == {item.image_digest for item in records}
    assert {"", "0"} == {item.pop("visible") for item in seen}
    assert [{"of image": "image", "of node": "none", "root": "read-only", "network": "lo", "room": "enough",
             "user": str(pwd.getpwnam(ACCOUNT).pw_uid)}] * 2 == seen  # fmt: skip
    assert [] == left_over(cluster)


def test_an_image_that_is_not_there_is_no_failure_of_the_cell(cluster: Cluster, tmp_path: Path) -> None:
    farm = farm_of(tmp_path, 0.1)
    digest = f"sha256:{'0' * 64}"
    absent = Place(reference=f"{cluster.registry}/team/stub@{digest}", digest=digest)
    plan = farm.plan([ProbeSubject(place=absent, cell="absent", image="stub")])
    (end,) = farm.coordinator(cluster.pool, plan).run()

    assert Loss.NO_RESULT == end.loss
    assert end.said.endswith("manifest unknown")
    assert [] == measured(farm)
    assert [] == left_over(cluster)


def test_a_job_that_is_cancelled_is_run_again_and_leaves_nothing(
    cluster: Cluster, pinned: Place, tmp_path: Path
) -> None:
    farm = farm_of(tmp_path, 3.0)
    plan = farm.plan([ProbeSubject(place=pinned, cell="stub", image="stub")])
    result = cluster.place / "shared" / plan.run / "results" / f"{plan.jobs[0].job.name}.json"

    def cancel() -> None:
        deadline = time.monotonic() + 60
        while not result.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        cluster.slurm.command("scancel", f"--name={plan.jobs[0].job.name}")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    (end,) = farm.coordinator(cluster.pool, plan).run()
    canceller.join()

    assert end.loss is None
    assert 2 == end.attempts
    assert ["works"] == [*{result.outcome.value for item in measured(farm) for result in item.features.values()}]
    assert [] == left_over(cluster)

"""Probes in podman's containers on a real Slurm: images come by digest from a registry, GPUs are those of the job."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from farm_jobs import FACTS, Farm
from python_image import write_python_image
from registry_tools import real_registry
from slurm_cluster import PROGRAMS, SlurmCluster

from assay.adapters.pools.table import probe_pool
from assay.evidence.record import ProbeRecord
from assay.matrix.pools import load_pools
from assay.pipeline.probe_record import ProbeSubject
from assay.ports.jobs import Place

pytestmark = [pytest.mark.farm, pytest.mark.timeout(300)]

# The made-up facts say which devices and which variables the container has.
SEEN = """
import os

facts["packages"] = {"gpus": ",".join(sorted(name for name in os.listdir("/dev") if name.startswith("farmgpu"))),
                     "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "none")}
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that every account reaches, in which every account may write into new folders."""
    folder = Path(tempfile.mkdtemp(prefix="assay-farm-"))
    folder.chmod(0o755)
    before = os.umask(0)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


@contextmanager
def jobs_of(kind: str, place: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the options of a pool whose jobs run as root, or as an account with nothing but subordinate ids.

    Beside them: what comes before a command that is to run as they do.
    """
    if kind == "root":
        yield "[]", []
        return
    account = pwd.getpwnam(Path("/etc/subuid").read_text().partition(":")[0])
    home = place / "home"
    for folder in (home, home / "run"):
        folder.mkdir(mode=0o700)
        os.chown(folder, account.pw_uid, account.pw_gid)
    store = f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run/containers"\n'
    (place / "rootless.conf").write_text(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
        patch.setenv("CONTAINERS_STORAGE_CONF", str(place / "rootless.conf"))
        yield f"[--uid={account.pw_uid}, --gid={account.pw_gid}]", ["runuser", "-u", account.pw_name, "--"]


@pytest.fixture
def podman(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """podman with a store of its own, and two made-up GPUs that CDI names as NVIDIA's toolkit does."""
    assert shutil.which("podman") is not None, "install podman"
    named = Path("/var/run/cdi/assay-farm.json")
    named.parent.mkdir(exist_ok=True)
    # Nodes of their own, as NVIDIA's are: without root, podman mounts them by their path and heeds no `hostPath`.
    devices = {Path(f"/dev/farmgpu{number}"): number for number in range(2)}
    for device in devices:
        os.mknod(device, 0o666 | stat.S_IFCHR, Path("/dev/null").stat().st_rdev)
    gpus = [
        {"name": str(number), "containerEdits": {"deviceNodes": [{"path": str(device)}]}}
        for device, number in devices.items()
    ]
    named.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": gpus}))
    store = f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
    (place / "storage.conf").write_text(store)
    # podman asks for the highest limits that root may have; a root of a container may have less.
    settings = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
    (place / "containers.conf").write_text(settings)
    for name in ("STORAGE", "REGISTRIES"):
        monkeypatch.setenv(f"CONTAINERS_{name}_CONF", str(place / f"{name.lower()}.conf"))
    monkeypatch.setenv("CONTAINERS_CONF", str(place / "containers.conf"))
    yield
    named.unlink()
    for device in devices:
        device.unlink()
    subprocess.run(["podman", "system", "reset", "--force"], check=True, capture_output=True, timeout=60)


@pytest.fixture
def image(tmp_path: Path, place: Path, podman: None) -> Iterator[tuple[str, str]]:
    """Repository and digest of an image whose user is not root; podman's store does not have it yet."""
    archive = write_python_image(tmp_path, "farm/stub:1", {})
    with real_registry(tmp_path / "registry") as host:
        text = f'unqualified-search-registries = []\n[[registry]]\nlocation = "{host}"\ninsecure = true\n'
        (place / "registries.conf").write_text(text)
        named = f"{host}/team/stub"
        (tmp_path / "Containerfile").write_text("FROM docker.io/farm/stub:1\nUSER 65532\n")
        for argv in (
            ["load", "--input", str(archive)],
            ["build", "--network", "none", "--tag", f"{named}:1", str(tmp_path)],
            ["push", "--digestfile", str(tmp_path / "digest"), f"{named}:1"],
            ["rmi", "--all", "--force"],
        ):
            done = subprocess.run(["podman", *argv], capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
        yield named, (tmp_path / "digest").read_text()


@pytest.mark.parametrize("kind", ["root", "rootless"])
def test_probes_run_in_containers_of_an_image_by_digest_with_the_gpu_of_their_job(
    place: Path, image: tuple[str, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert missing == [], f"install slurmctld, slurmd, slurm-client and munge; missing: {missing}"
    named, digest = image
    farm = Farm(place / "project", seconds=0.1)
    farm.suite["probelib/facts.py"] = (FACTS.replace("with open", f"{SEEN}\nwith open")).encode()
    pinned = Place(reference=f"{named}@{digest}", digest=digest)
    subjects = [ProbeSubject(place=pinned, cell="stub", image="stub")]
    with SlurmCluster(place / "slurm") as cluster, jobs_of(kind, place) as (options, as_they_do):
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        settings = f"kind: slurm, partition: low, folder: {place}/shared, gpus: [h200], options: {options}"
        pool_of = load_pools(f"pools: {{farm: {{{settings}}}}}\n").pool("farm")
        found = {item.name: item.ok for item in probe_pool("farm", pool_of, place).inventory(named.split("/")[0])}
        for gpus in (("h200",), ()):
            plan = farm.plan(subjects, gpus=gpus)
            ends = list(farm.coordinator(probe_pool("farm", pool_of, place), plan).run())
            said = [path.read_text() for path in sorted((place / "shared").glob("*/logs/*"))]
            assert [None] == [end.loss for end in ends], [*(end.words for end in ends), *said]
        deadline = time.monotonic() + 30
        while cluster.command("squeue", "-h", "-t", "R,CG") and time.monotonic() < deadline:
            time.sleep(0.2)
        argv = [*as_they_do, "podman", "ps", "--all"]
        left = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=True).stdout
    records = [item for item in farm.store.records(kind="probe") if isinstance(item, ProbeRecord)]

    assert all(found[name] for name in ("node: runtime", "node: registry", "gpu h200")), found
    assert 2 == len(records)
    assert {"works"} == {result.outcome.value for item in records for result in item.features.values()}
    assert {digest} == {item.image_digest for item in records}
    assert {("farmgpu0", "none"), ("", "none")} == {
        (item.packages["gpus"], item.packages["visible"]) for item in records
    }
    assert 1 == len(left.splitlines()), left

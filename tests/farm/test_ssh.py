"""Probes on two Docker contexts over a real sshd, of which one drops in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from farm_coordinating import Coordinating, Teller
from farm_engines import NODES, NodeEngines
from farm_jobs import Farm
from python_image import write_python_image

from assay.adapters.pools.table import probe_pool
from assay.matrix.pools import load_pools

JOBS = int(os.environ.get("ASSAY_FARM_CONTAINERS", "12"))
STUB = "assay/farm-ssh-stub:1"
pytestmark = [pytest.mark.farm, pytest.mark.timeout(600)]
POOLS = """
pools:
  farm: {kind: ssh, hosts: [{context: farm-a, count: 2}, {context: farm-b, count: 2}], patience: 60}
"""


@dataclass
class Hosts:
    """Two SSH daemons, each with an engine of its own behind it."""

    root: Path
    daemons: dict[str, subprocess.Popen[bytes]]

    def drop(self, name: str) -> None:
        """End a daemon with all its connections: the host is gone, its containers go on."""
        os.killpg(self.daemons[name].pid, signal.SIGKILL)
        self.daemons.pop(name).wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeEngines]:
    archive = write_python_image(tmp_path_factory.mktemp("image"), STUB, {})
    # Sockets lie below it, whose paths have at most 108 characters.
    root = Path(tempfile.mkdtemp(prefix="farm-ssh-", dir="/var/tmp"))
    with NodeEngines(root, (archive,)) as made:
        yield made
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def hosts(engines: NodeEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert sshd is not None, "install openssh-server"
    Path("/run/sshd").mkdir(exist_ok=True)
    # Both the docker program and ssh read their settings from the home of this test.
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for name in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / ".ssh" / name)]
        subprocess.run(argv, check=True, timeout=60)
    daemons: dict[str, subprocess.Popen[bytes]] = {}
    stanzas = []
    for name, node in zip(("farm-a", "farm-b"), NODES, strict=True):
        port = _free_port()
        options = (
            f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={home}/.ssh/host", "StrictModes=no",
            f"AuthorizedKeysFile={home}/.ssh/user.pub", "PermitRootLogin=yes", f"PidFile={tmp_path}/{name}.pid",
            "MaxStartups=100", "PasswordAuthentication=no", f"SetEnv=DOCKER_HOST={engines.host(node)}",
        )  # fmt: skip
        argv = [sshd, "-D", "-e", "-f", "/dev/null", *(word for option in options for word in ("-o", option))]
        with (tmp_path / f"{name}.log").open("wb") as log:
            daemons[name] = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        stanzas.append(f"Host {name}\n HostName 127.0.0.1\n Port {port}\n User root\n")
    stanzas.append(f"Host *\n IdentityFile {home}/.ssh/user\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n"
                   " LogLevel ERROR\n")  # fmt: skip
    (home / ".ssh" / "config").write_text("".join(stanzas))
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.parent.mkdir()
    # ssh takes its home from the password file, not from HOME.
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {home}/.ssh/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    for name in daemons:
        argv = ["docker", "context", "create", name, "--docker", f"host=ssh://{name}"]
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
    made = Hosts(tmp_path, daemons)
    yield made
    for name in list(made.daemons):
        made.drop(name)


def test_every_job_is_recorded_once_when_a_host_drops(engines: NodeEngines, hosts: Hosts, tmp_path: Path) -> None:
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


def test_doctor_names_the_host_that_does_not_answer(hosts: Hosts, tmp_path: Path) -> None:
    hosts.drop("farm-b")
    pool = probe_pool("farm", load_pools(POOLS).pool("farm"), tmp_path)
    found = {item.name: item.ok for item in pool.inventory("registry.invalid")}

    assert Counter({"farm-a": True, "farm-b": False, "farm-a: registry": False}) == Counter(found)

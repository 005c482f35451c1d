"""What only a real engine can show: registries, processes that die, GPUs nobody has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from registry_tools import real_registry
from tiny_image import TINY, write_tiny

from assay.adapters.docker.engine import DockerEngine
from assay.errors import EngineError, EngineMissing, RegistryError
from assay.ports.engine import Bind, ContainerSpec, run

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DockerEngine:
    engine = DockerEngine()
    if engine.image(TINY) is None:
        engine.load(write_tiny(tmp_path_factory.mktemp("tiny")))
    return engine


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    run_name = f"docker-{uuid4().hex[:8]}"
    yield run_name
    assert [] == list(engine.sweep(run_name))


def spec(run_name: str, script: str, **options: object) -> ContainerSpec:
    return ContainerSpec(**{"image": TINY, "run": run_name, "command": ("/bin/sh", "-c", script), **options})  # type: ignore[arg-type]


@pytest.mark.registry
def test_push_returns_the_digest_in_the_registry(engine: DockerEngine, tmp_path: Path, name: str) -> None:
    said: list[str] = []
    with real_registry(tmp_path / "registry") as host:
        reference = f"{host}/assay/{name}:1"
        engine.tag(TINY, reference)
        digest = engine.push(reference, progress=said.append)
        accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        request = urllib.request.Request(
            f"http://{host}/v2/assay/{name}/manifests/1", method="HEAD", headers={"Accept": accept}
        )
        with urllib.request.urlopen(request) as answer:
            there = answer.headers["Docker-Content-Digest"]
        engine.remove_image(reference)
        pulled = engine.pull(f"{host}/assay/{name}@{digest}")
        engine.remove_image(f"{host}/assay/{name}@{digest}")
        with pytest.raises(RegistryError, match=name):
            engine.pull(f"{host}/assay/{name}:none")

    assert digest == there
    assert any(digest in one for one in pulled.repo_digests)
    assert said


@pytest.mark.registry
def test_a_registry_that_wants_a_login_is_named(engine: DockerEngine, tmp_path: Path, name: str) -> None:
    htpasswd = "user:$2y$05$YQ4RyH8BaPNYM7ctAqYvZeVBTNYxhVmTmo7FkzBVMnbWiVVlnGLP6\n"
    with real_registry(tmp_path / "registry", htpasswd=htpasswd) as host:
        reference = f"{host}/assay/{name}:1"
        engine.tag(TINY, reference)
        try:
            with pytest.raises(RegistryError) as raised:
                engine.push(reference)
        finally:
            engine.remove_image(reference)

    assert raised.value.hint is not None
    assert "docker login" in raised.value.hint


def test_sweep_removes_only_objects_of_killed_processes(engine: DockerEngine, name: str) -> None:
    program = textwrap.dedent(f"""
        import time
        from assay.adapters.docker.engine import DockerEngine
        from assay.ports.engine import ContainerSpec
        spec = ContainerSpec(image="{TINY}", run="{name}", command=("sleep", "600"), workspace="/assay/work")
        with DockerEngine().container(spec) as container:
            container.start()
            print("started", flush=True)
            time.sleep(600)
    """)
    with engine.container(spec(f"{name}-mine", "sleep 600")) as mine:
        mine.start()
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "started\n" == process.stdout.readline()
            before = [one for one in engine.sweep() if name in one]
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        after = [one for one in engine.sweep() if name in one]

        assert [] == before
        assert 2 == len(after), "the container and its volume"
        assert mine.running()


def test_engine_limits_the_container(engine: DockerEngine, name: str) -> None:
    result = run(
        engine,
        spec(
            name,
            "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/mounts | grep -E ' / | /scratch '; "
            "cat /proc/net/dev | grep -c eth0; touch /x; touch /scratch/y && echo wrote",
            read_only=True,
            tmpfs={"/scratch": 1 << 20},
        ),
        timeout=30,
    )
    said = result.logs.stdout.decode()

    assert "CapEff:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    assert "Seccomp:\t2" in said
    assert " / overlay ro," in said
    assert "size=1024k" in said
    assert "\n0\n" in said, "a container without a network has no eth0"
    assert "wrote" in said
    assert b"Read-only file system" in result.logs.stderr


def test_processes_are_limited(engine: DockerEngine, name: str) -> None:
    result = run(engine, spec(name, "for i in 1 2 3 4 5 6; do sleep 5 & done; echo done", pids=4), timeout=30)

    assert b"done" not in result.logs.stdout
    assert b"fork" in result.logs.stderr.lower()


def test_binds_can_be_read_and_not_written(engine: DockerEngine, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("from the host\n")
    bind = Bind(source=str(tmp_path), target="/models")
    result = run(engine, spec(name, "cat /models/x; touch /models/y", binds=(bind,)), timeout=30)

    assert b"from the host\n" == result.logs.stdout
    assert not (tmp_path / "y").exists()
    assert not result.exit.ok


def test_a_published_port_is_on_the_loopback_interface(engine: DockerEngine, name: str) -> None:
    with engine.container(spec(name, "sleep 60", network="bridge", ports=(8000,))) as container:
        with pytest.raises(EngineError, match="8000"):
            container.host_port(8000)
        container.start()

        assert 1024 < container.host_port(8000) < 65536


def test_ctrl_c_removes_the_container(engine: DockerEngine, name: str) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(1.0, os.kill, args=(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run(engine, spec(name, "sleep 60"), timeout=60)

    assert [] == list(engine.sweep(name))


def test_an_engine_that_goes_away_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket that closes every connection: what a daemon that dies looks like."""
    import socket

    path = tmp_path / "docker.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    ends = threading.Event()

    def close_all() -> None:
        while not ends.is_set():
            connection, _ = server.accept()
            connection.close()

    thread = threading.Thread(target=close_all, daemon=True)
    thread.start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with pytest.raises(EngineMissing, match="container engine"):
        DockerEngine().info()
    ends.set()
    with socket.socket(socket.AF_UNIX) as last:
        last.connect(str(path))
    thread.join(5)
    server.close()


# What `ssh -L here:there` does, on one machine; knows no host but `far`.
SSH = """#!{python}
import socket, sys, threading
if "far" not in sys.argv:
    sys.exit("Permission denied (publickey).")
here, there = sys.argv[sys.argv.index("-L") + 1].split(":")
server = socket.socket(socket.AF_UNIX)
server.bind(here)
server.listen()

def relay(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

while True:
    near, _ = server.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(there)
    for pair in ((near, far), (far, near)):
        threading.Thread(target=relay, args=pair, daemon=True).start()
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("ssh")
def test_an_engine_over_ssh_takes_files_time_limits_and_gives_results(
    engine: DockerEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.image(TINY) is not None
    monkeypatch.setenv("DOCKER_HOST", "ssh://far")
    remote = DockerEngine()
    copied = run(
        remote,
        spec(name, "cat /assay/work/in > /assay/work/out", workspace="/assay/work"),
        timeout=30,
        files={"in": b"there and back"},
        collect=["out"],
    )
    stopped = run(remote, spec(name, "sleep 60"), timeout=1)

    assert not remote.info().local
    assert {"out": b"there and back"} == copied.files
    assert stopped.exit.timed_out


@pytest.mark.usefixtures("ssh")
def test_an_engine_over_ssh_that_cannot_be_reached_says_what_ssh_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://nobody@elsewhere:2222")

    with pytest.raises(EngineMissing, match=r"Permission denied \(publickey\)") as raised:
        DockerEngine().info()

    assert "ssh nobody@elsewhere:2222" in str(raised.value.hint)

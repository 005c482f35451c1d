"""What a server's container is given: network, port, folders."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.docker.fake_engine import FakeEngine, FakeImage, Process
from assay.adapters.docker.read import read_info
from assay.adapters.executors.docker import DockerTaskHost
from assay.cli.serving import ServingOptions, mount, mounts_of, named_model
from assay.errors import EngineError, UsageError
from assay.pipeline.serve import container_job
from assay.ports.engine import Bind, ContainerSpec, EngineInfo
from assay.ports.server import ServerJob, running_server

INFO = FakeEngine().info()
SERVER = {"argv": ("serve", "--host", "{host}", "--port", "{port}"), "limits": {"shm_bytes": 1 << 30}}


def serve(process: Process) -> int:
    process.sleep(60)
    return 0


def started(engine_says: dict[str, Any] | None = None, **options: Any) -> tuple[ContainerSpec, str]:
    """Start a server in a fake engine; return what its container was given, and where the server is reached."""
    engine = FakeEngine({"image:1": FakeImage(programs={"serve": serve})}, info=replace(INFO, **(engine_says or {})))
    place = container_job("image:1", run="r", gpus=(), **options)
    job = ServerJob.model_validate({**place.model_dump(), **SERVER})
    with running_server(DockerTaskHost(engine), job) as server:
        base = server.base
    assert [] == engine.containers
    (spec,) = engine.specs
    return spec, base


def test_with_a_bridge_the_port_is_published() -> None:
    spec, base = started()

    assert ("bridge", [8000], None) == (spec.network, spec.ports, spec.publish_at)
    assert ["serve", "--host", "0.0.0.0", "--port", "8000"] == spec.command
    assert base.startswith("http://127.0.0.1:")


def test_an_engine_without_a_bridge_shares_the_network_of_the_host() -> None:
    spec, base = started({"bridge": False})

    port = spec.command[-1]
    assert ("host", ()) == (spec.network, spec.ports)
    assert ["serve", "--host", "127.0.0.1", "--port", port] == spec.command
    assert f"http://127.0.0.1:{port}" == base


def test_a_bridge_that_is_missing_is_reported() -> None:
    with pytest.raises(EngineError, match="no bridge network") as caught:
        started({"bridge": False}, network="bridge")

    assert "--network host" == caught.value.hint


def test_an_engine_on_another_machine_is_reported() -> None:
    with pytest.raises(EngineError, match="another machine"):
        started({"local": False})


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_port_that_is_taken_is_reported(network: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        with pytest.raises(EngineError, match="is in use"):
            started(network=network, port=taken.getsockname()[1])


def test_a_port_that_was_asked_for_is_published() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    spec, _ = started(port=port)

    assert port == spec.publish_at


def test_folders_places_to_write_and_limits(tmp_path: Path) -> None:
    more = Bind(source="/opt", target="/opt")
    spec, _ = started({"init": True}, cache=tmp_path / "cache", model=tmp_path / "model", mounts=[more])

    assert [
        more,
        Bind(source=str(tmp_path / "cache"), target="/assay-cache/huggingface", read_only=False),
        Bind(source=str(tmp_path / "model"), target=str(tmp_path / "model")),
    ] == spec.binds
    assert ("/assay/work", "/assay/work") == (spec.workspace, spec.env["HOME"])
    assert "/assay-cache/huggingface" == spec.env["HF_HOME"]
    assert (1 << 30, True) == (spec.shm_bytes, spec.init)


def test_a_model_that_is_mounted_by_hand_too_is_mounted_once(tmp_path: Path) -> None:
    """An engine refuses a container with "Duplicate mount point"."""
    model = tmp_path / "model"
    by_hand = Bind(source=str(model), target=str(model), read_only=False)
    spec, _ = started({"init": True}, model=model, mounts=[by_hand])

    assert [by_hand] == spec.binds


def test_two_folders_at_one_place_are_refused(tmp_path: Path) -> None:
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        Path(folder).mkdir()

    assert [mount(one)] == mounts_of([one, one])
    with pytest.raises(UsageError, match="is already mounted at /in"):
        mounts_of([f"{one}:/in", f"{two}:/in"])


def test_mounts_on_the_command_line(tmp_path: Path) -> None:
    here = str(tmp_path)

    assert Bind(source=here, target=here) == mount(here)
    assert Bind(source=here, target=here, read_only=False) == mount(f"{here}:rw")
    assert Bind(source=here, target="/in") == mount(f"{here}:/in")
    assert Bind(source=here, target="/in", read_only=False) == mount(f"{here}:/in:rw")


def test_a_link_is_mounted_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "cuda-13").mkdir()
    (tmp_path / "cuda").symlink_to("cuda-13")

    assert Bind(source=str(tmp_path / "cuda-13"), target=str(tmp_path / "cuda")) == mount(str(tmp_path / "cuda"))


def test_a_model_folder_is_named_by_the_path_that_the_container_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)

    assert str(tmp_path / "tiny") == named_model(options("tiny"))
    assert str(tmp_path / "tiny") == named_model(options("./tiny"))
    assert "Qwen/Qwen2.5-3B-Instruct" == named_model(options("Qwen/Qwen2.5-3B-Instruct"))
    with pytest.raises(UsageError, match=r"the model folder \./small is not there"):
        named_model(options("./small"))


def options(model: str) -> ServingOptions:
    return ServingOptions(
        engine="vllm", model=model, sets=(), envs=(), program=None, python=None, gpus="none", network="auto", port=None,
        cache=None, mounts=(), start_timeout=1.0, request_timeout=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["{}:in", "{}:/in:/more", "{}/not-there"])
def test_mounts_that_cannot_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--mount"):
        mount(text.format(tmp_path))


def info_of(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], **more: Any) -> EngineInfo:
    monkeypatch.setattr("assay.adapters.docker.read._buildx", lambda: None)
    return read_info({"ServerVersion": "26.1.5", **said}, {}, local=True, **more)


@pytest.mark.parametrize(("commit", "there"), [({"ID": ""}, True), ({"ID": "de40ad0"}, True), ({"ID": "N/A"}, False)])
def test_an_init_that_the_engine_has(monkeypatch: pytest.MonkeyPatch, commit: dict[str, str], there: bool) -> None:
    assert there is info_of(monkeypatch, {"InitCommit": commit}).init


def test_podman_in_the_place_of_docker_is_known_by_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.docker.read._buildx", lambda: None)
    # As podman 4.3.1 answers on its socket.
    said = {"ServerVersion": "4.3.1", "InitCommit": {"ID": "", "Expected": ""}}
    version = {"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}]}
    found = read_info(said, version, local=True)

    assert (True, False) == (found.podman, found.init)
    assert not info_of(monkeypatch, {}).podman


def test_unreported_engine_feature_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not info_of(monkeypatch, {}).init
    assert info_of(monkeypatch, {}, networks=["bridge", "host"]).bridge
    assert not info_of(monkeypatch, {}, networks=["host", "none"]).bridge

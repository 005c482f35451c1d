"""What `assay doctor` makes of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from assay.adapters.docker.fake_engine import FakeEngine
from assay.adapters.host.info import LocalHost, read_gpus
from assay.errors import PackageIndexError, RegistryError
from assay.matrix.model import Target
from assay.pipeline.doctor import Check, CheckState, DoctorFlow, Needs, exit_code
from assay.ports.engine import EngineInfo
from assay.ports.host import Credential, HostGpu
from assay.ports.index import IndexFile

CARD = HostGpu(name="NVIDIA GeForce RTX 5090", capability="12.0", memory_bytes=32 << 30, driver="575.57.08")
BLACKWELL = Target.model_validate(
    {
        "name": "GeForce RTX 5090",
        "compute_capability": "12.0",
        "memory_gib": 32,
        "shared_memory_per_block": 101376,
        "cuda": ">=12.8",
        "driver": ">=570",
        "arch_list": "12.0+PTX",
    }
)


@dataclass
class Host:
    """A machine made of values."""

    cards: Sequence[HostGpu] = ()
    devices: Sequence[str] = ()
    ctk: str | None = None
    free: int | None = 500 * 10**9
    uv_version: str | None = "uv 0.9.0"
    missing: Sequence[str] = ()
    known: Sequence[Credential] = ()
    unreadable: bool = False

    def kernel(self) -> str:
        return "Linux 6.1"

    def gpus(self) -> Sequence[HostGpu]:
        return self.cards

    def gpu_devices(self) -> Sequence[str]:
        return self.devices

    def toolkit(self) -> str | None:
        return self.ctk

    def free_bytes(self, folder: str) -> int | None:
        return self.free

    def uv(self) -> str | None:
        return self.uv_version

    def bootstrap_missing(self) -> Sequence[str]:
        return self.missing

    def credentials(self) -> Sequence[Credential]:
        if self.unreadable:
            raise RegistryError("config.json cannot be read")
        return self.known


class Index:
    """An index that knows one project, or cannot be reached."""

    def __init__(self, *dead: str) -> None:
        self.dead = dead

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        if index in self.dead:
            raise PackageIndexError(f"{index} cannot be reached")
        return (IndexFile(project=project, filename=f"{project}-1.whl", url="https://x.invalid/1.whl"),)

    def origins(self, index: str | None = None) -> frozenset[str]:
        return frozenset({"https://x.invalid"})


def digests(image: str) -> str:
    """Docker Hub has everything, a registry called dead does not answer."""
    if image.startswith("dead"):
        raise RegistryError("dead.example: no route to host")
    return "sha256:" + "a" * 64


INFO = FakeEngine().info()
NEEDS = Needs(
    disk_bytes=30 * 10**9,
    indexes={"pypi": "packaging", "nightly": "torch"},
    registries={"docker.io": "docker.io/nvidia/cuda:13.0"},
    targets={"sm_120": BLACKWELL},
)


def look(
    *,
    info: EngineInfo = INFO,
    alive: bool = True,
    host: Host | None = None,
    index: Index | None = None,
    needs: Needs = NEEDS,
) -> dict[str, Check]:
    flow = DoctorFlow(FakeEngine(info=info, alive=alive), host or Host(), index or Index(), digests)
    checks = flow.run(needs)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def code(checks: dict[str, Check]) -> int:
    return exit_code(tuple(checks.values()))


def test_a_machine_that_has_all_is_fine_without_a_gpu() -> None:
    checks = look()

    assert 0 == code(checks)
    assert {CheckState.OK, CheckState.ABSENT} == {check.state for check in checks.values()}
    assert CheckState.ABSENT is checks["gpu"].state


def test_no_engine_is_4_and_names_the_command() -> None:
    checks = look(alive=False)

    assert 4 == code(checks)
    assert "./quickstart engine" == checks["engine"].mend
    assert "buildx" not in checks


@pytest.mark.parametrize(
    ("change", "name", "state", "exit_"),
    [
        ({"version": "20.10.24+dfsg1"}, "engine", CheckState.FAIL, 4),
        ({"buildx": None}, "buildx", CheckState.FAIL, 4),
        ({"image_store": "graphdriver", "storage_driver": "overlay2"}, "image store", CheckState.WARN, 0),
        ({"warnings": ("WARNING: No swap limit support",)}, "engine says", CheckState.WARN, 0),
        ({"version": "4.3.1", "podman": True, "buildx": None}, "engine", CheckState.WARN, 0),
    ],
)
def test_an_engine_that_lacks_something(change: dict[str, object], name: str, state: CheckState, exit_: int) -> None:
    checks = look(info=replace(INFO, **change))  # type: ignore[arg-type]

    assert state is checks[name].state
    assert exit_ == code(checks)


@pytest.mark.parametrize(
    ("host", "gpu", "needed", "states", "exit_"),
    [
        (Host(), None, True, (CheckState.FAIL, CheckState.FAIL), 4),
        (Host(cards=[CARD]), None, False, (CheckState.OK, CheckState.WARN), 0),
        (Host(cards=[CARD], ctk="1.17"), None, True, (CheckState.OK, CheckState.FAIL), 4),
        (Host(cards=[CARD]), "runtime", True, (CheckState.OK, CheckState.OK), 0),
        (Host(cards=[CARD]), "cdi", True, (CheckState.OK, CheckState.OK), 0),
        (Host(devices=["/dev/nvidia0"]), "cdi", True, (CheckState.WARN, CheckState.OK), 0),
        (Host(cards=[replace(CARD, driver="565.10")]), "cdi", True, (CheckState.FAIL, CheckState.OK), 4),
        (Host(cards=[replace(CARD, driver="565.10")]), "cdi", False, (CheckState.WARN, CheckState.OK), 0),
    ],
)
def test_gpus(host: Host, gpu: str | None, needed: bool, states: tuple[CheckState, CheckState], exit_: int) -> None:
    checks = look(info=replace(INFO, gpu=gpu), host=host, needs=replace(NEEDS, gpu=needed))  # type: ignore[arg-type]

    assert states == (checks["gpu"].state, checks["gpu in containers"].state)
    assert exit_ == code(checks)


@pytest.mark.parametrize(
    ("host", "name", "state", "exit_"),
    [
        (Host(free=10 * 10**9), "disk", CheckState.WARN, 0),
        (Host(free=None), "disk", CheckState.WARN, 0),
        (Host(uv_version=None), "uv", CheckState.FAIL, 1),
        (Host(missing=["debootstrap"]), "debootstrap", CheckState.WARN, 0),
        (Host(unreadable=True), "credentials", CheckState.WARN, 0),
        (Host(known=[Credential(registry="ghcr.io", source="config.json")]), "credentials ghcr.io", CheckState.OK, 0),
        (
            Host(known=[Credential(registry="ghcr.io", source="docker-credential-pass", problem="not on PATH")]),
            "credentials ghcr.io",
            CheckState.WARN,
            0,
        ),
    ],
)
def test_doctor_reports_other_missing_parts(host: Host, name: str, state: CheckState, exit_: int) -> None:
    checks = look(host=host)

    assert state is checks[name].state
    assert exit_ == code(checks)
    assert (state is CheckState.OK) == (not checks[name].mend) or name == "disk"


@pytest.mark.parametrize(("dead", "exit_"), [("pypi", 1), ("nightly", 0)])
def test_only_the_default_index_is_needed_for_everything(dead: str, exit_: int) -> None:
    checks = look(index=Index(dead))

    assert "cannot be reached" in checks[f"index {dead}"].found
    assert exit_ == code(checks)


def test_a_registry_that_does_not_answer_is_missed_by_its_own_cells() -> None:
    checks = look(needs=replace(NEEDS, registries={"docker.io": "nvidia/cuda", "dead.example": "dead.example/x"}))

    assert 0 == code(checks)
    assert CheckState.OK is checks["registry docker.io"].state
    assert CheckState.WARN is checks["registry dead.example"].state
    assert "ASSAY_REGISTRY_MIRRORS" in checks["registry dead.example"].mend


def test_two_cards_of_one_kind_are_two_checks() -> None:
    flow = DoctorFlow(FakeEngine(), Host(cards=[CARD, CARD]), Index(), digests)

    assert 2 == sum(check.name == "gpu" for check in flow.run(NEEDS))


def test_nvidia_smi_is_read() -> None:
    text = "NVIDIA H200, 9.0, 143771, 580.82.07\nOld card, [N/A], [N/A], 390.1\n\n"

    assert [
        HostGpu(name="NVIDIA H200", capability="9.0", memory_bytes=143771 << 20, driver="580.82.07"),
        HostGpu(name="Old card", capability="", memory_bytes=0, driver="390.1"),
    ] == list(read_gpus(text))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, []),
        ('{"auths": {"ghcr.io": {"auth": "eDp5"}}}', [("ghcr.io", "config.json (not encrypted)", "")]),
        ('{"auths": {"ghcr.io": {}}}', [("ghcr.io", "config.json", "the entry is empty")]),
        ('{"credHelpers": {"ghcr.io": "nope-x"}}', [("ghcr.io", "docker-credential-nope-x", "not on PATH")]),
        ('{"auths": {"a.io": {}}, "credsStore": "nope-x"}', [("a.io", "docker-credential-nope-x", "not on PATH")]),
        ('{"credsStore": "nope-x"}', [("(any)", "docker-credential-nope-x", "not on PATH")]),
    ],
)
def test_credentials_are_named_never_shown(
    config: str | None, expected: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = LocalHost(docker_config=tmp_path).credentials()

    assert expected == [(one.registry, one.source, one.problem) for one in found]
    assert "eDp5" not in repr(found)


def test_a_broken_docker_configuration_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(RegistryError, match="cannot be read"):
        LocalHost(docker_config=tmp_path).credentials()

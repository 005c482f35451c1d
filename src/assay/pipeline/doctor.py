"""Check a machine for what builds, probes and publishing require, and suggest fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from assay.errors import AssayError, EngineError
from assay.evidence.reference import Reference
from assay.foundation.strict import Value
from assay.foundation.versions import fits
from assay.matrix.lock import Lock
from assay.matrix.model import BootstrapBase, Matrix, RegistryBase, Target
from assay.pipeline.disk import build_bytes, likely_assembled
from assay.ports.engine import Engine, EngineInfo
from assay.ports.host import Host
from assay.ports.index import PackageIndex

__all__ = ["Check", "CheckState", "DoctorFlow", "Needs", "exit_code", "needs_of"]

LEAST_ENGINE: Final = 23
"""Older engines have no `COPY --link` and no heredocs (20.10 was tried)."""


_ASKED_OF: Final = {True: "torch", False: "packaging"}
"""A nightly index or not -> a project that such an index has."""


class CheckState(StrEnum):
    """The state of a check."""

    OK = "ok"
    WARN = "warn"
    """Works, but not as well as it could, or will be missed later."""
    FAIL = "fail"
    """Something this project does will fail."""
    ABSENT = "absent"
    """Not there, and not needed for what was asked."""


class Check(Value):
    """One thing that was looked at."""

    name: str
    state: CheckState
    found: str
    mend: str = ""
    """The command or step that fixes it; empty if nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the machine must be able to do."""

    disk_bytes: int = 0
    """Free space that it takes, for what `disk_for` names."""
    disk_for: str = "the starter group"
    gpu: bool = False
    bootstrap: bool = True
    """Some base is made from packages."""
    registries: Mapping[str, str] = field(default_factory=dict)
    """Registry -> an image of it that cells are built on."""
    indexes: Mapping[str, str] = field(default_factory=dict)
    """Index -> a project it must know."""
    targets: Mapping[str, Target] = field(default_factory=dict)


def needs_of(matrix: Matrix | None, locks: Sequence[Lock] = (), *, gpu: bool) -> Needs:
    """Return what a project needs of a machine.

    Args:
        matrix: of the project; None: what any project would need.
        locks: of the starter group.
        gpu: a GPU is wanted.
    """
    if matrix is None:
        return Needs(gpu=gpu, indexes={"pypi": _ASKED_OF[False]})
    return Needs(
        disk_bytes=build_bytes(locks, assembled=likely_assembled(matrix)),
        gpu=gpu,
        bootstrap=any(isinstance(base, BootstrapBase) for base in matrix.bases.values()),
        registries={
            Reference.parse(base.image).repository.host: base.image
            for base in matrix.bases.values()
            if isinstance(base, RegistryBase)
        },
        indexes={name: _ASKED_OF[index.nightly] for name, index in matrix.indexes.items()},
        targets=matrix.targets,
    )


class DoctorFlow:
    """Run all checks; a check that cannot be made reports that itself.

    Args:
        engine, host, index: the world.
        digests: image reference -> digest, or RegistryError.
    """

    def __init__(self, engine: Engine, host: Host, index: PackageIndex, digests: Callable[[str], str]) -> None:
        self._engine = engine
        self._digests = digests
        self._host = host
        self._index = index

    def run(self, needs: Needs) -> tuple[Check, ...]:
        """Return all checks, in the order in which a person would fix them."""
        return tuple(self._checks(needs))

    def for_serving(self, needs: Needs) -> tuple[Check, ...]:
        """Return the checks of what a server needs of this machine: engine, GPU, GPU in containers, disk."""
        info: EngineInfo | None = None
        checks: list[Check] = []
        try:
            info = self._engine.info()
        except EngineError as error:
            checks.append(Check(name="engine", state=CheckState.FAIL, found=error.message, mend="./quickstart engine"))
        if info is not None:
            # Building alone needs buildx, and says so itself.
            checks += (check for check in _engine(info) if check.name == "engine")
        gpu = self._gpu(info, needs) if needs.gpu else ()
        return (*checks, *gpu, self._disk(info, needs))

    def _checks(self, needs: Needs) -> Iterator[Check]:
        info: EngineInfo | None = None
        try:
            info = self._engine.info()
        except EngineError as error:
            yield Check(name="engine", state=CheckState.FAIL, found=error.message, mend="./quickstart engine")
        if info is not None:
            yield from _engine(info)
        yield from self._gpu(info, needs)
        yield self._disk(info, needs)
        uv = self._host.uv()
        if uv:
            yield Check(name="uv", state=CheckState.OK, found=uv)
        else:
            yield Check(name="uv", state=CheckState.FAIL, found="not found", mend="pip install uv")
        yield self._bootstrap(needs)
        yield from self._indexes(needs)
        yield from self._registries(needs)
        yield from self._credentials()
        yield Check(name="kernel", state=CheckState.OK, found=self._host.kernel())

    def _gpu(self, info: EngineInfo | None, needs: Needs) -> Iterator[Check]:
        gpus, devices = self._host.gpus(), self._host.gpu_devices()
        if gpus:
            yield from (_card(gpu.name, gpu.capability, gpu.memory_bytes, gpu.driver, needs) for gpu in gpus)
        elif devices:
            yield Check(
                name="gpu",
                state=CheckState.WARN,
                found=f"{', '.join(devices)}, but nvidia-smi shows nothing",
                mend="run nvidia-smi to see its error, or install the driver's own nvidia-smi",
            )
        else:
            yield Check(
                name="gpu",
                state=CheckState.FAIL if needs.gpu else CheckState.ABSENT,
                found="no NVIDIA GPU, or no driver",
                mend="install NVIDIA's driver; builds and audits need neither" if needs.gpu else "",
            )
        if info is None:
            return
        toolkit = self._host.toolkit()
        version = f", toolkit {toolkit}" if toolkit else ""
        if info.gpu is not None:
            how = "NVIDIA's runtime" if info.gpu == "runtime" else "CDI"
            yield Check(name="gpu in containers", state=CheckState.OK, found=f"through {how}{version}")
        elif gpus or devices or needs.gpu:
            yield Check(
                name="gpu in containers",
                state=CheckState.FAIL if needs.gpu else CheckState.WARN,
                found=f"the engine knows neither NVIDIA's runtime nor a CDI description{version}",
                mend=(
                    "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"
                    if toolkit
                    else "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker"
                ),
            )
        else:
            yield Check(name="gpu in containers", state=CheckState.ABSENT, found="no GPU to give")

    def _disk(self, info: EngineInfo | None, needs: Needs) -> Check:
        needed = f"{needs.disk_for} needs about {_gigabytes(needs.disk_bytes)}"
        if info is not None and not info.local:
            return Check(name="disk", state=CheckState.ABSENT, found=f"the engine is on another machine; {needed}")
        folder = info.root_dir if info is not None else "/var/lib"
        free = self._host.free_bytes(folder)
        if free is None:
            return Check(name="disk", state=CheckState.WARN, found=f"{folder} cannot be seen; {needed}")
        enough = free >= needs.disk_bytes
        return Check(
            name="disk",
            state=CheckState.OK if enough else CheckState.WARN,
            found=f"{_gigabytes(free)} free in {folder}; {needed}",
            mend="" if enough else "docker system df shows what fills it; docker builder prune frees build caches",
        )

    def _bootstrap(self, needs: Needs) -> Check:
        missing = self._host.bootstrap_missing()
        if not missing:
            return Check(name="debootstrap", state=CheckState.OK, found="installed: bases can be made from packages")
        return Check(
            name="debootstrap",
            state=CheckState.WARN if needs.bootstrap else CheckState.ABSENT,
            found=f"{', '.join(missing)} missing: bases that need no registry cannot be made",
            mend="apt-get install debootstrap debian-archive-keyring" if needs.bootstrap else "",
        )

    def _indexes(self, needs: Needs) -> Iterator[Check]:
        for name, project in needs.indexes.items():
            try:
                files = self._index.files(project, index=name)
            except AssayError as error:
                # Only the default index is needed for everything; a nightly one is missed by its own cells.
                state = CheckState.FAIL if name == "pypi" else CheckState.WARN
                mend = (
                    error.hint
                    or "set the proxy or package index of your network: UV_DEFAULT_INDEX, HTTPS_PROXY, SSL_CERT_FILE"
                )
                yield Check(name=f"index {name}", state=state, found=error.message, mend=mend)
                continue
            if files:
                yield Check(
                    name=f"index {name}", state=CheckState.OK, found=f"answers ({len(files)} files of {project})"
                )
            else:
                yield Check(name=f"index {name}", state=CheckState.WARN, found=f"answers, but lacks {project}")

    def _registries(self, needs: Needs) -> Iterator[Check]:
        for name, image in needs.registries.items():
            try:
                self._digests(image)
            except AssayError as error:
                # Cells on bootstrapped bases do without.
                yield Check(
                    name=f"registry {name}",
                    state=CheckState.WARN,
                    found=f"cells on {image} cannot be locked: {error.message}",
                    mend=f"docker login {name}, or set ASSAY_REGISTRY_MIRRORS (docs/how-to/mirrors-and-proxies.md)",
                )
                continue
            yield Check(name=f"registry {name}", state=CheckState.OK, found=f"has {image}")

    def _credentials(self) -> Iterator[Check]:
        try:
            found = self._host.credentials()
        except AssayError as error:
            yield Check(
                name="credentials", state=CheckState.WARN, found=error.message, mend=error.hint or "docker login"
            )
            return
        if not found:
            said = "none: pulls are anonymous, pushes go only where that is allowed"
            yield Check(
                name="credentials", state=CheckState.ABSENT, found=said, mend="docker login REGISTRY, to publish"
            )
        for one in found:
            yield Check(
                name=f"credentials {one.registry}",
                state=CheckState.WARN if one.problem else CheckState.OK,
                found=f"{one.source}: {one.problem}" if one.problem else one.source,
                mend=f"docker login {one.registry}" if one.problem else "",
            )


def _engine(info: EngineInfo) -> Iterator[Check]:
    major = info.version.partition(".")[0]
    place = f"{info.operating_system}, {info.architecture}, {info.cpus} CPUs, {_gigabytes(info.memory_bytes)} of memory"
    if info.podman:
        yield Check(
            name="engine",
            state=CheckState.WARN,
            found=f"Podman {info.version} on {place}: runs probes and servers, and builds nothing",
            mend="build with --push or --output, which need no engine, or name a Docker engine: DOCKER_HOST",
        )
        return
    old = major.isdigit() and int(major) < LEAST_ENGINE
    yield Check(
        name="engine",
        state=CheckState.FAIL if old else CheckState.OK,
        found=f"Docker {info.version}" + (f", too old: linked layers need {LEAST_ENGINE}" if old else f" on {place}"),
        mend="./quickstart --upgrade-engine engine" if old else "",
    )
    yield Check(
        name="buildx",
        state=CheckState.OK if info.buildx else CheckState.FAIL,
        found=info.buildx or "the docker on PATH has no buildx: nothing can be built",
        mend="" if info.buildx else "./quickstart engine, or the package docker-buildx",
    )
    shared = info.image_store == "containerd"
    yield Check(
        name="image store",
        state=CheckState.OK if shared else CheckState.WARN,
        found=f"{info.image_store} ({info.storage_driver})"
        + ("" if shared else ": every image holds its own copy of a linked layer"),
        mend=""
        if shared
        else '"features": {"containerd-snapshotter": true} in /etc/docker/daemon.json, then restart the engine '
        "(images of the old store are out of sight until it is changed back)",
    )
    for warning in info.warnings:
        yield Check(name="engine says", state=CheckState.WARN, found=warning.removeprefix("WARNING: "))


def _card(name: str, capability: str, memory: int, driver: str, needs: Needs) -> Check:
    found = f"{name}, compute capability {capability or '?'}, {_gigabytes(memory)}, driver {driver}"
    for target_name, target in needs.targets.items():
        if target.compute_capability == capability and not _meets(driver, target.driver):
            return Check(
                name="gpu",
                state=CheckState.FAIL if needs.gpu else CheckState.WARN,
                found=f"{found}; {target_name} needs driver {target.driver}",
                mend="install a newer NVIDIA driver",
            )
    return Check(name="gpu", state=CheckState.OK, found=found)


def _meets(version: str, wanted: str) -> bool:
    return fits(version, wanted, unknown=True)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.0f} GB"


def exit_code(checks: Sequence[Check]) -> int:
    """Return 4 if there is no usable engine or a GPU that was asked for, 1 if something else will fail, else 0."""
    failed = {check.name for check in checks if check.state is CheckState.FAIL}
    if failed & {"engine", "buildx", "gpu", "gpu in containers"}:
        return 4
    return 1 if failed else 0

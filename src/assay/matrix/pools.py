"""pools.yaml: the machines that builds and probes may be sent to, by name; each pool is of one kind.

Sources of the containers' command lines: Apptainer 1.4.5, run; for pyxis, which was not run,
https://github.com/NVIDIA/pyxis/wiki/Usage, and `docker::import` and `docker::_parse_uri` in
https://github.com/NVIDIA/enroot/blob/master/src/docker.sh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from string import Formatter
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from assay.errors import ConfigError, UsageError
from assay.foundation import yamltext
from assay.foundation.nearest import suggestion
from assay.foundation.strict import Value
from assay.foundation.text import ImageName, PlainText

__all__ = [
    "FILE",
    "RUNTIMES",
    "BuildkitPool",
    "GpuKind",
    "KubernetesPool",
    "LocalPool",
    "Pool",
    "PoolHost",
    "PoolsFile",
    "SlurmPool",
    "SshPool",
    "Toleration",
    "chosen_gpus",
    "load_pools",
]

FILE: Final = "pools.yaml"

GpuKind = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
"""A GPU product as the pool's engine calls it: the type of a Slurm gres (`h200`), a label's value (`NVIDIA-H200`)."""
Folder = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/+-]+$")]
"""An absolute path that needs no quoting."""
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", max_length=253)]
"""A name that is given to a program as an argument: it cannot be read as an option."""

RUNTIMES: Final = {
    # {image}: the registry's reference by digest, without a tag (podman refuses `tag@digest`). "$scratch" is a fresh
    # folder of the node, which is removed after the job.
    # A container has the GPUs of its job alone, numbered from 0: CUDA_VISIBLE_DEVICES of the node would be wrong in it.
    # Its root is the job's user, who may write into the folder; the user of an image may not.
    "podman": "podman run --rm --network none "
    "$(IFS=,; for gpu in ${{SLURM_JOB_GPUS:-}}; do echo --device nvidia.com/gpu=$gpu; done) "
    "--security-opt label=disable --read-only --tmpfs /tmp --user 0 --volume {folder}:{folder} "
    "--env ASSAY_EXECUTOR --env ASSAY_MACHINE --entrypoint {python} {image} {arguments}",
    # Without --workdir, /tmp and the home folder of a contained job are memory of 64 MiB ("sessiondir max size"). GPUs
    # are all those of the node, of which CUDA_VISIBLE_DEVICES names the job's.
    "apptainer": 'apptainer exec --nv --containall --net --network none --workdir "$scratch" '
    "--bind {folder}:{folder} {env} docker://{image} {python} {arguments}",
    # `registry#path:digest` is the one form that all of enroot 3.x and 4.x read (docker.sh): 3.x takes no `@`. Older
    # pyxis puts `docker://` before whatever stands there. Variables that the image does not set would come from the
    # node (pyxis' --container-env); enroot finds its settings by HOME.
    "pyxis": "srun --ntasks=1 --export=HOME,PATH,ASSAY_EXECUTOR,ASSAY_MACHINE "
    "--container-image={registry}#{path}:{digest} --container-mounts={folder}:{folder} "
    "--no-container-mount-home --no-container-entrypoint {python} {arguments}",
    "none": "{python} {arguments}",
}
"""Container runtime of a Slurm pool -> the command line in the batch script, with the form of a reference it reads."""
_PLACEHOLDERS: Final = {"folder", "env", "image", "registry", "path", "digest", "python", "arguments"}


def _twice(names: Iterable[str]) -> str | None:
    """Return a name that stands there more than once, or None."""
    return next((name for name, number in Counter(names).items() if number > 1), None)


class _Common(Value):
    gpus: tuple[GpuKind, ...] = ()
    """GPU products that the pool has, as its engine calls them; none: it has no GPUs."""
    at_once: Annotated[int, Field(gt=0, le=5000)] | None = None
    """Jobs that are submitted at the same time; without it, what the kind of pool can bear."""
    patience: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds for which failures of the pool (an image that cannot be pulled, a host that is gone) are retried."""
    attempts: Annotated[int, Field(gt=0, le=20)] = 5
    """How often one job is submitted when the pool loses it."""


class LocalPool(_Common):
    """This machine."""

    kind: Literal["local"]
    gpus: tuple[GpuKind, ...] = ()
    """A name for its GPUs; none: those that its driver shows."""
    executor: Literal["docker", "local"] = "docker"
    """In a container of the image, or in a process of this machine's Python (its environment alone)."""


class PoolHost(Value):
    """A machine behind a Docker context."""

    context: Word
    """Its name in `docker context ls`."""
    gpu: GpuKind | None = None
    """The product of its GPUs; one product a host."""
    count: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs; jobs that need none run this many at a time (at least one)."""


class SshPool(_Common):
    """Docker engines of other machines, reached over SSH."""

    kind: Literal["ssh"]
    hosts: Annotated[tuple[PoolHost, ...], Field(min_length=1)]
    python: Word = "python3"
    """The interpreter in the images."""

    @model_validator(mode="after")
    def _agree(self) -> SshPool:
        found = {host.gpu for host in self.hosts if host.gpu}
        if missing := [gpu for gpu in self.gpus if gpu not in found]:
            raise ValueError(f"no host has the GPU {missing[0]!r}{suggestion(missing[0], found)}")
        if twice := _twice(host.context for host in self.hosts):
            raise ValueError(f"the context {twice!r} occurs twice")
        return self


class SlurmPool(_Common):
    """A Slurm partition."""

    kind: Literal["slurm"]
    partition: Word
    folder: Folder
    """A folder that this machine and all nodes share; jobs and results are files there."""
    runtime: PlainText = "podman"
    """`podman`, `apptainer`, `pyxis`, `none`, or a command line with the placeholders of those; `$scratch` in it is a
    folder for the job alone."""
    python: Word = "python3"
    """The interpreter in the images."""
    assay: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9/][A-Za-z0-9._/+-]*$")] = "python3"
    """The interpreter on the nodes in which assay is installed; audits run there."""
    account: Word | None = None
    qos: Word | None = None
    minutes: Annotated[int, Field(gt=0)] | None = None
    """Time limit of a job; without it that of the partition."""
    options: tuple[Annotated[str, StringConstraints(pattern=r"^--[a-z][a-z-]*(?:=\S+)?$")], ...] = ()
    """More options of sbatch, `--exclude=n7`."""

    @field_validator("runtime")
    @classmethod
    def _known(cls, text: str) -> str:
        template = RUNTIMES.get(text)
        if template is None and "{arguments}" not in text:
            known = suggestion(text, RUNTIMES)
            raise ValueError(f"no runtime {text!r}{known}; or a command line with {{arguments}} in it")
        # Anything but a plain name would be evaluated: attributes, items, a width of gigabytes.
        for _, name, form, conversion in Formatter().parse(template or text):
            if name is not None and (name not in _PLACEHOLDERS or form or conversion):
                more = " with a format" if name in _PLACEHOLDERS else ""
                raise ValueError(f"placeholder {name!r}{more} is unknown; known: {', '.join(sorted(_PLACEHOLDERS))}")
        return text

    @property
    def command(self) -> str:
        """The template of the command line."""
        return RUNTIMES.get(self.runtime, self.runtime)


class Toleration(Value):
    """What a pod tolerates, as Kubernetes writes it."""

    key: PlainText
    operator: Literal["Exists", "Equal"] = "Exists"
    value: PlainText | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None


class KubernetesPool(_Common):
    """A namespace of a Kubernetes cluster."""

    kind: Literal["kubernetes"]
    context: Word
    """A context of the kubeconfig."""
    namespace: DnsName
    product_label: PlainText = "nvidia.com/gpu.product"
    """The label of nodes that names the GPU product; NVIDIA's GPU feature discovery writes this one."""
    resource: PlainText = "nvidia.com/gpu"
    """The resource of one GPU."""
    tolerations: tuple[Toleration, ...] = ()
    queue: DnsName | None = None
    """A Kueue LocalQueue; jobs start suspended, and Kueue admits them."""
    pull_secret: DnsName | None = None
    """A secret of the namespace with the registry's credentials."""
    python: Word = "python3"
    """The interpreter in the images."""
    cpu: PlainText = "4"
    memory: PlainText = "32Gi"
    scratch: PlainText = "64Gi"
    """Size limit of the job's scratch folder."""
    user: Annotated[int, Field(gt=0, lt=1 << 31)] = 65532
    """The numeric user that images run as; never root."""


class BuildkitPool(_Common):
    """BuildKit daemons that build images."""

    kind: Literal["buildkit"]
    endpoints: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^(?:tcp|unix|ssh|docker-container)://[!-~]+$")], ...],
        Field(min_length=1),
    ]
    per_endpoint: Annotated[int, Field(gt=0, le=64)] = 2
    """Cells that one daemon builds at the same time; `at_once` limits those of all daemons."""
    ca: Folder | None = None
    """File on this machine with the CA of the daemons' certificates, for endpoints of `tcp` with TLS."""
    cert: Folder | None = None
    """File with this machine's certificate, which the daemons check."""
    key: Folder | None = None
    """File with its key."""

    @field_validator("endpoints")
    @classmethod
    def _once(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        if twice := _twice(endpoints):
            raise ValueError(f"the endpoint {twice!r} occurs twice")
        if any(urlsplit(one).password is not None for one in endpoints):
            raise ValueError(
                "an endpoint must not hold a password, because programs get it as an argument; use `ca`, `cert` and "
                "`key` for tcp, and a key of SSH for ssh"
            )
        return endpoints

    @model_validator(mode="after")
    def _whole(self) -> BuildkitPool:
        if len({self.ca is None, self.cert is None, self.key is None}) > 1:
            raise ValueError("`ca`, `cert` and `key` belong together")
        return self

    @property
    def room(self) -> int:
        """How many cells all daemons build at the same time."""
        return min(len(self.endpoints) * self.per_endpoint, self.at_once or 5000)


Pool = Annotated[
    LocalPool | SshPool | SlurmPool | KubernetesPool | BuildkitPool,
    Field(discriminator="kind"),
]


class PoolsFile(Value):
    """pools.yaml."""

    registry: Annotated[str, StringConstraints(pattern=r"^[^\s@]+$")] | None = None
    """Where nodes pull the images of cells, and builders push them: `registry.example/team/{image}`; without it, nodes
    pull from staging of the policy."""
    pools: Annotated[dict[ImageName, Pool], Field(min_length=1)]

    def pool(self, name: str) -> LocalPool | SshPool | SlurmPool | KubernetesPool | BuildkitPool:
        """Return a pool by name.

        Raises:
            UsageError: there is none; the nearest names are offered.
        """
        if name not in self.pools:
            raise UsageError(f"there is no pool {name!r} in {FILE}{suggestion(name, self.pools)}")
        return self.pools[name]


def load_pools(text: str, *, file: str = FILE) -> PoolsFile:
    """Read pools.yaml.

    Raises:
        ConfigError: every problem at once, with file, line and column.
    """
    document = yamltext.load(text, file=file)
    found = yamltext.parse(document, PoolsFile)
    problems = [
        document.problem(
            ("pools", name, "gpus", pool.gpus.index(gpu, pool.gpus.index(gpu) + 1)), f"{gpu!r} occurs twice"
        )
        for name, pool in found.pools.items()
        if (gpu := _twice(pool.gpus))
    ]
    if problems:
        raise ConfigError(problems)
    return found


def chosen_gpus(name: str, known: Collection[str], wanted: Collection[str]) -> tuple[str, ...]:
    """Return the GPU products to run on: those asked for, or all of the pool.

    Raises:
        UsageError: the pool has no such GPU; the nearest names are offered.
    """
    unknown = [gpu for gpu in wanted if gpu not in known]
    if unknown:
        near = suggestion(unknown[0], known) or "; it has none"
        raise UsageError(f"the pool {name} has no GPU {unknown[0]!r}{near}", hint=f"add it to `gpus` in {FILE}")
    return tuple(dict.fromkeys(wanted)) or tuple(known)

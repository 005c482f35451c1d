"""Deployments as text: docker commands, a compose file, Kubernetes manifests, systemd units. Pure.

Every value goes through a filter that quotes it for the place it lands in; an undefined name in a template is an error.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from assay.errors import UsageError
from assay.foundation.platforms import Platform
from assay.foundation.printable import is_printable
from assay.foundation.secret import words_without
from assay.serving.command import ServerCommand
from assay.serving.flags import command_line
from assay.serving.formats import FORMATS, Format
from assay.serving.launching import Decided
from assay.serving.memory import MemoryPlan, Share

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

__all__ = [
    "CACHE",
    "FORMATS",
    "PORT",
    "Deployment",
    "Format",
    "Service",
    "bind",
    "name_of",
    "render",
    "secrets_of",
    "unit_word",
]

PORT: Final = 8000
"""Where a server listens inside its container."""
CACHE: Final = "/cache/huggingface"
_COMPILED: Final = {
    "CUDA_CACHE_PATH": "cuda",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "TILELANG_CACHE_DIR": "tilelang",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TVM_FFI_CACHE_DIR": "tvm-ffi",
    "XDG_CACHE_HOME": "xdg",
}
"""Where compilers at run time keep what they built, setting and folder; `probes/harness.py` uses the same."""
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\ufeff\u2028\u2029]")
_EXPANDED: Final = re.compile(r"\$\$+|\$(?=\()")
_GPU: Final = re.compile(r"all|[0-9]+(?:,[0-9]+)*|(?:GPU|MIG)-[0-9A-Fa-f-]+")
_ADDRESS: Final = re.compile(r"[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\]")
_RESOURCE: Final = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9._-]+")
_FILES: Final[dict[Format, str]] = {
    "docker": "launch.sh",
    "compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
    "systemd": "unit.service",
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """One server of a deployment."""

    name: str
    """Of containers, services and units: lower case, digits and hyphens."""
    image: str
    decided: Decided
    port: int
    """On this machine."""
    cache: str
    """The folder of this machine that holds the Hugging Face cache."""
    user: str = ""
    """`uid:gid` that the server runs as: the owner of the cache folder, who may write it; empty: the image's own."""
    folder: str | None = None
    """A model folder of this machine, mounted under the same path."""
    kernels: str = ""
    """The folder below `assay-kernels/` in the cache that keeps kernels compiled at run time, one for each image: what
    was compiled against one torch does not load beside another. Empty: they are lost with the container."""
    share: Share | None = None
    start_seconds: int = 900
    """How long it may take to become healthy."""

    @property
    def command(self) -> ServerCommand:
        """The command it runs."""
        return self.decided.command

    @property
    def argv(self) -> list[str]:
        """The command line inside the container."""
        return self.command.argv(host="0.0.0.0", port=str(PORT))  # noqa: S104 - inside the container

    @property
    def head(self) -> list[str]:
        """The command line before the flags that have reasons."""
        return self.argv[: len(self.argv) - len(command_line(self.command.flags))]

    @property
    def flags(self) -> list[tuple[list[str], str]]:
        """Each flag as words, and why it is there."""
        return [
            (command_line({name: value}), self.decided.reasons.get(name, ""))
            for name, value in self.command.flags.items()
        ]

    @property
    def env(self) -> dict[str, str]:
        """The environment, the cache's place included.

        Of a user that the image does not know there is neither a home nor a name; compilers ask for both.
        """
        stranger = {"HOME": "/tmp", "USER": "assay"} if self.user else {}  # noqa: S108 - inside the container
        return {"HF_HOME": CACHE, **stranger, **self.compiled, **self.command.env}

    @property
    def compiled(self) -> dict[str, str]:
        """Where kernels compiled at run time are kept, as settings.

        FlashInfer compiles its sampler at the first sampled request: 102 to 118 s on 16 cores, at each start of a
        container that loses it. Not for folders that several nodes write at once: compilers' locks do not hold there.
        """
        folder = f"{CACHE}/assay-kernels/{self.kernels}"
        return {name: f"{folder}/{place}" for name, place in _COMPILED.items()} if self.kernels else {}

    @property
    def env_reasons(self) -> Mapping[str, str]:
        """Why a setting is there, where that is known."""
        return self.decided.reasons

    @property
    def mounts(self) -> list[list[str]]:
        """The folders of the machine, each as docker's option and value."""
        model = [bind(self.folder, self.folder, read_only=True)] if self.folder else []
        return [bind(self.cache, CACHE), *model]

    @property
    def shm_megabytes(self) -> int:
        """Shared memory, MiB."""
        return max(self.command.shm >> 20, 64)

    @property
    def health(self) -> list[str]:
        """A command inside the container that ends with 0 if the server is well; needs Python alone."""
        url = f"http://127.0.0.1:{PORT}{self.command.engine.health}"
        return ["python3", "-c", f'import urllib.request as r; r.urlopen("{url}", timeout=5)']


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Servers on one card."""

    services: Sequence[Service]
    target: str
    platform: Platform = Platform.AMD64
    listen: str = "127.0.0.1"
    """The address of this machine under which the ports are reached."""
    gpu: str = "all"
    """`all`, or the index of a GPU."""
    gpu_resource: str = "nvidia.com/gpu"
    restart: str = "unless-stopped"
    plan: MemoryPlan | None = None
    monitoring: bool = False
    """Prometheus and Grafana beside the servers (compose)."""
    notes: Sequence[str] = field(default_factory=tuple)


def secrets_of(deployment: Deployment) -> list[str]:
    """Return the names of flags and variables whose secrets stand in what is written."""
    return sorted({name for service in deployment.services for name in service.command.secrets})


def name_of(text: str) -> str:
    """Return a name for a container, service or unit: `Qwen/Qwen3-32B-AWQ` becomes `qwen3-32b-awq`."""
    name = re.sub(r"[^a-z0-9]+", "-", text.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    return name[:50].rstrip("-") or "server"


def render(form: Format, deployment: Deployment, templates: Mapping[str, str]) -> dict[str, str]:
    """Return file name -> text.

    Raises:
        UsageError: the format cannot express the deployment.
    """
    if form == "kubernetes" and len(deployment.services) > 1 and deployment.gpu_resource == "nvidia.com/gpu":
        raise UsageError(
            "Kubernetes gives a whole GPU to one container, so several servers cannot share one",
            hint="use --format compose, or share the GPU in the device plugin and name it: "
            "--gpu-resource nvidia.com/gpu.shared",
        )
    _check(deployment)
    if form == "kubernetes":
        # The volume there is made for the image's own user (fsGroup).
        deployment = replace(deployment, services=[replace(one, user="") for one in deployment.services])
    environment = _environment(templates)
    text = environment.get_template(f"{form}.j2").render(
        deployment=deployment,
        prometheus=_prometheus(deployment),
        dashboard=templates.get("grafana-dashboard.json", ""),
    )
    if form != "systemd":
        return {_FILES[form]: text}
    units = [part for part in re.split(r"(?m)^#### ", text) if part.strip()]
    return {name: body for name, _, body in (unit.partition("\n") for unit in units)}


def _check(deployment: Deployment) -> None:
    """Refuse what no format can hold exactly, or what would change the reading of the rest.

    Raises:
        UsageError: a value has control characters, or an address, GPU or resource is none.
    """
    for what, value, pattern in (
        ("--listen", deployment.listen, _ADDRESS),
        ("--gpu", deployment.gpu, _GPU),
        ("--gpu-resource", deployment.gpu_resource, _RESOURCE),
    ):
        if not pattern.fullmatch(value):
            raise UsageError(f"{what} {value[:60]!r} cannot be one", hint="see `assay launch --help`")
    for service in deployment.services:
        values = [service.image, service.cache, service.folder or "", *service.argv]
        for value in (*values, *service.env, *service.env.values()):
            if not is_printable(value):
                raise UsageError(f"{value[:60]!r} has control characters, which a deployment cannot hold")


def bind(source: str, target: str, *, read_only: bool = False) -> list[str]:
    """Return docker's words for a folder in a container; where a `:` in its name would split it, as CSV."""
    if ":" not in source:
        return ["--volume", f"{source}:{target}" + (":ro" if read_only else "")]
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    quoted = ['"' + field.replace('"', '""') + '"' if re.search(r'[",\n]', field) else field for field in fields]
    return ["--mount", ",".join(quoted)]


def _environment(templates: Mapping[str, str]) -> SandboxedEnvironment:
    from jinja2 import DictLoader, StrictUndefined  # noqa: PLC0415 - slow to import, and only texts need it
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    environment = SandboxedEnvironment(
        loader=DictLoader(dict(templates)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "sh": _shell,
        "yaml": _yaml,
        "compose": lambda value: _yaml(_dollars(value)),
        "unit": unit_word,
        "comment": _comment,
        "dollars": _dollars,
        "kubernetes": lambda value: _yaml(_references(value)),
        "shown": lambda words: _comment(" ".join(words_without(words))),
    }
    return environment


def _shell(value: object) -> str:
    """Quote for sh; a list becomes words."""
    if isinstance(value, list | tuple):
        return shlex.join(str(part) for part in value)
    return shlex.quote(str(value))


def _yaml(value: Any) -> str:
    """Quote for YAML: JSON is YAML 1.2's flow style, but for characters that YAML wants escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _dollars(value: Any) -> Any:
    """Double `$`, which compose would take for a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    return [_dollars(part) for part in value]


def _references(value: Any) -> Any:
    """Escape `$(NAME)`, which Kubernetes replaces in commands, arguments and variables, and `$$`, which it halves."""
    if isinstance(value, str):
        return _EXPANDED.sub(lambda match: match[0] * 2, value)
    return [_references(part) for part in value]


def unit_word(value: object) -> str:
    """Quote words for ExecStart=, as systemd.syntax(7), systemd.unit(5) on `%` and systemd.service(5) on `$` say.

    Raises:
        UsageError: a line break, which a unit cannot hold.
    """
    if isinstance(value, list | tuple):
        return " ".join(unit_word(part) for part in value)
    text = str(value)
    if "\n" in text or "\r" in text:
        raise UsageError("a systemd unit cannot hold a value with a line break")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9_@:=,./+-]", text) or not text else escaped


def _comment(value: object) -> str:
    """Return one line that cannot leave a comment."""
    return _UNPRINTABLE.sub("?", " ".join(str(value).split()))


def _prometheus(deployment: Deployment) -> str:
    """Return Prometheus' configuration: every server, by its name."""
    jobs = [
        {
            "job_name": service.name,
            "metrics_path": "/metrics",
            "static_configs": [
                {"targets": [f"{service.name}:{PORT}"], "labels": {"engine": service.command.engine.package}}
            ],
        }
        for service in deployment.services
    ]  # fmt: skip
    return json.dumps({"global": {"scrape_interval": "5s"}, "scrape_configs": jobs}, indent=1)

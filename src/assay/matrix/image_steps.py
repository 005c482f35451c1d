"""A rendered Dockerfile as values: its base, the wheels of each stage, and what the image is made of. Pure.

The Dockerfile stays the recipe of record. Assembling an image without running its build is right only where every
instruction is one of those that are understood here; anything else is `NotAssembled`, with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from assay.errors import ConfigError, Problem
from assay.matrix.source_steps import builds_wheel, stage_recipe

__all__ = [
    "Copy",
    "FinalStage",
    "ImageSteps",
    "NotAssembled",
    "PinnedWheel",
    "Toolkit",
    "WheelStage",
    "image_steps",
    "only_built",
]

_HEREDOC: Final = re.compile(r"<<'?(\w+)'?\s*$")
_COPY: Final = re.compile(r"--link --from=(\S+) (\S+) (\S+)")
_PAIR: Final = re.compile(r'\s*([\w.\-]+)="((?:[^"\\]|\\.)*)"')
_USER: Final = re.compile(r"useradd --create-home --uid (\d+) --shell (\S+) ([a-z_][a-z0-9_-]*)")
_PACKAGES: Final = re.compile(
    r'^apt-get "\$@" install --yes --no-install-recommends (?P<names>[a-z0-9+.\- ]+)$', re.MULTILINE
)
_APT_ONLY: Final = re.compile(
    r"^(?:set -eu|export DEBIAN_FRONTEND=noninteractive|set -- -o \S+|if \[ -s /run/secrets/[a-z-]+ \]; then.*|fi"
    r'|  set -- "\$@" .*|apt-get "\$@" (?:update|install .*)|rm -rf [a-z0-9/.* -]+)$'
)
_BASE: Final = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)
_STAGE: Final = re.compile(r"^FROM (\S+) AS (\S+)$", re.MULTILINE)
_INSTALL: Final = re.compile(
    r"RUN (?:--mount=\S+ +)+/opt/tools/install (?:--no-cache )?(?P<indexes>(?:--index \S+ )*)<<'LOCK'"
)
_PIN: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)==(\S+) --hash=sha256:([0-9a-f]{64})")
_VENV: Final = "/opt/tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv"
_TOOLKIT: Final = re.compile(
    r"""set -eu
wheels=(?P<wheels>/opt/venv/lib/python[0-9.]+/site-packages/nvidia/cu13)
cuda=/out/opt/cuda
mkdir -p "\$cuda/lib64/stubs"
for name in bin include nvvm; do ln -s "\$wheels/\$name" "\$cuda/\$name"; done
for name in cudart\.so\.13 cublas\.so\.13 cublasLt\.so\.13 nvrtc\.so\.13; do
  ln -s "\$wheels/lib/lib\$name" "\$cuda/lib64/lib\$\{name%\.13\}"
done
(?:#.*
)*printf '' \| gcc -shared -x c - -Wl,-soname,libcuda\.so\.1 -o "\$cuda/lib64/stubs/libcuda\.so"(?:
#.*
builtins=(?P<builtins>libnvrtc-builtins\.so\.[0-9.]+)
loader=/out/usr/lib/\$\(gcc -print-multiarch\)
mkdir -p "\$loader"
ln -s "\$wheels/lib/\$builtins" "\$loader/\$builtins")?"""
)
_DURATION: Final = re.compile(r"(\d+)(s|m|h)")
_NANOSECONDS: Final = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


class NotAssembled(ConfigError):
    """An image that only a build can make; says which instruction asks for it."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Files of another stage."""

    stage: str
    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class FinalStage:
    """What the last stage does."""

    packages: tuple[str, ...] = ()
    """Of the distribution, installed above the base."""
    installs: tuple[str, ...] = ()
    """The instructions that install them."""
    user: str = ""
    uid: int = 1000
    shell: str = ""
    copies: tuple[Copy, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    """As in an OCI image configuration: Env (as pairs), Labels, User, WorkingDir, Healthcheck, Entrypoint, Cmd."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """A wheel by content."""

    name: str
    """Normalised."""
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As the lock has it."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, kw_only=True)
class WheelStage:
    """The wheels of one layer, in the order of the lock."""

    wheels: tuple[PinnedWheel, ...]
    indexes: tuple[str, ...]
    """Addresses of indexes beside the default."""


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """Links that make a CUDA toolkit of NVIDIA's wheels."""

    wheels: str
    """Folder of the wheels' files, absolute."""
    builtins: str | None
    """File name of NVRTC's builtins, which get a link where the loader looks."""


@dataclass(frozen=True, kw_only=True)
class ImageSteps:
    """What a Dockerfile of `assay render` does."""

    base: str
    """Reference, or the local name of a bootstrapped base."""
    packages: tuple[str, ...]
    """Of the distribution, installed above the base."""
    base_recipe: str
    """A Dockerfile of the base with these packages and nothing else."""
    wheels: Mapping[str, WheelStage]
    """Stage -> its wheels."""
    toolkit: Toolkit | None
    final: FinalStage
    sources: Mapping[str, str] = field(default_factory=dict)
    """Stage that compiles -> a Dockerfile that builds its wheel alone."""
    tools: str = ""
    """The Dockerfile up to its stage `tools`, from `ARG BASE=` on."""
    built: Mapping[str, str] = field(default_factory=dict)
    """Distribution that was built here from source -> the sha256 of its wheel, which `wheels` has."""

    @property
    def order(self) -> tuple[str, ...]:
        """The stages of the layers above the base, lowest first; `useradd` for the account."""
        return (*(("useradd",) if self.final.user else ()), *(copy.stage for copy in self.final.copies))


def image_steps(dockerfile: str) -> ImageSteps:
    """Read a Dockerfile that `assay render` made.

    Raises:
        NotAssembled: the image takes an instruction that only a build can run.
    """
    base = _BASE.search(dockerfile)
    if base is None:
        raise only_built(1, "a Dockerfile without ARG BASE")
    found = list(_STAGE.finditer(dockerfile))
    ends = [*(match.start() for match in found[1:]), len(dockerfile)]
    stages = {
        match[2]: (dockerfile.count("\n", 0, match.start()) + 1, dockerfile[match.end() : end])
        for match, end in zip(found, ends, strict=False)
    }
    final = _final_stage(dockerfile)
    below = _base_stage(*stages["python"]) if "python" in stages else FinalStage()
    wheels: dict[str, WheelStage] = {}
    sources: dict[str, str] = {}
    toolkit: Toolkit | None = None
    for copy in final.copies:
        if copy.stage not in stages:
            raise only_built(1, f"COPY --from={copy.stage}")
        line, text = stages[copy.stage]
        steps = _instructions(text, line)
        target = (copy.source, copy.target)
        if copy.stage == "tools" and target == ("/opt/venv", "/opt/venv"):
            if not any(_VENV in body for _, _, body in steps):
                raise only_built(line, "FROM ... AS tools")
        elif copy.stage == "toolkit" and target == ("/out/", "/"):
            toolkit = _toolkit(steps)
        elif target == ("/out/", "/opt/venv/") and builds_wheel("\n".join(body for _, _, body in steps)):
            sources[copy.stage] = stage_recipe(dockerfile[base.start() :], copy.stage)
        elif target == ("/out/", "/opt/venv/"):
            wheels[copy.stage] = _wheels(steps, line, copy.stage)
        else:
            raise only_built(line, f"COPY --from={copy.stage} {copy.source} {copy.target}")
    installs = (*below.installs, *final.installs)
    return ImageSteps(
        base=base[1],
        packages=tuple(dict.fromkeys((*below.packages, *final.packages))),
        base_recipe="\n".join([f"ARG BASE={base[1]}", "FROM ${BASE}", *installs, ""]),
        wheels=wheels,
        toolkit=toolkit,
        final=final,
        sources=sources,
        tools=dockerfile[base.start() : dict(zip((match[2] for match in found), ends, strict=False)).get("tools", 0)],
    )


def _base_stage(line: int, text: str) -> FinalStage:
    """Read the stage that the others start from: packages, and nothing else."""
    reader = _Stage()
    for number, words, body in _instructions(text, line):
        if not words.startswith("RUN "):
            raise only_built(number, words)
        reader.take(number, words, body)
    found = reader.result()
    if found.user:
        raise only_built(line, "useradd in the stage python")
    return found


def _wheels(steps: list[tuple[int, str, str]], line: int, stage: str) -> WheelStage:
    match steps:
        case [(_, words, body)] if (found := _INSTALL.fullmatch(words)) is not None:
            pins = [_PIN.fullmatch(text) for text in body.splitlines()]
            indexes = tuple(word.strip("'\"") for word in found["indexes"].split() if word != "--index")
            if all(pins):
                wheels = (PinnedWheel(name=pin[1], version=pin[2], sha256=pin[3]) for pin in pins if pin)
                return WheelStage(wheels=tuple(wheels), indexes=indexes)
        case _:
            pass
    raise only_built(line, f"FROM ... AS {stage}")


def _toolkit(steps: list[tuple[int, str, str]]) -> Toolkit:
    match steps:
        case [(_, _, body)] if (found := _TOOLKIT.fullmatch(body.strip())) is not None:
            return Toolkit(wheels=found["wheels"], builtins=found["builtins"])
        case _:
            raise only_built(steps[0][0] if steps else 1, "FROM python AS toolkit")


def _final_stage(dockerfile: str) -> FinalStage:
    reader = _Stage()
    start = dockerfile.rfind("\nFROM ") + 1
    line = dockerfile.count("\n", 0, start) + 1
    for number, words, body in _instructions(dockerfile[start:], line):
        reader.take(number, words, body)
    return reader.result()


def _instructions(text: str, first: int) -> list[tuple[int, str, str]]:
    """Return line number, instruction with continuations joined, and heredoc of each instruction."""
    found: list[tuple[int, str, str]] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = first + at, lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.endswith("\\") and at < len(lines):
            line = line[:-1] + " " + lines[at].strip()
            at += 1
        body: list[str] = []
        if mark := _HEREDOC.search(line):
            while at < len(lines) and lines[at] != mark[1]:
                body.append(lines[at])
                at += 1
            at += 1
        found.append((number, line.strip(), "\n".join(body)))
    return found


class _Stage:
    def __init__(self) -> None:
        self._packages: list[str] = []
        self._installs: list[str] = []
        self._account: tuple[str, int, str] = ("", 1000, "")
        self._copies: list[Copy] = []
        self._config: dict[str, Any] = {}
        self._environment: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    def take(self, number: int, words: str, body: str) -> None:
        name, _, rest = words.partition(" ")
        rest = rest.strip()
        match name:
            case "FROM":
                pass
            case "RUN":
                self._run(number, rest, body)
            case "COPY" if (found := _COPY.fullmatch(rest)) is not None:
                self._copies.append(Copy(stage=found[1], source=found[2], target=found[3]))
            case "ENV":
                self._environment |= _pairs(number, rest)
            case "LABEL":
                self._labels |= _pairs(number, rest)
            case "USER" | "WORKDIR" if not re.search(r"[\s$]", rest):
                self._config["User" if name == "USER" else "WorkingDir"] = rest
            case "ENTRYPOINT" | "CMD":
                self._config["Entrypoint" if name == "ENTRYPOINT" else "Cmd"] = _words(number, rest)
            case "HEALTHCHECK":
                self._config["Healthcheck"] = _healthcheck(number, rest)
            case _:
                raise only_built(number, words)

    def _run(self, number: int, rest: str, body: str) -> None:
        if (account := _USER.fullmatch(rest)) is not None:
            self._account = (account[3], int(account[1]), account[2])
            return
        found = _PACKAGES.search(body)
        if found is None or self._copies or not all(_APT_ONLY.match(line) for line in body.splitlines()):
            raise only_built(number, f"RUN {rest}")
        self._packages += found["names"].split()
        mark = _HEREDOC.search(rest)
        self._installs.append(f"RUN {rest}\n{body}\n{mark[1] if mark else ''}")

    def result(self) -> FinalStage:
        user, uid, shell = self._account
        return FinalStage(
            packages=tuple(self._packages),
            installs=tuple(self._installs),
            user=user,
            uid=uid,
            shell=shell,
            copies=tuple(self._copies),
            config={**self._config, "Labels": dict(sorted(self._labels.items()))},
            environment=self._environment,
        )


def only_built(number: int, words: str) -> NotAssembled:
    """Return the error of an instruction that only a build can run."""
    short = words if len(words) <= 80 else words[:77] + "..."
    return NotAssembled(
        [
            Problem(
                file="Dockerfile",
                line=number,
                column=1,
                message=f"only a build can run `{short}`; use the BuildKit builder for this image",
            )
        ]
    )


def _pairs(number: int, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        match = _PAIR.match(text, at)
        if match is None or re.search(r"(?<!\\)\$", match[2]):
            raise only_built(number, text)
        found[match[1]] = re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
    return found


def _words(number: int, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise only_built(number, text) from error
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise only_built(number, text)
    return found


def _healthcheck(number: int, text: str) -> dict[str, Any]:
    options, _, command = text.partition(" CMD ")
    found: dict[str, Any] = {"Test": ["CMD", *_words(number, command.strip())]}
    for option in options.split():
        name, _, value = option.removeprefix("--").partition("=")
        match = _DURATION.fullmatch(value)
        key = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}.get(name)
        if match is None or key is None:
            raise only_built(number, text)
        found[key] = int(match[1]) * _NANOSECONDS[match[2]]
    return found

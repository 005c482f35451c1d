"""Dockerfiles and the bake file from a cell and its lock. Pure: template texts in, text out.

Every value that reaches a shell, an ENV or an exec form goes through a filter that quotes it for that place, on top of
the validation where it was read; an undefined name in a template is an error.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError
from packaging.utils import canonicalize_name

from assay.errors import ConfigError, Problem
from assay.foundation.digest import digest_of, sha256_of
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, Need, Place
from assay.matrix.lockfile import lock_digest
from assay.matrix.model import Base, BootstrapBase, Index, RegistryBase

__all__ = [
    "LABEL_PREFIX",
    "BuildLayer",
    "bake_file",
    "base_reference",
    "content_key",
    "dockerfile",
    "layers_of",
    "with_stages",
]

_COPY: Final = re.compile(r"^COPY (?:--link )?--from=(\S+) (.+)$", re.MULTILINE)
_COPIED: Final = re.compile(r"COPY (?P<paths>/.+?)(?: # buildkit)?$")

LAYERS_KEPT: Final = 1 << 12
"""Layers whose text is kept, of those that cells share."""

LABEL_PREFIX: Final = "dev.assay."

TOOLS_FILE: Final = "tools.txt"
"""Below templates/: the installer inside the build, with its hash; part of every Dockerfile."""

SOURCE_TOOLS_FILE: Final = "source-tools.txt"
"""Below templates/: what a source build needs to make a wheel, with hashes; `nox -s locks` renews it."""

TOOL_SCHEMA: Final = 1
"""Raised when assay builds the same Dockerfile in another way."""


def base_reference(name: str, base: Base, digest: str | None, platform: Platform = Platform.AMD64) -> str:
    """Return what FROM names: a registry image by digest, or the local name of a bootstrapped base.

    A bootstrapped base is named by its recipe, so that a changed recipe, or another platform, is another base.
    """
    match base:
        case RegistryBase():
            if digest is None:
                return base.image
            return f"{base.image}@{digest}"
        case BootstrapBase():
            return f"assay/base-{name}:{_recipe(base, platform)[7:19]}"


@lru_cache(maxsize=64)
def _recipe(base: BootstrapBase, platform: Platform) -> str:
    other = {} if platform is Platform.AMD64 else {"platform": platform.value}
    return digest_of(base.model_dump() | other)


def _env_value(text: str) -> str:
    """Quote for ENV and LABEL, where `$`, quotes and backslashes mean something."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def _exec_form(words: Iterable[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)


@lru_cache(maxsize=4)
def _environment(templates: tuple[tuple[str, str], ...]) -> Environment:
    environment = Environment(
        loader=DictLoader(dict(templates)),
        auto_reload=False,
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Dockerfiles, not HTML; each place has its own quoting filter
        keep_trailing_newline=True,
        trim_blocks=False,
    )
    environment.filters |= {
        "sh": shlex.quote,
        "env": _env_value,
        "exec": _exec_form,
        "once": lru_cache(maxsize=LAYERS_KEPT)(_once),
    }
    return environment


def _once(value: Hashable, macro: Callable[[Hashable], str]) -> str:
    """Call a macro once for each value: a fragment that many Dockerfiles share is made one time."""
    return macro(value)


class BuildLayer(NamedTuple):
    """A layer of a lock, as templates see it."""

    stage: str
    lines: str
    """What an installer reads."""
    urls: tuple[str, ...]
    """The indexes beside the default."""
    heavy: bool
    """It holds one wheel."""


@lru_cache(maxsize=LAYERS_KEPT)
def _layer(place: Place, needs: tuple[Need, ...], urls: tuple[tuple[str, str], ...]) -> BuildLayer:
    weight, stage = place
    used = {index for _, index in needs}
    return BuildLayer(
        stage=stage,
        lines="\n".join(requirement for requirement, _ in needs),
        urls=tuple(url for name, url in urls if name in used),
        heavy=weight < 0,
    )


def _sources(cell: Cell, lock: Lock) -> list[dict[str, Any]]:
    """Return what is compiled, as templates see it; the commit that a lock names is the one to check."""
    found = []
    for axis, value in cell.point.items():
        if (source := value.source) is None:
            continue
        locked = lock.sources.get(canonicalize_name(axis))
        if locked is not None:
            source = source.model_copy(update={"commit": locked.commit})
        stage = f"source-{axis.replace('_', '-')}"
        found.append({"name": axis, "version": str(value), "source": source, "stage": stage, "locked": bool(locked)})
    return found


def layers_of(lock: Lock, indexes: Mapping[str, Index]) -> list[BuildLayer]:
    """Return the layers of a lock in the order in which they lie, lowest first.

    Each heavy wheel has a layer of its own, heaviest first: what changes least and weighs most lies lowest. The rest
    stands on shelves by the digest of its name, so that a wheel that changes, comes or goes touches one shelf, whatever
    else is in the lock.
    """
    urls = tuple((name, index.url) for name, index in sorted(indexes.items()) if index.url is not None)
    places: dict[Place, list[Need]] = defaultdict(list)
    for place, need in map(attrgetter("laid"), lock.ordered):
        places[place].append(need)
    return [_layer(place, tuple(places[place]), urls) for place in sorted(places)]


def dockerfile(
    cell: Cell, lock: Lock, base: Base, *, indexes: Mapping[str, Index], templates: Mapping[str, str]
) -> str:
    """Return the Dockerfile of a cell.

    Args:
        cell: the cell.
        lock: its lock.
        base: its base.
        indexes: the indexes of the matrix, by name.
        templates: file name below templates/ -> text.

    Raises:
        ConfigError: the template is missing, is not Jinja, or names something undefined; gives file and line.
    """
    file = f"{cell.template}.Dockerfile.j2"
    try:
        text = (
            _environment(tuple(templates.items()))
            .get_template(file)
            .render(
                cell=cell,
                lock=lock,
                base={"kind": base.kind, "reference": base_reference(cell.base, base, lock.base_digest, cell.platform)},
                tools=templates[TOOLS_FILE].strip(),
                layers=layers_of(lock, indexes),
                source_builds=_sources(cell, lock),
                source_tools=templates.get(SOURCE_TOOLS_FILE, "").strip(),
                toolkit=_has_compiler(lock) and base.cuda is None,
                site_packages=f"/opt/venv/lib/python{lock.python}/site-packages",
                flashinfer_arch_list=flashinfer_arch_list(cell.arch_list),
                labels=labels(cell, lock),
            )
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None) or 0
        name = getattr(error, "name", None) or file
        raise ConfigError(
            [Problem(file=f"templates/{name}", line=line, column=1 if line else 0, message=f"{error.message or error}")]
        ) from error
    return text.rstrip("\n") + "\n"


def _has_compiler(lock: Lock) -> bool:
    """Return whether the wheels have a whole nvcc: those of CUDA 13 do, the cu12 ones have only ptxas."""
    return all(lock.wheel(name) is not None for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-runtime"))


def flashinfer_arch_list(arch_list: str) -> str:
    """Return an arch list in FlashInfer's format: space-separated, family code (`12.0f`) for 12.x, no PTX.

    FlashInfer ignores TORCH_CUDA_ARCH_LIST (flashinfer/compilation_context.py).
    """
    names = [part.removesuffix("+PTX") for part in arch_list.replace(";", " ").split()]
    return " ".join(name + "f" if name.startswith("12.") and name[-1].isdecimal() else name for name in names)


def labels(cell: Cell, lock: Lock) -> dict[str, str]:
    """Return the labels in the Dockerfile; the build adds content key and source revision."""
    axes = {canonicalize_name(axis) for axis in cell.point}
    installed = {wheel.name: wheel.version for wheel in lock.wheels if wheel.name in axes}
    return {
        "org.opencontainers.image.title": cell.image,
        "org.opencontainers.image.version": cell.id.removeprefix(cell.image + "-"),
        f"{LABEL_PREFIX}cell": cell.id,
        f"{LABEL_PREFIX}lock": lock_digest(lock),
        f"{LABEL_PREFIX}targets": ",".join(cell.targets),
        **{f"{LABEL_PREFIX}version.{name}": version for name, version in sorted(installed.items())},
    }


def content_key(dockerfile_text: str) -> str:
    """Return the key of a build: same key, same image, nothing to build.

    The Dockerfile holds the base's digest or recipe, every wheel's hash, the lock's digest and the installer's hash,
    and it needs no context.
    """
    return digest_of({"dockerfile": sha256_of(dockerfile_text.encode()), "schema": TOOL_SCHEMA})


def bake_file(cells: Sequence[tuple[Cell, str]], groups: Mapping[str, Sequence[str]]) -> str:
    """Return docker-bake.json, for people who build with `docker buildx bake` alone.

    Args:
        cells: cells that have a Dockerfile, each with its content key.
        groups: group -> cell ids.
    """
    known = {cell.id for cell, _ in cells}
    target = {
        _bake_name(cell.id): {
            "context": f"{cell.image}/cells/{cell.id}",
            "dockerfile": "Dockerfile",
            "tags": [cell.local_reference],
            **({} if cell.platform is Platform.AMD64 else {"platforms": [cell.platform.value]}),
            "labels": {f"{LABEL_PREFIX}content-key": key},
        }
        for cell, key in cells
    }
    group = {
        _bake_name(name): {"targets": [_bake_name(identifier) for identifier in members if identifier in known]}
        for name, members in groups.items()
        if any(identifier in known for identifier in members)
    }
    return json.dumps({"group": group, "target": target}, indent=1) + "\n"


def _bake_name(text: str) -> str:
    """Return a name that bake takes: letters, digits, `_` and `-`."""
    return "".join(character if character.isalnum() or character in "-_" else "_" for character in text)


def with_stages(dockerfile: str, made_by: Sequence[str]) -> list[str]:
    """Return what the engine says made each layer, with the stage that it was copied from.

    The engine tells of twenty layers `COPY /out/ /opt/venv/`; the Dockerfile knows which wheel each of them is. They
    are matched in their order, for each pair of paths alone, and left as they are where their numbers differ.
    """
    last = dockerfile[dockerfile.rfind("\nFROM ") + 1 :]
    stages: dict[str, list[str]] = {}
    for stage, paths in _COPY.findall(last):
        stages.setdefault(" ".join(paths.split()), []).append(stage)
    copied = [match["paths"] if (match := _COPIED.fullmatch(text)) else "" for text in made_by]
    known = {paths: iter(found) for paths, found in stages.items() if len(found) == copied.count(paths)}
    return [
        f"COPY --from={next(known[paths])} {paths}" if paths in known else text
        for paths, text in zip(copied, made_by, strict=True)
    ]

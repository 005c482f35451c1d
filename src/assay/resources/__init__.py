"""The files that ship with assay: knowledge, templates, probes, the example matrix and its images, pages.

An installed package holds them beside this module. In a checkout some of them are the folders beside `src/`, which the
build backend puts here (`force-include` in pyproject.toml). A project's own files take their place one by one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Final

from assay.errors import ConfigError, Problem

__all__ = ["CHECKOUT", "KINDS", "example", "files", "find", "folder"]

CHECKOUT: Final = ("docs/records", "images", "knowledge", "matrix.yaml", "probes", "templates")
"""What a checkout has beside `src/`."""
KINDS: Final = (*CHECKOUT, "pages", "project")


@cache
def folder(kind: str) -> Path:
    """Return where the shipped files of a kind are.

    Raises:
        ConfigError: the installation lacks them.
    """
    assert kind in KINDS
    package = Path(str(package_files(__name__)))
    for place in (package / kind, package.parents[2] / kind):
        if place.exists():
            return place
    raise _missing(kind)


def example() -> Path:
    """Return the folder of the project that ships with assay: its matrix.yaml and images/."""
    return folder("matrix.yaml").parent


def files(kind: str, project: Path | None = None, *, below: str = "", pattern: str = "*") -> dict[str, Path]:
    """Return files of a kind by their name below its folder; those of the project replace shipped ones of their name.

    Args:
        kind: one of `KINDS`.
        project: the folder with matrix.yaml.
        below: only those below this folder of the kind.
        pattern: only those whose file names match.
    """
    found: dict[str, Path] = {}
    for place in (folder(kind), *([project / kind] if project is not None else [])):
        found |= {str(path.relative_to(place)): path for path in (place / below).rglob(pattern) if _holds(path)}
    return dict(sorted(found.items()))


def find(kind: str, name: str, project: Path | None = None) -> Path:
    """Return one file or folder of a kind: the project's own, else the shipped one.

    Raises:
        ConfigError: there is neither.
    """
    for place in (*([project / kind] if project is not None else []), folder(kind)):
        if (place / name).exists():
            return place / name
    raise _missing(f"{kind}/{name}")


def _holds(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _missing(name: str) -> ConfigError:
    return ConfigError([Problem(file=name, message="assay's own file is missing; install assay-images again")])

"""Finds and reads the audit's knowledge: the project's own knowledge/ folder, else the one that assay ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

import assay
from assay.audit.history import TorchHistory
from assay.audit.knowledge import (
    CompanionsFile,
    DispatchFile,
    Knowledge,
    NeedsFile,
    PtxFile,
    SharedFilesFile,
    SonamesFile,
    python_exports,
)
from assay.errors import ConfigError, Problem, WheelError
from assay.foundation.strict import Value
from assay.foundation.yamltext import load, parse

__all__ = ["knowledge_folder", "load_knowledge"]

Model = TypeVar("Model", bound=Value)
_FILES = ("sonames.yaml", "ptx_isa.yaml", "runtime_needs.yaml", "dispatch.yaml", "companions.yaml", "shared_files.yaml")


def knowledge_folder(project: Path | None = None) -> Path:
    """Return the folder with the audit's knowledge.

    Raises:
        ConfigError: there is none.
    """
    package = Path(assay.__file__).parent
    candidates = [package / "knowledge", package.parents[1] / "knowledge"]
    if project is not None:
        candidates.insert(0, project / "knowledge")
    for folder in candidates:
        if all((folder / name).is_file() for name in _FILES):
            return folder
    raise ConfigError([Problem(file="knowledge", message="the audit's knowledge is nowhere to be found")])


def load_knowledge(folder: Path) -> Knowledge:
    """Read the files of a folder; read once for each folder.

    Raises:
        ConfigError: a file is wrong; all problems at once.
    """
    return _load(folder.resolve())


@cache
def _load(folder: Path) -> Knowledge:
    history = TorchHistory({})
    table = folder / "torch_exports.bin"
    if table.is_file():
        try:
            history = TorchHistory.load(table.read_bytes())
        except WheelError as error:
            raise ConfigError([Problem(file=str(table), message=error.message)]) from error
    python = folder / "python_abi.txt"
    return Knowledge(
        sonames=_file(folder / "sonames.yaml", SonamesFile),
        ptx=_file(folder / "ptx_isa.yaml", PtxFile),
        needs=_file(folder / "runtime_needs.yaml", NeedsFile),
        dispatch=_file(folder / "dispatch.yaml", DispatchFile),
        companions=_file(folder / "companions.yaml", CompanionsFile),
        shared_files=_file(folder / "shared_files.yaml", SharedFilesFile),
        history=history,
        python=python_exports(python.read_text(encoding="utf-8")) if python.is_file() else {},
    )


def _file(path: Path, model: type[Model]) -> Model:
    name = f"knowledge/{path.name}"
    try:
        return parse(load(path.read_text(encoding="utf-8"), file=name), model)
    except (OSError, ValidationError) as error:
        raise ConfigError([Problem(file=name, message=str(error))]) from error

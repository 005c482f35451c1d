"""Reads the audit's knowledge: the files that assay ships, and a project's own in their place."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from assay import resources
from assay.adapters.files.regular import read_config
from assay.audit.guards import GuardsFile
from assay.audit.history import TorchHistory
from assay.audit.knowledge import (
    CompanionsFile,
    DispatchFile,
    Knowledge,
    NeedsFile,
    PtxFile,
    SharedFilesFile,
    SonamesFile,
    ToolkitFile,
    python_exports,
)
from assay.errors import ConfigError, Problem, WheelError
from assay.foundation.strict import Value
from assay.foundation.yamltext import load, parse

__all__ = ["load_knowledge"]

Model = TypeVar("Model", bound=Value)


def load_knowledge(project: Path | None = None) -> Knowledge:
    """Read the knowledge of a project, once for each set of files.

    Raises:
        ConfigError: a file is wrong; all problems at once.
    """
    return _load(tuple(sorted(resources.files("knowledge", project).items())))


@cache
def _load(files: tuple[tuple[str, Path], ...]) -> Knowledge:
    here = dict(files)
    table = here["torch_exports.bin"]
    try:
        history = TorchHistory.load(table.read_bytes())
    except WheelError as error:
        raise ConfigError([Problem(file=str(table), message=error.message)]) from error
    return Knowledge(
        sonames=_file(here["sonames.yaml"], SonamesFile),
        toolkit=_file(here["cuda_toolkit.yaml"], ToolkitFile),
        ptx=_file(here["ptx_isa.yaml"], PtxFile),
        needs=_file(here["runtime_needs.yaml"], NeedsFile),
        dispatch=_file(here["dispatch.yaml"], DispatchFile),
        guards=_file(here["guards.yaml"], GuardsFile),
        companions=_file(here["companions.yaml"], CompanionsFile),
        shared_files=_file(here["shared_files.yaml"], SharedFilesFile),
        history=history,
        python=python_exports(read_config(here["python_abi.txt"])),
    )


def _file(path: Path, model: type[Model]) -> Model:
    name = f"knowledge/{path.name}"
    try:
        return parse(load(read_config(path, name=name), file=name), model)
    except (OSError, ValidationError) as error:
        raise ConfigError([Problem(file=name, message=str(error))]) from error

"""Reads the names of GPUs: knowledge/cards.yaml of the project, else the one that assay ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import assay
from assay.errors import ConfigError, Problem
from assay.foundation.yamltext import load, parse
from assay.matrix.cards import Cards

__all__ = ["load_cards"]


def load_cards(project: Path | None = None) -> Cards:
    """Return the names of GPUs.

    Raises:
        ConfigError: the file is wrong, or nowhere.
    """
    package = Path(assay.__file__).parent
    folders = [package / "knowledge", package.parents[1] / "knowledge"]
    if project is not None:
        folders.insert(0, project / "knowledge")
    for folder in folders:
        if (folder / "cards.yaml").is_file():
            return _read(folder / "cards.yaml")
    raise ConfigError([Problem(file="knowledge/cards.yaml", message="the names of GPUs are nowhere to be found")])


@cache
def _read(path: Path) -> Cards:
    return parse(load(path.read_text(encoding="utf-8"), file="knowledge/cards.yaml"), Cards)

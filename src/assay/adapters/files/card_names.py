"""Reads the names of GPUs: knowledge/cards.yaml of the project, else the one that assay ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from assay import resources
from assay.adapters.files.regular import read_config
from assay.foundation.yamltext import load, parse
from assay.matrix.cards import Cards

__all__ = ["load_cards"]


def load_cards(project: Path | None = None) -> Cards:
    """Return the names of GPUs.

    Raises:
        ConfigError: the file is wrong.
    """
    return _read(resources.find("knowledge", "cards.yaml", project))


@cache
def _read(path: Path) -> Cards:
    return parse(load(read_config(path), file="knowledge/cards.yaml"), Cards)

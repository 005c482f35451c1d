"""A suite of probes with the real harness and library, and features of a test's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def write_suite(folder: Path, root: Path, programs: Mapping[str, str]) -> Path:
    """Write a suite into a new folder; `programs`: file name of a feature, without its ending -> its text."""
    shutil.copytree(root / "probes" / "probelib", folder / "probelib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "probes" / "harness.py", folder)
    (folder / "features").mkdir()
    for name, text in programs.items():
        (folder / "features" / f"{name}.py").write_text(text)
    return folder

"""The digest of a checkout's probe programs, the same as `probes/harness.py` computes of itself inside an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

from assay.errors import UsageError

__all__ = ["find_suite", "load_suite", "suite_digest"]


def find_suite(root: Path) -> Path:
    """Return the folder of the probe programs: the checkout's own, or the one that is installed with assay.

    Raises:
        UsageError: there is neither.
    """
    for folder in (root / "probes", Path(__file__).parents[4] / "probes", Path(__file__).parents[2] / "probes"):
        if (folder / "harness.py").is_file():
            return folder
    raise UsageError(f"no probes/harness.py in {root}", hint="probe from a checkout of assay (--project DIR)")


def load_suite(folder: Path) -> dict[str, bytes]:
    """Return all programs below a folder: path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.py"))}


def suite_digest(folder: Path) -> str | None:
    """Return `sha256:...` over all programs below a folder (path, NUL, sha256, newline, sorted); None without any."""
    lines = sorted(
        f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in folder.rglob("*.py")
    )
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None

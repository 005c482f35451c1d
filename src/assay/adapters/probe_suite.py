"""The digest of a checkout's probe programs, the same as `probes/harness.py` computes of itself inside an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["suite_digest"]


def suite_digest(folder: Path) -> str | None:
    """Return `sha256:...` over all programs below a folder (path, NUL, sha256, newline, sorted); None without any."""
    lines = sorted(
        f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in folder.rglob("*.py")
    )
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None

"""Facts about the git repository of the recipes."""

from __future__ import annotations

from pathlib import Path

from assay.adapters.host import process
from assay.errors import ToolError

__all__ = ["revision"]


def revision(root: Path) -> str:
    """Return the commit of a checkout, with `-dirty` when it has changes; empty outside a checkout."""
    try:
        done = process.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            timeout=20,
            check=False,
        )
    except ToolError:
        return ""
    return done.text.strip() if done.returncode == 0 else ""

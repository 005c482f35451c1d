"""Facts about git repositories: the one of the recipes, and those that sources come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from assay.adapters.host import process
from assay.errors import ToolError

__all__ = ["SECONDS", "commit_in", "commit_of_tag", "revision"]

SECONDS: Final = 30.0
"""How long a repository may take to tell the commit of a tag."""
_QUIET: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true"}
"""Git asks nobody for a password: what is configured for it answers, or the repository is out of reach."""


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


def commit_of_tag(repository: str, tag: str, *, seconds: float = SECONDS) -> str:
    """Return the commit that a tag of a repository names now; a tag with a message of its own is followed.

    Args:
        repository: its address.
        tag: a name without `refs/tags/`.
        seconds: the deadline.

    Raises:
        ToolError: git is missing, or the repository could not be asked, or not in time.
        LookupError: the repository has no such tag.
    """
    name = f"refs/tags/{tag}"
    argv = ["git", "ls-remote", "--quiet", "--", repository, name, f"{name}^{{}}"]
    answer = process.run(argv, env=_QUIET, timeout=seconds, limit=1 << 16)
    if (commit := commit_in(answer.text, tag)) is None:
        raise LookupError(f"it has no tag {tag}; a branch moves, and is not taken")
    return commit


def commit_in(answer: str, tag: str) -> str | None:
    """Return the commit of a tag in what `git ls-remote` wrote, or None."""
    lines = re.finditer(r"^(?P<commit>[0-9a-f]{40})\t(?P<name>[^\n]{1,1000})$", answer, re.MULTILINE)
    found = {line["name"]: line["commit"] for line in lines}
    # The commit that an annotated tag leads to stands in a line of its own.
    return found.get(f"refs/tags/{tag}^{{}}", found.get(f"refs/tags/{tag}"))

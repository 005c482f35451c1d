"""The probe programs that are known here, by their digest: the same as `probes/harness.py` computes inside an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from assay import resources
from assay.errors import UsageError

__all__ = ["ProbeSuites", "digest_of_suite", "load_suite", "suite_in"]


class ProbeSuites:
    """Suites by digest."""

    def __init__(self, *suites: Mapping[str, bytes]) -> None:
        self._suites = {digest_of_suite(files): files for files in suites}

    def files(self, digest: str) -> Mapping[str, bytes]:
        """Return the programs of a suite: path under probes/ -> bytes.

        Raises:
            UsageError: the suite is not known here.
        """
        if digest not in self._suites:
            known = ", ".join(self._suites) or "none"
            raise UsageError(
                f"the probe suite {digest} is not here; there is {known}", hint="bring the same version of assay here"
            )
        return self._suites[digest]


def load_suite(project: Path | None = None) -> dict[str, bytes]:
    """Return the probe programs by path: the shipped ones, and a project's own in their place or beside them."""
    return {name: path.read_bytes() for name, path in resources.files("probes", project, pattern="*.py").items()}


def suite_in(folder: Path) -> dict[str, bytes]:
    """Return all programs below a folder: path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.py"))}


def digest_of_suite(files: Mapping[str, bytes]) -> str:
    """Return `sha256:...` over all programs (path, NUL, sha256, newline, sorted)."""
    lines = sorted(f"{path}\0{hashlib.sha256(data).hexdigest()}\n" for path, data in files.items())
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

"""The probe programs that are known here, by their digest: the same as `probes/harness.py` computes inside an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from assay.errors import UsageError

__all__ = ["ProbeSuites", "digest_of_suite", "find_suite", "load_suite", "suite_digest"]


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


def digest_of_suite(files: Mapping[str, bytes]) -> str:
    """Return `sha256:...` over all programs (path, NUL, sha256, newline, sorted)."""
    lines = sorted(f"{path}\0{hashlib.sha256(data).hexdigest()}\n" for path, data in files.items())
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def suite_digest(folder: Path) -> str | None:
    """Return the digest of the programs below a folder; None without any."""
    files = load_suite(folder)
    return digest_of_suite(files) if files else None

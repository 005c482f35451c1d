"""Which wheel brings which file of an image: two that bring one path with different bytes are an error. Pure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from assay.errors import WheelError
from assay.wheels.install import InstalledFile, Prefix

__all__ = ["Owners", "owned_text"]

_SHOWN = 16
"""Characters of a digest that are kept: 96 bits."""


def owned_text(files: Iterable[InstalledFile], prefix: Prefix) -> str:
    """Return what a wheel installs: a line `digest path` for each file, relative to site-packages."""
    site = f"{prefix.site_packages}/"
    up = "../" * (site.count("/"))
    return "\n".join(
        f"{file.digest[:_SHOWN]} {file.path.removeprefix(site) if file.path.startswith(site) else up + file.path}"
        for file in files
        if file.digest
    )


class Owners:
    """The wheels of one image. Several threads may use it.

    Args:
        harmless: says whether wheels may share a path, relative to site-packages, although their bytes differ.
    """

    def __init__(self, harmless: Callable[[str], bool]) -> None:
        self._harmless = harmless
        self._paths: dict[str, tuple[str, str]] = {}
        self._guard = threading.Lock()

    def take(self, wheel: str, owned: str) -> None:
        """Add a wheel.

        Args:
            wheel: its name and version.
            owned: what `owned_text` returned for it.

        Raises:
            WheelError: another wheel brings one of its files with different bytes; names the file and both wheels.
        """
        clashes: dict[str, list[str]] = {}
        with self._guard:
            for line in owned.split("\n"):
                digest, _, path = line.partition(" ")
                known, other = self._paths.setdefault(path, (digest, wheel))
                if known != digest and other != wheel and not self._harmless(path):
                    clashes.setdefault(other, []).append(path)
        for other, paths in clashes.items():
            # A library says more than a licence or a script.
            first = min(paths, key=lambda path: (not path.endswith(".so"), path))
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            raise WheelError(
                f"{other} and {wheel} both install {first}{more}, with different bytes",
                hint="limit the version of one in the recipe until only one brings the file; if either file will do, "
                "add the path with the reason to knowledge/shared_files.yaml",
            )

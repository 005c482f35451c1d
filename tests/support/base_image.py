"""A base of Debian's packages that tests make for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from assay.matrix.model import BootstrapBase
from assay.ports.base import BaseImage

RECIPE = BootstrapBase.model_validate(
    {
        "kind": "bootstrap",
        "distribution": "debian",
        "suite": "bookworm",
        "python": "3.11",
        "glibc": "2.36",
        "packages": ["python3"],
    }
)


class Bootstrapped(NamedTuple):
    """A base, what each of the two runs that wanted it got, and the folder they worked in."""

    base: BaseImage
    found: list[BaseImage]
    scratch: Path

"""A cell: one image at one point of the matrix, with all that decides how it is built."""

from __future__ import annotations

import re
from typing import Final, Literal

from assay.foundation.platforms import Platform
from assay.foundation.strict import Value
from assay.matrix.model import AxisValue, Expectation, Healthcheck

__all__ = ["Cell", "Excluded", "oci_tag"]

_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def oci_tag(cell_id: str) -> str:
    """Return the OCI tag of a cell id, injectively: `_` is doubled, `+` becomes `_p`, `!` becomes `_e`.

    OCI tags are `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}` (distribution-spec v1.1, "Pulling manifests"), while PEP 440
    versions may contain `+` and `!`.

    Raises:
        ValueError: the id has another character or gives more than 128.
    """
    tag = cell_id.replace("_", "__").replace("+", "_p").replace("!", "_e")
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{cell_id!r} does not fit into an image tag (128 characters of A-Z a-z 0-9 . _ -)")
    return tag


class Cell(Value):
    """One image at one point of the matrix."""

    id: str
    image: str
    engine: str
    kind: Literal["build", "external", "control"]
    point: dict[str, AxisValue] = {}
    """Axis -> value, every axis the image uses."""
    targets: tuple[str, ...]
    platform: Platform = Platform.AMD64
    """What the image runs on; `point` names it where it is not linux/amd64."""
    base: str = ""
    python: str = ""
    arch_list: str = ""
    requirements: tuple[str, ...] = ()
    """Requirements with exact versions; a nightly's stay a condition until it is locked."""
    constraints: tuple[str, ...] = ()
    """Limits on packages that others ask for."""
    forced_requirements: tuple[str, ...] = ()
    system_packages: tuple[str, ...] = ()
    env: dict[str, str] = {}
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    check_import: tuple[str, ...] = ()
    template: str = "server"
    user: str = "assay"
    as_of: str | None = None
    reference: str | None = None
    """The image of an external cell."""
    expect: Expectation | None = None
    reason: str = ""
    """Why a control exists."""

    @property
    def tag(self) -> str:
        """The cell's OCI tag."""
        return oci_tag(self.id)

    @property
    def local_reference(self) -> str:
        """The name under which the engine keeps the built image."""
        return self.reference or f"assay/{self.image}:{self.tag}"

    def value(self, axis: str) -> str | None:
        """Return the id of the cell's value on an axis."""
        found = self.point.get(axis)
        return None if found is None else found.id


class Excluded(Value):
    """A point that is not a cell, and why."""

    id: str
    image: str
    rule: str
    """Where the rule stands: `matrix.yaml requires[0]`."""
    reason: str

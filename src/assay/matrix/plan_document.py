"""What `assay plan --format json` writes. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import computed_field, field_serializer

from assay.foundation.strict import Value
from assay.matrix.cell import Cell, Excluded, oci_tag
from assay.matrix.model import AxisValue

__all__ = ["PlanDocument", "PlannedCell"]


class PlannedCell(Cell):
    """A cell; a field that is absent has its default."""

    @field_serializer("point")
    def _ids(self, point: dict[str, AxisValue]) -> dict[str, str]:
        return {axis: value.id for axis, value in point.items()}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tag(self) -> str:
        """The cell's OCI tag."""
        return oci_tag(self.id)


class PlanDocument(Value):
    """The cells of a matrix, and what is not a cell."""

    version: Literal[1]
    cells: tuple[PlannedCell, ...]
    excluded: tuple[Excluded, ...]

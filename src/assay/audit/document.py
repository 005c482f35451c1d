"""What `assay audit --format json` writes; its JSON Schema is schemas/audit.schema.json."""

from __future__ import annotations

from typing import Literal

from assay.audit.findings import AuditReport
from assay.audit.grid import Grid
from assay.foundation.strict import Value

__all__ = ["AuditDocument"]


class AuditDocument(Value):
    """All answers of one call."""

    schema_version: Literal[1] = 1
    grids: tuple[Grid, ...] = ()
    """One for each question about wheels with several torches or cards."""
    reports: tuple[AuditReport, ...] = ()
    """Everything found, a report for each cell, image, or torch and platform of a grid."""

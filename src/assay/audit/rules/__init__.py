"""The rules, one file each: a module of this package that has a `RULE` is one."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

from assay.audit.rule import AuditRule

__all__ = ["ALL", "RULES"]

ALL: Final[tuple[AuditRule, ...]] = tuple(
    sorted(
        (importlib.import_module(f"{__name__}.{module.name}").RULE for module in pkgutil.iter_modules(__path__)),
        key=lambda rule: rule.order,
    )
)
RULES: Final[dict[str, str]] = {rule.id: rule.text for rule in ALL}
"""The rules; the reasons for each are in docs/reference/audit-rules.md."""

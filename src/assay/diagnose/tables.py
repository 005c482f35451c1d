"""Tables of the library of known failures: rows that share one form, made into entries.

A file of knowledge/failures/ that is a mapping and not a list is a table. There is one so far, NVIDIA's Xid numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["TableError", "expand"]

_OTHERS: Final = ("Xid 79 is what NVIDIA calls a GPU that has fallen off the bus", "nvidia-smi: 0 Xid events")


class TableError(ValueError):
    """A table is not of the form that is described at its head."""


def expand(table: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the entries of a table, in the order of its rows, as a file of entries would have them.

    Raises:
        TableError: the table is not known, or a row is not as its head says.
    """
    if table.get("table") != "xid":
        raise TableError(f"the table {table.get('table')!r} is not known; this release reads the table xid")
    groups, rows, more = table.get("groups"), table.get("rows"), table.get("more", {})
    if not isinstance(groups, Mapping) or not isinstance(rows, list) or not isinstance(more, Mapping):
        raise TableError("a table has groups (a mapping), rows (a list) and, if need be, more (a mapping)")
    numbers = {row[0] for row in rows if isinstance(row, list) and row}
    if unknown := sorted(set(more) - numbers):
        raise TableError(f"more names {', '.join(map(str, unknown))}, of which there is no row")
    return [_xid(table, groups, row, more) for row in rows]


def _xid(
    table: Mapping[str, object], groups: Mapping[str, object], row: object, more: Mapping[str, object]
) -> dict[str, object]:
    if not isinstance(row, list) or not 3 <= len(row) <= 4:
        raise TableError(f"the row {row!r} is not [number, group, name, meaning]")
    number, group, name = (str(part) for part in row[:3])
    of_group, own = groups.get(group), more.get(number, {})
    if not number.isdecimal() or not isinstance(of_group, Mapping) or not isinstance(own, Mapping):
        raise TableError(f"the row of {number} needs a number and one of the groups {', '.join(map(str, groups))}")
    means = str(row[3]) if len(row) > 3 else "no meaning for current GPUs"
    entry = {
        "id": f"xid-{number}",
        "stage": table.get("stage"),
        "signatures": [
            {"anchors": [f"): {number},"], "regex": rf"\bXid \([^)\n]{{4,40}}\): {number},"},
            {"anchors": [f"Xid={number} on "], "regex": rf"XidCriticalError: Xid={number} on "},
        ],
        "cause": f"The NVIDIA driver reports Xid {number} ({name}): {means}.",
        "axes": ["driver"],
        "date": table.get("date"),
        "evidence": table.get("evidence", ""),
        "examples": [
            f"kernel: NVRM: Xid (PCI:0000:3b:00): {number}, pid=4242, name=python3, {means}",
            f"I1130 08:00:01.0 1 health.go:170] XidCriticalError: Xid={number} on Device=GPU-0; it will go unhealthy.",
        ],
        "near_misses": [
            f"kernel: nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): {number}, Non-fatal, Link 24",
            *_OTHERS,
        ],
    }
    entry |= {key: value for key, value in of_group.items() if isinstance(key, str)}
    entry |= {key: value for key, value in own.items() if key in {"fix", "evidence"}}
    for key in ("sources", "examples"):
        common = table.get("sources") if key == "sources" else entry["examples"]
        entry[key] = [*_strings(common), *_strings(own.get(key))]
    return entry


def _strings(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []

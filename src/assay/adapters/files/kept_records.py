"""Records with their exact bytes, each checked against the digest in its file's name: an edited record is found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from assay.adapters.files.regular import read_regular
from assay.errors import StoreError
from assay.evidence.record import AnyRecord, KeptRecord, is_named_after, parse

__all__ = ["KeptRecords", "intact_records", "is_intact"]


class KeptRecords:
    """The local and the committed records of a checkout, read again on each call.

    Args:
        root: the checkout; records are in build_logs/records/ and below docs/records/.
    """

    def __init__(self, root: Path) -> None:
        self._folders = (root / "build_logs" / "records", root / "docs" / "records")

    def __iter__(self) -> Iterator[KeptRecord]:
        """Yield every record that can be read, oldest first; the same bytes under the same name count once."""
        paths = sorted((path.name, path) for folder in self._folders for path in folder.rglob("*.json"))
        seen: set[tuple[str, bytes]] = set()
        for name, path in paths:
            try:
                raw = read_regular(path)
                record = parse(raw, source=name)
            except (OSError, StoreError):
                continue
            if (name, raw) not in seen:
                seen.add((name, raw))
                yield KeptRecord(record=record, raw=raw, name=name, intact=is_intact(path, raw))


def intact_records(root: Path) -> list[AnyRecord]:
    """Return the unedited records of a checkout, oldest first."""
    return [kept.record for kept in KeptRecords(root) if kept.intact]


def is_intact(path: Path, raw: bytes) -> bool:
    """Whether a record's bytes are those that its file was named after."""
    return is_named_after(path.name, raw)

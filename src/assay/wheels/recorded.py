"""What a wheel's RECORD says of its files."""

from __future__ import annotations

import base64
import csv
import posixpath
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from assay.wheels.facts import installed_path

__all__ = ["RecordLine", "files_by_folder", "hex_digest", "read_record"]

FILE_DIGEST: Final = 12
"""Characters of a file's sha256 in base64 (72 bits) that are kept to tell whether two wheels bring the same file."""
_SHA256: Final = re.compile(r"sha256=([A-Za-z0-9_-]{43})")
_SIZE: Final = re.compile(r"[0-9]{1,15}")


class RecordLine(NamedTuple):
    """What RECORD says of a file."""

    digest: str
    """Its sha256 in base64 without padding."""
    size: int | None


def read_record(record: str) -> dict[str, RecordLine]:
    """Return path -> what a RECORD says of the file, for those that it has a sha256 for."""
    found: dict[str, RecordLine] = {}
    with suppress(csv.Error):
        for row in csv.reader(record.splitlines()):
            if len(row) >= 2 and (match := _SHA256.fullmatch(row[1])):
                size = row[2] if len(row) > 2 else ""
                found[row[0]] = RecordLine(match[1], int(size) if _SIZE.fullmatch(size) else None)
    return found


def hex_digest(digest: str) -> str:
    """Return a sha256 that is spelled in base64 in hexadecimal digits."""
    return base64.urlsafe_b64decode(digest + "=").hex()


def files_by_folder(recorded: Mapping[str, RecordLine]) -> dict[str, str]:
    """Return folder -> lines of the files that a wheel puts there; see `WheelFacts.files`."""
    folders: dict[str, list[str]] = {}
    for path, (digest, _) in recorded.items():
        folder, _, name = installed_path(posixpath.normpath(path)).rpartition("/")
        if not folder.partition("/")[0].endswith(".dist-info") and "\n" not in name:
            folders.setdefault(folder or ".", []).append(f"{name} {digest[:FILE_DIGEST]}")
    return {folder: "\n".join(sorted(lines)) for folder, lines in sorted(folders.items())}

"""Reads files that others may have put there: regular files alone, and never more than a bound."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from assay.errors import ConfigError, Problem, StoreError

__all__ = ["MOST", "file_below", "read_config", "read_regular"]

MOST: Final = 64 << 20
"""Bytes of a record or document; the largest that assay wrote has some 2 MB."""
_CONFIG: Final = 8 << 20
"""Bytes of a text of a project; what reads it has narrower bounds."""


def read_config(path: Path, *, name: str | None = None) -> str:
    """Return a text that a person keeps: configuration, a lock, a template, knowledge.

    Args:
        path: the file.
        name: what it is called in a message; None: its path.

    Raises:
        ConfigError: it is missing, no regular file, too large, or not UTF-8.
    """
    name = name or str(path)
    try:
        return read_regular(path, limit=_CONFIG).decode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        wrong = f"not UTF-8: byte 0x{error.object[error.start]:02x}"
        raise ConfigError([Problem(file=name, line=line, column=column, message=wrong)]) from error
    except OSError as error:
        raise ConfigError([Problem(file=name, message=f"cannot be read: {error.strerror}")]) from error
    except StoreError as error:
        raise ConfigError([Problem(file=name, message=error.message.removeprefix(f"{path} "))]) from error


def file_below(root: Path, relative: str) -> Path | None:
    """Return a regular file below a folder; None for anything else that a record may name as its log."""
    try:
        path = root / relative
        return path if path.is_file() and path.resolve().is_relative_to(root.resolve()) else None
    except (OSError, ValueError, RuntimeError):
        # Too long, a NUL in it, a link to itself.
        return None


def read_regular(path: Path, *, limit: int = MOST) -> bytes:
    """Return the bytes of a regular file.

    A pipe or a device among records would never end, so it is not waited for.

    Raises:
        StoreError: it is something else, or has more bytes than the limit.
        OSError: it is missing or cannot be read.
    """
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise StoreError(f"{path} has more than {limit >> 20} MiB, and is not read")
    return data

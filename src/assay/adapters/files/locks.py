"""Locks as files: held by the kernel as long as a process lives, so that none is left behind.

Not `filelock`: it opens a lock for writing, which Linux refuses for the files of others in a folder that all can write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.errors import StoreError

__all__ = ["locked", "no_space"]


def no_space(error: OSError) -> str | None:
    """Return what to do about a full disk, if that is what the error is."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return "free some disk space, then run again; nothing was lost" if full else None


@contextmanager
def locked(path: Path, *, for_everyone: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file, made if need be; False while another holds it.

    Args:
        wait: wait until nobody else holds it.
        for_everyone: users share the file and its folder, whoever made them.

    Raises:
        StoreError: it cannot be made or opened.
    """
    try:
        handle = _opened(path, for_everyone=for_everyone)
    except OSError as error:
        hint = no_space(error)
        if hint is None and for_everyone:
            hint = f"let its owner run `chmod 1777 {path.parent}`, or set TMPDIR to another folder"
        raise StoreError(f"{path.parent} cannot be written: {error.strerror}", hint=hint) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def _opened(path: Path, *, for_everyone: bool) -> int:
    if not for_everyone:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        path.parent.mkdir(parents=True)
    except FileExistsError:
        pass
    else:
        # A mode given to mkdir or open is cut down by the umask.
        path.parent.chmod(0o1777)
    try:
        # To be locked a file need not be writable; and where O_CREAT is given, Linux refuses those of others in a
        # folder that all can write (fs.protected_regular).
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_CREAT | os.O_RDONLY, 0o644)
        os.fchmod(handle, 0o644)
        return handle

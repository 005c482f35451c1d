"""`lock.txt`: a lock as a requirements file that pip and uv install with `--require-hashes`. Pure.

The header holds what the lock was made from, one `# key: value` a line; every other line is one exact file:

    torch==2.8.0 --hash=sha256:<hex>  # torch-2.8.0-cp311-cp311-manylinux_2_28_x86_64.whl 888081234 pypi
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from assay.errors import ConfigError, Problem
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.foundation.printable import is_printable
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedSource, LockedWheel
from assay.matrix.model import SourceTree

__all__ = ["dump", "lock_digest", "parse", "platform_of", "stale_reason", "unpinned", "wanted"]

_TITLE: Final = "# assay lock, format 1. Made by `assay lock`; change the recipe, not this file."
_FIELDS: Final = frozenset({"cell", "python", "platform", "base", "as-of"})
_LINE: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})"
    r"  # (?P<filename>\S+) (?P<size>[0-9]{1,15}|-) (?P<index>\S+)"
)
# What uv takes as a Linux platform; a base with another glibc resolves for the nearest older one.
_UV_GLIBC: Final = (17, 28, *range(31, 41))


def platform_of(glibc: str, platform: Platform = Platform.AMD64) -> str:
    """Return what uv calls Linux with this glibc on a platform: `x86_64-manylinux_2_36`."""
    minor = int(glibc.split(".")[1])
    return f"{platform.machine}-manylinux_2_{max(known for known in _UV_GLIBC if known <= max(minor, 17))}"


def dump(lock: Lock) -> str:
    """Return the text of a lock.txt; equal locks give equal text."""
    head = [_TITLE, f"# cell: {lock.cell}", f"# python: {lock.python}", f"# platform: {lock.platform}"]
    head.append(f"# base: {lock.base}" + (f"@{lock.base_digest}" if lock.base_digest else ""))
    if lock.as_of:
        head.append(f"# as-of: {lock.as_of}")
    head += [f"# require: {requirement}" for requirement in lock.requirements]
    head += [f"# constrain: {constraint}" for constraint in lock.constraints]
    head += [f"# nightly: {name} {date}" for name, date in sorted(lock.nightlies.items())]
    head += [f"# source: {name} {source.ref} {source.commit}" for name, source in sorted(lock.sources.items())]
    return "\n".join([*head, *[wheel.line for wheel in lock.ordered]]) + "\n"


def parse(text: str, *, file: str) -> Lock:
    """Read a lock.txt.

    Raises:
        ConfigError: a line is not what `dump` writes; names file and line.
    """
    fields: dict[str, str] = {}
    many: dict[str, list[str]] = {"require": [], "constrain": [], "nightly": [], "source": []}
    wheels: list[LockedWheel] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        if not is_printable(line) or "\t" in line:
            raise _problem(file, number, "a lock has no control characters; run `assay lock --refresh` for the cell")
        if number == 1:
            if line != _TITLE:
                raise _problem(file, 1, "not a lock of this format; run `assay lock --refresh` for the cell")
        elif line.startswith("# "):
            key, _, value = line[2:].partition(": ")
            if key in many:
                many[key].append(value)
            elif key not in _FIELDS or key in fields:
                raise _problem(file, number, f"{key[:40]!r} is not a line of a lock's header, or occurs twice")
            else:
                fields[key] = value
        elif line.strip():
            try:
                wheels.append(_wheel(line))
            except ValidationError as error:
                raise _problem(file, number, f"not a line of a lock: {error.errors()[0]['msg']}") from error
            except ValueError as error:
                raise _problem(file, number, f"not a line of a lock: {line[:80]!r}") from error
    base, _, digest = fields.get("base", "").partition("@")
    try:
        return Lock(
            cell=fields.get("cell", ""),
            python=fields.get("python", ""),
            platform=fields.get("platform", ""),
            base=base,
            base_digest=digest or None,
            as_of=fields.get("as-of"),
            requirements=tuple(many["require"]),
            constraints=tuple(many["constrain"]),
            nightlies={name: date for name, _, date in (text.partition(" ") for text in many["nightly"])},
            sources=_sources(many["source"]),
            wheels=tuple(wheels),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = str(first["loc"][0]) if first["loc"] else "header"
        raise _problem(file, 0, f"{where}: {first['msg']}; run `assay lock --refresh` for the cell") from error


def _sources(texts: Sequence[str]) -> dict[str, LockedSource]:
    found: dict[str, LockedSource] = {}
    for text in texts:
        name, _, rest = text.partition(" ")
        ref, _, commit = rest.partition(" ")
        found[name] = LockedSource(ref=ref, commit=commit)
    return found


# The locks of a matrix have most of their lines in common.
@lru_cache(maxsize=1 << 14)
def _wheel(line: str) -> LockedWheel:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(line)
    size = None if match["size"] == "-" else int(match["size"])
    return LockedWheel(**(match.groupdict() | {"size": size}))


def _problem(file: str, line: int, message: str) -> ConfigError:
    return ConfigError([Problem(file=file, line=line, column=1 if line else 0, message=message)])


def lock_digest(lock: Lock) -> str:
    """Return the digest of a lock: of the bytes of its file."""
    return sha256_of(dump(lock).encode())


def wanted(cell: Cell) -> tuple[str, ...]:
    """Return what a lock of this cell has to answer: requirements, and forced ones marked with `!`."""
    return (*cell.requirements, *(f"!{requirement}" for requirement in cell.forced_requirements))


def _tags(cell: Cell) -> dict[str, SourceTree]:
    """Return the sources of a cell that a tag names: distribution -> source."""
    return {
        canonicalize_name(axis): value.source
        for axis, value in cell.point.items()
        if value.source is not None and not value.source.is_commit
    }


def unpinned(cell: Cell, lock: Lock | None = None) -> dict[str, SourceTree]:
    """Return the sources of a cell whose commit neither the recipe nor a lock names in full: distribution -> source."""
    known = {} if lock is None else lock.sources
    return {name: tree for name, tree in _tags(cell).items() if not tree.is_pinned and name not in known}


def _other_source(lock: Lock, cell: Cell) -> str | None:
    """Return which source of a lock is not the recipe's."""
    trees = _tags(cell)
    for name, locked in lock.sources.items():
        tree = trees.get(name)
        if tree is None or tree.ref != locked.ref:
            want = "not a tag" if tree is None else f"the tag {tree.ref}"
            return f"the source of {name} is {want}, the lock was made for {locked.ref}"
        if tree.commit is not None and not locked.commit.startswith(tree.commit):
            return f"the source of {name} is the commit {tree.commit}, the lock was made for {locked.commit}"
    return None


def stale_reason(lock: Lock, cell: Cell, *, glibc: str, pulled: bool = True) -> str | None:
    """Return why a lock no longer matches its cell, or None if it does.

    Args:
        lock: the lock.
        cell: the cell whose folder it lies in.
        glibc: of the cell's base.
        pulled: whether the base comes from a registry, by its digest; a base that is made here has none.
    """
    if lock.base_digest is not None and not pulled:
        return f"the base {cell.base} is made here and has no digest, the lock names one"
    for what, have, want in (
        ("the cell is", lock.cell, cell.id),
        ("the requirements are", lock.requirements, wanted(cell)),
        ("the constraints are", lock.constraints, cell.constraints),
        ("Python is", lock.python, cell.python),
        ("the base is", lock.base, cell.base),
        ("the platform is", lock.platform, platform_of(glibc, cell.platform)),
        ("as_of is", lock.as_of, cell.as_of),
    ):
        if have != want:
            if isinstance(want, tuple) and isinstance(have, tuple):
                changed = [f"+ {item}" for item in want if item not in have]
                changed += [f"- {item}" for item in have if item not in want]
                return f"{what} different: {', '.join(changed) or 'another order'}"
            return f"{what} {want or 'not set'}, the lock was made for {have or 'none'}"
    return _other_source(lock, cell)

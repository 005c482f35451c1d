"""Wheels that a command is given: a file, an address, or NAME==VERSION on the package index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.audit.installation import Base
    from assay.matrix.model import Matrix
    from assay.pipeline.audit import Auditor
    from assay.ports.index import IndexFile, PackageIndex

__all__ = ["base_named", "index_option", "wheel_of"]

index_option = click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="URL|FOLDER",
    help="Package index (simple API) or folder of wheels that is searched before the default index.",
)


def wheel_of(word: str, python: str | None, index: PackageIndex, machine: str = "x86_64") -> IndexFile:
    """Return the wheel a word means.

    Args:
        word: a file, an address or a requirement.
        python: `3.12`; None: 3.12 where there is a wheel for it, else the newest there is one for.
        index: where requirements are looked up.
        machine: `x86_64` or `aarch64`.

    Raises:
        UsageError: it means none.
        PackageIndexError: the index does not have it.
    """
    from urllib.parse import urlsplit

    from assay.cli.index_composition import wheel_here
    from assay.pipeline.wheel_choice import choose_wheel, is_wheel, project_of, wheel_at

    if not is_wheel(word):
        return choose_wheel(word, python, index, machine)
    if urlsplit(word).scheme in {"http", "https"}:
        return wheel_at(word)
    path = Path(word)
    project = project_of(word, path.name)
    if not path.is_file():
        raise UsageError(f"{word} is not there", hint="a wheel on the package index is named NAME==VERSION")
    return wheel_here(path, project)


def base_named(name: str | None, packages: Sequence[str], matrix: Matrix | None, auditor: Auditor) -> Base:
    """Return what a base offers: one of matrix.yaml, a distribution (`debian12`), or, without a name, nothing known.

    Raises:
        UsageError: nothing of that name is known.
    """
    from assay.audit.installation import Base
    from assay.pipeline.bases import base_of

    if name is not None and matrix is not None and name in matrix.bases:
        return base_of(matrix.bases[name], name, packages, auditor.knowledge)
    sonames = auditor.knowledge.sonames
    brought = {soname for package in packages for soname in sonames.packages.get(package, ())}
    always = frozenset({*sonames.optional_base, *brought})
    if name is None:
        return Base(name="not given", sonames=always, packages=frozenset(packages), known=False)
    facts = sonames.bases.get(name) or auditor.knowledge.base(name)
    if facts is None:
        raise UsageError(f"base {name!r} is unknown", hint=f"known: {', '.join(sonames.bases)}")
    return Base(
        name=name,
        glibc=facts.glibc,
        glibcxx=facts.glibcxx,
        cxxabi=facts.cxxabi,
        sonames=always,
        packages=frozenset(packages),
    )

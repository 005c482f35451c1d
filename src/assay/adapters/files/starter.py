"""Writes a new project: the skeleton that ships with assay, with the committed locks of its cells."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from assay import __version__, resources
from assay.adapters.files.project import ProjectFiles
from assay.errors import StoreError, UsageError
from assay.matrix import plan as planning
from assay.matrix.plan import Plan

__all__ = ["lay_down"]

_IMAGES: Final = "images/"
_TEMPLATE: Final = ".j2"

Generate = Callable[[ProjectFiles, Plan], object]
"""Writes what follows from recipes, locks and templates."""


def lay_down(folder: Path, images: Sequence[str], generate: Generate) -> list[str]:
    """Write a project with these images into a folder, all of it or nothing; return its files.

    Raises:
        UsageError: the folder has files of the same names.
        StoreError: something cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="assay-init-") as name:
        draft = Path(name)
        _write(draft, images, generate)
        texts = {path.relative_to(draft): path.read_bytes() for path in sorted(draft.rglob("*")) if path.is_file()}
    if there := [str(path) for path in texts if os.path.lexists(folder / path)]:
        raise UsageError(
            "\n".join([f"nothing was written: {folder.resolve()} already has", *(f"  {path}" for path in there)]),
            hint="name another folder, or move these files away",
        )
    try:
        _copy(texts, folder)
    except OSError as error:
        raise StoreError(f"no project was written to {folder}: {error.strerror}: {error.filename}") from error
    return [str(path) for path in texts]


def _write(draft: Path, images: Sequence[str], generate: Generate) -> None:
    files = ProjectFiles(draft)
    render = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - YAML
    for name, path in resources.files("project").items():
        if name.startswith(_IMAGES) and name.split("/")[1] not in images:
            continue
        text = path.read_text(encoding="utf-8")
        if name.endswith(_TEMPLATE):
            text = render.from_string(text).render(images=images)
        files.write(name.removesuffix(_TEMPLATE).replace("dot-", ".", 1), text)
    files.write("requirements.txt", f"assay-images=={__version__}\n")
    plan = planning.make(files.load())
    for cell in plan.cells:
        name = f"{cell.image}/cells/{cell.id}/lock.txt"
        files.write(_IMAGES + name, resources.find("images", name).read_text(encoding="utf-8"))
    generate(files, plan)


def _copy(texts: Mapping[Path, bytes], folder: Path) -> None:
    """Write files that must not exist; where one cannot be written, take back those before it."""
    files: list[Path] = []
    folders: list[Path] = []
    try:
        for path, data in texts.items():
            target = folder / path
            folders += [parent for parent in target.parents if not parent.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                files.append(target)
                file.write(data)
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        for path in sorted(set(folders), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise

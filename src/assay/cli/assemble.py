"""`assay assemble`: make images from wheels without a build, in a folder, a registry or the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import console
from assay.cli.common import format_option, load, platform_option, project_option, select_argument
from assay.errors import AssayError, NothingSelected, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.pipeline.assembly.assemble import Assembler
    from assay.pipeline.assembly.assembled import Assembled
    from assay.pipeline.assembly.destinations import Destination
    from assay.pipeline.documents import AssembledCell, UnassembledCell

__all__ = ["command"]


@click.command("assemble")
@select_argument
@project_option
@platform_option
@format_option("text", "json")
@click.option("--output", metavar="oci:DIR", help="Write an OCI layout to a folder.")
@click.option("--push", "repository", metavar="REPOSITORY", help="Upload to a registry, each cell under its tag.")
@click.option("--load", "into_engine", is_flag=True, help="Load into the local engine.")
@click.option("--layers", type=click.Path(path_type=Path), default=None, help="Folder of layers [env: ASSAY_LAYERS].")
def command(
    select: tuple[str, ...],
    project: Path | None,
    platform: tuple[str, ...],
    form: str,
    *,
    output: str | None,
    repository: str | None,
    into_engine: bool,
    layers: Path | None,
) -> int:
    """Assemble images from their wheels, without a build. Without SELECT, the default group of matrix.yaml.

    Every wheel of the lock becomes a layer, or part of one, that is the same on every machine. Layers are cached.
    Without a destination, only the layers are made and the digests are printed. `assay build` also audits, keeps logs
    and records, and builds what cannot be assembled.
    """
    from assay.cli.build_route import BuildRoute
    from assay.cli.composition import assembler_of, destination_of, engine, layer_store
    from assay.pipeline.documents import AssembleDocument, UnassembledCell

    routes = [BuildRoute(push=repository)] if repository else []
    routes += [BuildRoute(output=output)] if output else []
    routes += [BuildRoute()] if into_engine else []
    files, plan = load(project)
    cells = [cell for cell in plan.select((*select, *platform), default=True) if cell.kind != "external"]
    if not cells:
        raise NothingSelected("no cell is selected", hint="`assay plan` lists them")
    images, store = engine(), layer_store(layers)
    destinations = [destination_of(route, store, images) for route in routes]
    assembler = replace(assembler_of(plan.project.matrix, store, images, files.root), say=console.say)
    work = _Cells(files, plan, assembler, destinations)
    results = [work.one(cell) for cell in cells]
    if form == "json":
        console.document(AssembleDocument(images=tuple(results)))
    return 1 if any(isinstance(result, UnassembledCell) for result in results) else 0


class _Cells:
    def __init__(
        self, files: ProjectFiles, plan: Plan, assembler: Assembler, destinations: Sequence[Destination]
    ) -> None:
        from assay.cli.composition import renderer

        self._files = files
        self._render = renderer(files, plan.project.matrix)
        self._assembler = assembler
        self._destinations = destinations

    def one(self, cell: Cell) -> AssembledCell | UnassembledCell:
        """Assemble a cell and send it where it goes; an error of one cell does not stop the others."""
        from assay.pipeline.documents import AssembledCell, UnassembledCell

        begun = time.monotonic()
        try:
            image = self._assemble(cell)
            for destination in self._destinations:
                name = destination.name(cell)
                destination.take(image.manifest, image.config, name, say=console.say, check=lambda: None)
        except AssayError as error:
            console.fail(f"{cell.id}: {error.message}", hint=error.hint)
            return UnassembledCell(cell=cell.id, error=error.message)
        made = [layer for layer in image.layers if layer.new]
        seconds = time.monotonic() - begun
        size = image.manifest.image_bytes / 1e9
        console.say(f"{cell.id}: {image.manifest.digest}")
        console.say(f"  {size:.2f} GB in {len(image.layers)} layers, {len(made)} of them new, {seconds:.1f} s")
        return AssembledCell(
            cell=cell.id,
            digest=image.manifest.digest,
            bytes=image.manifest.image_bytes,
            layers=tuple(layer.stored.layer.digest for layer in image.layers),
            new_layers=len(made),
            seconds=round(seconds, 1),
        )

    def _assemble(self, cell: Cell) -> Assembled:
        from assay.matrix import render
        from assay.pipeline.build_jobs import build_labels

        lock = self._files.lock(cell)
        if lock is None:
            raise UsageError(f"{cell.id} has no lock", hint=f"assay lock {cell.id}")
        text = self._render(cell, lock)
        return self._assembler.assemble(text, build_labels(render.content_key(text)))

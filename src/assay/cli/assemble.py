"""`assay assemble`: make images from wheels without a build, in a folder, a registry or the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import console
from assay.cli.common import format_option, load, project_option, select_argument
from assay.errors import AssayError, NothingSelected, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.cli.composition import AssemblyTools
    from assay.evidence.reference import Repository
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.pipeline.assembly.assemble import Assembled

__all__ = ["command"]


@click.command("assemble")
@select_argument
@project_option
@format_option("text", "json")
@click.option("--output", metavar="oci:DIR", help="Write an OCI layout to a folder.")
@click.option("--push", "repository", metavar="REPOSITORY", help="Upload to a registry, each cell under its id as tag.")
@click.option("--load", "into_engine", is_flag=True, help="Load into the local engine.")
@click.option("--layers", type=click.Path(path_type=Path), default=None, help="Folder of layers [env: ASSAY_LAYERS].")
def command(
    select: tuple[str, ...],
    project: Path | None,
    form: str,
    *,
    output: str | None,
    repository: str | None,
    into_engine: bool,
    layers: Path | None,
) -> int:
    """Assemble images from their wheels, without a build. Without SELECT, the default group of matrix.yaml.

    Every wheel of the lock becomes a layer, or part of one, that is the same on every machine. Layers are kept and
    used again. Without a destination only layers are made, and digests printed.
    """
    from assay.cli.composition import assembly_tools
    from assay.evidence.reference import Repository

    if output is not None and not output.startswith("oci:"):
        raise UsageError(f"--output {output}: only OCI layouts can be written", hint="--output oci:DIR")
    files, plan = load(project)
    cells = [cell for cell in plan.select(select, default=True) if cell.kind != "external"]
    if not cells:
        raise NothingSelected("no cell is selected", hint="`assay plan` lists them")
    work = _Cells(files, plan, assembly_tools(plan, layers))
    destination = _Destination(
        layout=Path(output.removeprefix("oci:")) if output else None,
        repository=Repository.parse(repository) if repository else None,
        engine=into_engine,
    )
    results = [work.one(cell, destination) for cell in cells]
    if form == "json":
        console.json_data({"version": 1, "images": results})
    return 1 if any(result.get("error") for result in results) else 0


@dataclass(frozen=True, kw_only=True)
class _Destination:
    layout: Path | None
    repository: Repository | None
    engine: bool


class _Cells:
    def __init__(self, files: ProjectFiles, plan: Plan, tools: AssemblyTools) -> None:
        self._files = files
        self._matrix = plan.project.matrix
        self._templates = files.templates()
        self._tools = tools

    def one(self, cell: Cell, to: _Destination) -> dict[str, Any]:
        """Assemble a cell and send it where it goes; an error of one cell does not stop the others."""
        begun = time.monotonic()
        try:
            image = self._assemble(cell)
            self._send(cell, image, to)
        except AssayError as error:
            console.fail(f"{cell.id}: {error.message}", hint=error.hint)
            return {"cell": cell.id, "error": error.message}
        made = [layer for layer in image.layers if layer.new]
        seconds = time.monotonic() - begun
        size = image.manifest.image_bytes / 1e9
        console.say(f"{cell.id}: {image.manifest.digest}")
        console.say(f"  {size:.2f} GB in {len(image.layers)} layers, {len(made)} of them new, {seconds:.1f} s")
        return {
            "cell": cell.id,
            "digest": image.manifest.digest,
            "bytes": image.manifest.image_bytes,
            "layers": [layer.stored.layer.digest for layer in image.layers],
            "new_layers": len(made),
            "seconds": round(seconds, 1),
        }

    def _assemble(self, cell: Cell) -> Assembled:
        from assay.matrix import render

        lock = self._files.lock(cell)
        if lock is None:
            raise UsageError(f"{cell.id} has no lock", hint=f"assay lock {cell.id}")
        base = self._matrix.bases[cell.base]
        text = render.dockerfile(cell, lock, base, indexes=self._matrix.indexes, templates=self._templates)
        return self._tools.assembler.assemble(text)

    def _send(self, cell: Cell, image: Assembled, to: _Destination) -> None:
        if to.layout is not None:
            self._tools.write(image, to.layout, cell.id)
        if to.repository is not None:
            self._tools.push(image, to.repository, cell.id)
        if to.engine:
            self._tools.load(image, cell.local_reference)

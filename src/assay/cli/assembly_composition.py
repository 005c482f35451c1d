"""The composition root of assembling: layers of wheels, and BuildKit for the wheels that no index has.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assay.matrix.model import Matrix

if TYPE_CHECKING:
    from assay.adapters.docker.engine import DockerEngine
    from assay.adapters.index.kept import KeptWheels
    from assay.adapters.index.simple import SimpleIndex
    from assay.adapters.layers.store import FolderStore
    from assay.pipeline.assembly.assemble import Assembler

__all__ = ["SharedWheels", "assembler_of", "wheels_of"]


@dataclass(frozen=True, kw_only=True)
class SharedWheels:
    """What an audit and an assembly share."""

    index: SimpleIndex
    """Is asked once for each list of files."""
    kept: KeptWheels
    """Has the wheels that the audit read whole."""


def assembler_of(
    matrix: Matrix, store: FolderStore, engine: DockerEngine, root: Path, wheels: SharedWheels | None = None
) -> Assembler:
    """Return what assembles images of a project's matrix.

    Args:
        matrix: of the project.
        store: of layers.
        engine: bootstraps bases, and compiles.
        root: the project.
        wheels: are those of an audit.
    """
    from assay.adapters.docker.base_archive import build_base
    from assay.adapters.docker.bootstrap import DebootstrapBases
    from assay.adapters.docker.wheel_build import WheelBuild
    from assay.adapters.files.knowledge import load_knowledge
    from assay.adapters.index.simple import SimpleIndex, WebWheels
    from assay.adapters.layers.bases import BootstrappedBases
    from assay.adapters.layers.sources import BuiltWheels
    from assay.adapters.layers.unpacked import UnpackedBases
    from assay.adapters.layers.wheels import IndexWheels
    from assay.pipeline.assembly.assemble import Assembler

    maker = DebootstrapBases(engine)
    names = {index.url: name for name, index in matrix.indexes.items() if index.url is not None}
    return Assembler(
        wheels=IndexWheels(
            wheels.index if wheels else SimpleIndex(matrix.indexes),
            WebWheels(),
            names,
            store.folder,
            here=store.wheel,
            kept=wheels.kept.take if wheels else lambda _: None,
        ),
        sources=BuiltWheels(store, WheelBuild(matrix.bases, maker), _learn),
        bases=BootstrappedBases(matrix.bases, store, maker, UnpackedBases(), build_base),
        store=store,
        # Read only where two wheels meet: it takes a tenth of a second.
        harmless=lambda path: load_knowledge(root).shared_files.allows(path),  # noqa: PLW0108
    )


def wheels_of(matrix: Matrix, folder: Path | None) -> SharedWheels:
    """Return the wheels of a matrix's indexes; those that an audit reads whole are kept in a folder, or not at all."""
    from assay.adapters.index.kept import KeptWheels
    from assay.adapters.index.simple import SimpleIndex, WebWheels

    return SharedWheels(index=SimpleIndex(matrix.indexes), kept=KeptWheels(WebWheels(), folder))


def _learn(wheel: Path) -> None:
    """Keep the facts of a wheel that was built here: no index has it, so that an audit cannot read it later."""
    from assay.adapters.files.facts_cache import FactsCache
    from assay.adapters.index.local import wheel_file
    from assay.adapters.index.simple import WebWheels
    from assay.pipeline.read_wheel import read_wheel

    name = wheel.name.partition("-")[0].lower().replace("_", "-")
    FactsCache().put(read_wheel(wheel_file(wheel, name), WebWheels()))

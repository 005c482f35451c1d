"""The base of images, built by BuildKit into an archive: that of a registry, with packages on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from assay.adapters.docker.buildx import Buildx
from assay.adapters.host import settings
from assay.errors import EngineError
from assay.evidence.reference import Reference
from assay.ports.builder import BuildEnd, BuildTask

__all__ = ["build_base"]


def build_base(dockerfile: str, archive: Path, say: Callable[[str], None]) -> None:
    """Build a base and write it as an OCI archive; it comes from the mirror that the host settings name.

    Args:
        dockerfile: begins with `ARG BASE=`.
        archive: is written; the log of the build lies beside it.
        say: is given the step that runs now.

    Raises:
        EngineError: BuildKit failed, or the registry did.
    """
    reference = Reference.parse(dockerfile.partition("\n")[0].removeprefix("ARG BASE="))
    task = BuildTask(
        dockerfile=dockerfile,
        tags=(),
        secrets=settings.secrets(),
        build_args={**settings.build_args(), "BASE": str(reference.mirrored(settings.mirrors()))},
        log=archive.with_name("base.log"),
        progress=say,
    )
    say(f"BuildKit makes the base {reference} with its packages, once")
    outcome = Buildx(archive=archive).build(task)
    if outcome.end is not BuildEnd.BUILT:
        raise EngineError(f"the base {reference} could not be built:\n{outcome.reason}")

"""One wheel, built from source by BuildKit: its files come out, and no image is made."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from assay.adapters.docker.bootstrap import DebootstrapBases
from assay.adapters.docker.buildx import Buildx
from assay.adapters.docker.retried import RetriedBuilder
from assay.adapters.host import settings
from assay.errors import AssayError, EngineError, Interrupted, RegistryError, SourceBroken
from assay.evidence.reference import Reference
from assay.foundation.platforms import Platform
from assay.matrix.model import Base, BootstrapBase
from assay.matrix.render import base_reference
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask

__all__ = ["WheelBuild"]

_BASE: Final = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)
_LOG: Final = 8 << 20
"""Bytes of a failed build's log that are kept, its end."""


class WheelBuild:
    """Builds wheels.

    Args:
        bases: those of the matrix, by name; a bootstrapped one is made in the engine if it lacks it.
        maker: makes them.
    """

    def __init__(self, bases: Mapping[str, Base], maker: DebootstrapBases) -> None:
        self._maker = maker
        self._bases = {
            base_reference(name, base, None, platform): (base, platform)
            for name, base in bases.items()
            if isinstance(base, BootstrapBase)
            for platform in Platform
        }

    def __call__(self, recipe: str, folder: Path, say: Callable[[str], None], check: Callable[[], None]) -> None:
        """Build the wheel of a recipe into a folder; see `SourceWheels.build`."""
        found = _BASE.search(recipe)
        assert found is not None
        reference, platform = found[1], Platform.AMD64
        build_args: dict[str, str | None] = {**settings.build_args()}
        if reference in self._bases:
            base, platform = self._bases[reference]
            self._maker.ensure(base, reference, progress=say, platform=platform)
        else:
            build_args["BASE"] = str(Reference.parse(reference).mirrored(settings.mirrors()))
        log = folder.with_suffix(".log")
        task = BuildTask(
            dockerfile=recipe,
            tags=(),
            secrets=settings.secrets(),
            build_args=build_args,
            platform="" if platform is Platform.AMD64 else platform,
            log=log,
            progress=say,
            stop=_Checked(check),
        )
        say("BuildKit builds a wheel from source")
        try:
            outcome = RetriedBuilder(Buildx(folder=folder)).build(task)
            check()
            _raise_for(outcome, log)
        finally:
            log.unlink(missing_ok=True)


def _raise_for(outcome: BuildOutcome, log: Path) -> None:
    match outcome.end:
        case BuildEnd.BUILT:
            return
        case BuildEnd.FAILED:
            raise SourceBroken(
                f"a wheel could not be built from source:\n{outcome.reason}",
                log=log.read_bytes()[-_LOG:].decode(errors="replace"),
            )
        case BuildEnd.STOPPED:
            raise Interrupted("stopped")
        case BuildEnd.REGISTRY:
            raise RegistryError(outcome.reason)
        case _:
            raise EngineError(f"a wheel could not be built from source: {outcome.reason}")


class _Checked(threading.Event):
    """Is set as soon as a function raises that is asked whenever somebody waits."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most so many seconds, and ask."""
        if super().wait(timeout):
            return True
        with suppress(AssayError):
            self._check()
            return False
        self.set()
        return True

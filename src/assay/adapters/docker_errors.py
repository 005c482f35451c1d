"""What the Docker SDK and its daemon raise, in the words of this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import docker.errors
import requests.exceptions

from assay.errors import EngineError, EngineMissing, GpuMissing

__all__ = ["HINT_ENGINE", "HINT_GPU", "translated"]

HINT_ENGINE: Final = (
    "`./quickstart engine` installs or starts one where that is possible; `assay doctor` says what is missing"
)
HINT_GPU: Final = (
    "`assay doctor --need gpu` says what is missing: a driver, NVIDIA's container toolkit, or a CDI description"
)
# What daemons say when a GPU cannot be given: no toolkit, no CDI description, or the toolkit's hook fails.
_GPU_WORDS: Final = (
    "could not select device driver",
    "unresolvable CDI devices",
    "CDI device injection failed",
    "nvidia-container-cli",
    "CDI is not enabled",
    "CDI support is not enabled",
    "libnvidia-ml.so.1",
)


def _raise(error: docker.errors.APIError, doing: str) -> NoReturn:
    said = str(error.explanation or error).strip()
    if any(word.lower() in said.lower() for word in _GPU_WORDS):
        raise GpuMissing(f"{doing}: the engine cannot give a GPU to a container: {said}", hint=HINT_GPU) from error
    if "no space left on device" in said.lower():
        raise EngineError(
            f"{doing}: the engine's disk is full", hint="`docker system df` shows what fills it"
        ) from error
    raise EngineError(f"{doing}: the engine says: {said}") from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the SDK raises into the project's errors; `doing` starts the message ("starting a container of x")."""
    try:
        yield
    except docker.errors.APIError as error:
        _raise(error, doing)
    except docker.errors.DockerException as error:
        raise EngineMissing(f"{doing}: no container engine answers: {error}", hint=HINT_ENGINE) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise EngineMissing(f"{doing}: the container engine went away: {error}", hint=HINT_ENGINE) from error

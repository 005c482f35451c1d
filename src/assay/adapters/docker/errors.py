"""What the Docker SDK and its daemon raise, in the words of this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import docker.errors
import requests.exceptions

from assay.errors import EngineError, EngineMissing, GpuMissing, RegistryError

__all__ = ["HINT_ENGINE", "HINT_GPU", "HINT_REGISTRY", "transfer_failed", "translated"]

HINT_ENGINE: Final = "`./quickstart engine` installs or starts one if possible; `assay doctor` shows what is missing"
HINT_BUSY: Final = "it is busy or stuck: `docker info` and its log tell; then run again, what was done is kept"
HINT_GROUP: Final = (
    "`usermod -aG docker USER` as root and a new login let USER use this engine, which is as good as being root; "
    "`./quickstart engine` does that"
)
HINT_GPU: Final = (
    "`assay doctor --need gpu` shows what is missing: a driver, NVIDIA's container toolkit, or a CDI description"
)
HINT_REGISTRY: Final = "`docker login` stores credentials; `assay doctor` shows which are found"
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
    if _full(said):
        raise _disk_full(doing) from error
    raise EngineError(f"{doing}: the engine says: {said}") from error


def _full(said: str) -> bool:
    return "no space left on device" in said.lower()


def _disk_full(doing: str) -> EngineError:
    return EngineError(f"{doing}: the engine's disk is full", hint="`docker system df` shows what fills it")


def transfer_failed(doing: str, said: str) -> EngineError | RegistryError:
    """Return the error of a pull or push: the registry's, unless the engine's own disk is full."""
    if _full(said):
        return _disk_full(doing)
    return RegistryError(f"{doing} failed: {said}", hint=HINT_REGISTRY)


def _plainly(error: BaseException) -> tuple[str, bool]:
    """Return the system's words at the bottom of what was raised, and whether it is about permission.

    The SDK, requests and urllib3 wrap an OSError in each other's reprs.
    """
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 50:
        item = waiting.pop(0)
        if id(item) in seen or not isinstance(item, BaseException):
            continue
        seen.add(id(item))
        if isinstance(item, OSError) and item.strerror and item.errno is not None:
            return item.strerror, isinstance(item, PermissionError)
        waiting += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return str(error), False


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the SDK raises into the project's errors; `doing` starts the message ("starting a container of x")."""
    try:
        yield
    except docker.errors.APIError as error:
        _raise(error, doing)
    except docker.errors.DockerException as error:
        raise _missing(f"{doing}: no container engine answers", error) from error
    except requests.exceptions.ReadTimeout as error:
        raise EngineMissing(f"{doing}: the container engine takes too long to answer", hint=HINT_BUSY) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise _missing(f"{doing}: the container engine went away", error) from error


def _missing(words: str, error: Exception) -> EngineMissing:
    plain, permission = _plainly(error)
    return EngineMissing(f"{words}: {plain}", hint=HINT_GROUP if permission else HINT_ENGINE)

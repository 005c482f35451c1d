"""This machine: programs, GPUs, disk and credentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Credential", "Host", "HostGpu"]


@dataclass(frozen=True, kw_only=True)
class HostGpu:
    """A GPU as the driver on this machine names it."""

    name: str
    capability: str
    """Compute capability, `12.0`; empty if the driver is too old to say."""
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A registry for which the Docker configuration names credentials; never the credentials themselves."""

    registry: str
    source: str
    """`config.json` or the helper program's name."""
    problem: str = ""
    """Why it will not work, if that can be seen."""


class Host(Protocol):
    """What can be found out about this machine without changing it."""

    def kernel(self) -> str:
        """Return the kernel's version."""
        ...

    def gpus(self) -> Sequence[HostGpu]:
        """Return the GPUs that the NVIDIA driver shows; none without a driver."""
        ...

    def gpu_devices(self) -> Sequence[str]:
        """Return the GPU device files in /dev: there may be some where `nvidia-smi` is missing."""
        ...

    def toolkit(self) -> str | None:
        """Return the version of NVIDIA's container toolkit, or None."""
        ...

    def free_bytes(self, folder: str) -> int | None:
        """Return the free space where a folder is; None if it cannot be seen from here."""
        ...

    def uv(self) -> str | None:
        """Return uv's version, or None."""
        ...

    def bootstrap_missing(self) -> Sequence[str]:
        """Return what making a base from packages needs and this machine lacks."""
        ...

    def credentials(self) -> Sequence[Credential]:
        """Return the registries with credentials.

        Raises:
            RegistryError: the Docker configuration cannot be read.
        """
        ...

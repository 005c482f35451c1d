"""The composition root of this machine: its GPUs, ports and executors.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.ports.host import HostGpu

__all__ = ["executor_names", "host_gpus", "port_for"]


def executor_names() -> list[str]:
    """Return the names of the executors, the usual one first."""
    from assay.adapters.executors.table import EXECUTORS

    return list(EXECUTORS)


def host_gpus() -> Sequence[HostGpu]:
    """Return the GPUs that the driver of this machine shows, one by one."""
    from assay.adapters.host.info import LocalHost

    return [one for one in LocalHost().gpus() if one.capability]


def port_for(asked: int | None, usual: int) -> int:
    """Return the port that was asked for, else the usual one, else a free one."""
    from assay.adapters.executors.this_machine import free_port, port_taken

    return asked or (free_port() if port_taken(usual) else usual)

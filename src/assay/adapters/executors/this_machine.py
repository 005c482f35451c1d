"""GPUs and ports of this machine."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Collection, Iterable
from typing import Final

from assay.adapters.host import process
from assay.errors import EngineError, ToolError

__all__ = [
    "ADDRESS",
    "HINT_ELSEWHERE",
    "cuda_devices_in_child",
    "free_port",
    "gpu_memory_bytes",
    "need_free_port",
    "port_taken",
    "visible_gpus",
]

ADDRESS: Final = "127.0.0.1"
HINT_ELSEWHERE: Final = "run assay on that machine; `ssh -L 8000:127.0.0.1:8000 HOST` brings the port of a server here"
"""For a server that would run where the container engine is, and not here."""

_DEVICES: Final = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    print(0, "the NVIDIA driver's libcuda.so.1 is not found on this machine")
else:
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    told = f"the driver is there but answers with error {status} (user and kernel part of two versions?)"
    print(count.value, told if status else "" if count.value else "the driver shows no GPU")
"""


def cuda_devices_in_child() -> tuple[tuple[str, ...], str]:
    """Return the names of the GPUs that the driver of this machine shows, and why there are none.

    Asked in a child: a CUDA context of ours would cost memory on the card, and a driver can crash.
    """
    done = process.run([sys.executable, "-c", _DEVICES], timeout=60, check=False)
    count, _, why = done.text.strip().partition(" ")
    return (visible_gpus(int(count)), why) if count.isdigit() else ((), "asking the driver ended the process")


def visible_gpus(count: int) -> tuple[str, ...]:
    """Return the names of the GPUs that a user leaves to us: those in CUDA_VISIBLE_DEVICES, or all `count` by index."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return tuple(name for name in named if name)[:count] or tuple(str(index) for index in range(count))


def gpu_memory_bytes(uuids: Collection[str] = ()) -> int | None:
    """Return the memory in use on GPUs of this machine, from nvidia-smi; on the first without `uuids`."""
    asked = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    try:
        rows = [line.partition(", ") for line in process.run(asked, timeout=20).text.splitlines() if line.strip()]
        used = {uuid.strip(): int(mebibytes) << 20 for uuid, _, mebibytes in rows}
    except (ToolError, ValueError):
        return None
    mine = [used[uuid] for uuid in uuids if uuid in used] or list(used.values())[:1]
    return sum(mine) if mine else None


def port_taken(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return True
        return False


def free_port(beside: Iterable[int] = ()) -> int:
    """Return a free port whose neighbours at the distances `beside` are free too.

    It is lower than the ports that the system chooses by itself, and leaves room for some 30,000 above it.
    """
    for port in random.sample(range(20_000, 30_000), 200):
        if not any(port_taken(port + distance) for distance in (0, *beside)):
            return port
    raise ToolError("no free port was found between 20000 and 30000", hint="name one: --port")


def need_free_port(port: int | None) -> None:
    """Do nothing if the port is free, or none is asked for.

    Raises:
        EngineError: something listens there.
    """
    if port is not None and port_taken(port):
        raise EngineError(f"port {port} is in use", hint="leave --port out, or stop what listens there")

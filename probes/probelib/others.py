"""Print what other processes use of GPUs, in words, or nothing: python3 others.py UUID...

The harness asks while no process of its own runs, so whatever is on a GPU belongs to others. NVML answers, without a
CUDA context. Inside a container it shows no processes of other containers, but the memory in use is that of the card.
"""

import ctypes
import sys
import time

CONTEXT_BYTES = 256 << 20  # less than a CUDA context takes on any card
DESKTOP_BYTES = 2 << 30  # what a desktop may hold on a card with a display
PATIENCE_SECONDS = 1.0  # the driver may still take back the memory of a process that has ended
INSUFFICIENT_SIZE = 7


class Memory(ctypes.Structure):
    """nvmlMemory_v2_t: unlike the first version, `used` is without what the driver reserves for itself."""

    _fields_ = [("version", ctypes.c_uint)] + [
        (name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")
    ]


def used(nvml, device):
    """Return what others use of one GPU, in words; empty if that is nothing, or is not known."""
    count = ctypes.c_uint(0)
    status = nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), None)
    if status == INSUFFICIENT_SIZE and count.value:
        return f"{count.value} compute process{'es' if count.value > 1 else ''}"
    memory = Memory(version=ctypes.sizeof(Memory) | 2 << 24)
    if nvml.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory)) != 0:
        return ""
    display = ctypes.c_int(0)
    nvml.nvmlDeviceGetDisplayActive(device, ctypes.byref(display))
    if memory.used < (DESKTOP_BYTES if display.value else CONTEXT_BYTES):
        return ""
    return f"{memory.used / 2**30:.1f} GiB in use"


def others(nvml, uuids):
    """Return what others use of the GPUs for as long as it takes to be sure, in words."""
    devices = []
    for uuid in uuids:
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) == 0:
            devices.append(device)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = next(filter(None, (used(nvml, device) for device in devices)), "")
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def main(uuids):
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            print(others(nvml, uuids))
    except (OSError, AttributeError):
        pass  # no driver, or one from before these functions: nothing is known


if __name__ == "__main__":
    main(sys.argv[1:])

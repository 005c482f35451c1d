"""Write down what this place is: GPUs as the driver tells them, and the installed distributions. No torch needed."""

import ctypes
import json
import platform
import sys

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
SHARED_MEMORY_PER_BLOCK_OPTIN = 97


def driver_version():
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            text = ctypes.create_string_buffer(96)
            if nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
                return text.value.decode()
    except OSError:
        pass
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
        return next((word for word in words if word[:1].isdigit() and "." in word), "")
    except OSError:
        return ""


def devices():
    """Return (list of devices, newest CUDA of the driver, why there is none)."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return [], "", f"no CUDA driver library: {error}"
    status = cuda.cuInit(0)
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if status != 0:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(status, ctypes.byref(name))
        return [], newest, f"cuInit failed: {(name.value or b'').decode()} ({status})"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        name = ctypes.create_string_buffer(256)
        cuda.cuDeviceGetName(name, 256, device)
        memory = ctypes.c_size_t()
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        uuid = (ctypes.c_ubyte * 16)()
        cuda.cuDeviceGetUuid(ctypes.byref(uuid), device)
        digits = bytes(uuid).hex()
        attributes = []
        for number in (CAPABILITY_MAJOR, CAPABILITY_MINOR, SHARED_MEMORY_PER_BLOCK_OPTIN):
            value = ctypes.c_int()
            cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device)
            attributes.append(value.value)
        found.append(
            {
                "name": name.value.decode(),
                "capability": f"{attributes[0]}.{attributes[1]}",
                "memory_bytes": memory.value,
                "uuid": "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
                "shared_memory_per_block": attributes[2],
            }
        )
    return found, newest, ""


def packages():
    from importlib.metadata import distributions

    found = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name and name.lower().replace("_", "-") not in found:
            found[name.lower().replace("_", "-")] = distribution.version or ""
    return dict(sorted(found.items()))


if __name__ == "__main__":
    gpus, cuda_version, why = devices()
    facts = {
        "devices": gpus,
        "driver": driver_version(),
        "cuda": cuda_version,
        "no_devices": why,
        "packages": packages(),
        "libc": "-".join(platform.libc_ver()),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
    with open(sys.argv[1], "w") as out:
        json.dump(facts, out)

"""libnuma loads and answers: sgl-kernel and the engines link against it, and an image without it fails at import."""

FEATURE = "numa"
REQUIRES = ()
TIMEOUT = 30
GPUS = 0
WARM = False


def run(probe):
    import ctypes
    import os

    if probe.sabotage == "missing-library":
        raise OSError("libnuma.so.1: cannot open shared object file: No such file or directory")
    numa = ctypes.CDLL("libnuma.so.1")
    available = numa.numa_available()
    probe.metric("numa_available", available)
    if available < 0:
        probe.note("the library is there; the kernel or the container's seccomp profile gives no NUMA calls")
        probe.show("library loads")
        return
    nodes = numa.numa_max_node() + 1
    probe.metric("nodes", nodes)
    path = "/sys/devices/system/node/online"
    if os.path.exists(path):
        with open(path) as file:
            last = int(file.read().strip().replace(",", "-").rsplit("-", 1)[-1])
        probe.equal("nodes", nodes, last + 1)
    else:
        probe.show("library answers")

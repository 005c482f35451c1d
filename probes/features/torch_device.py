"""torch sees the GPU, has code for it, launches kernels, and multiplies matrices rightly in every type."""

FEATURE = "torch-device"
REQUIRES = ()
TIMEOUT = 120
GPUS = 1
WARM = True

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.2e-2}


def run(probe):
    torch = probe.module("torch")
    probe.metric("torch", torch.__version__)
    probe.metric("torch.cuda", str(torch.version.cuda))
    if torch.version.cuda is None:
        raise RuntimeError(f"torch {torch.__version__} is built without CUDA: it computes on the CPU")
    major, minor = torch.cuda.get_device_capability()
    arches = torch.cuda.get_arch_list()
    probe.metric("arch_list", " ".join(arches))
    probe.metric("capability", f"{major}.{minor}")
    probe.metric("native_code", any(arch.rstrip("af") == f"sm_{major}{minor}" for arch in arches))
    generator = probe.generator()
    with probe.phase("first_launch"):
        a = torch.randn(1 << 20, device="cuda", generator=generator)
        probe.compare("elementwise", a * 2 + 1, a.double() * 2 + 1, tolerance=1e-6)
    probe.metric("device", torch.cuda.get_device_name())
    for name in ("float64", "float32", "tf32", "float16", "bfloat16"):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        dtype = torch.float32 if name == "tf32" else getattr(torch, name)
        for m, k, n in ((512, 1024, 768), (17, 333, 129), (1, 4096, 1000)):
            a = torch.randn(m, k, device="cuda", generator=generator).to(dtype)
            b = torch.randn(k, n, device="cuda", generator=generator).to(dtype)
            probe.compare(f"matmul.{name}[{m}x{k}x{n}]", a @ b, a.double() @ b.double(), tolerance=TOLERANCE[name])
    size = 4096
    a, b = (torch.randn(size, size, device="cuda", generator=generator).bfloat16() for _ in range(2))
    from probelib.timing import median_seconds

    probe.metric("tflops.bfloat16", 2 * size**3 / median_seconds(lambda: a @ b) / 1e12)
    host = torch.randn(1 << 20).pin_memory()
    probe.compare("copy.pinned", host.to("cuda", non_blocking=True), host.double().cuda(), tolerance=1e-7)

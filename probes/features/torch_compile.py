"""torch.compile: inductor builds kernels for the card, they agree with eager, also for shapes seen later."""

FEATURE = "torch-compile"
REQUIRES = ("torch-device", "triton")
TIMEOUT = 240
GPUS = 1
WARM = True


def run(probe):
    torch = probe.module("torch")
    import os

    from probelib.timing import median_seconds

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(probe.folder, "inductor-cache")
    os.environ["TRITON_CACHE_DIR"] = os.path.join(probe.folder, "triton-cache")
    generator = probe.generator()
    width = 1024
    weight = torch.randn(width, width, device="cuda", generator=generator) * width**-0.5
    scale = torch.randn(width, device="cuda", generator=generator)

    def block(x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * scale
        y = torch.nn.functional.silu(x @ weight) * torch.tanh(x) + torch.sin(x) * 0.5
        return torch.softmax(y, -1) * y.abs().sqrt() + x

    def reference(x):
        x, w, s = x.double(), weight.double(), scale.double()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * s
        z = x @ w
        y = z * torch.sigmoid(z) * torch.tanh(x) + torch.sin(x) * 0.5
        return torch.softmax(y, -1) * y.abs().sqrt() + x

    torch.backends.cuda.matmul.allow_tf32 = False
    compiled = torch.compile(block)
    with probe.phase("compile"):
        x = torch.randn(64, width, device="cuda", generator=generator)
        first = compiled(x)
        torch.cuda.synchronize()
    probe.compare("compiled[64]", first, reference(x), tolerance=2e-5)
    for rows in (1, 7, 33, 130):
        x = torch.randn(rows, width, device="cuda", generator=generator)
        probe.compare(f"compiled[{rows}]", compiled(x), reference(x), tolerance=2e-5)
    graphs = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
    probe.require("inductor ran", graphs > 0, "torch.compile fell back to eager: dynamo counted no graph")
    x = torch.randn(4096, width, device="cuda", generator=generator)
    compiled(x)
    probe.faster("compile", median_seconds(lambda: compiled(x)), median_seconds(lambda: block(x)))

"""CUDA graphs: capture, replay with changed inputs, many batch sizes from one memory pool, and what they gain."""

FEATURE = "cuda-graphs"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 1
WARM = True
SABOTAGE = {"stale-input": "wrong"}

BATCHES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160)
WIDTH = 512
LAYERS = 6


def run(probe):
    torch = probe.module("torch")
    from probelib.timing import median_seconds

    generator = probe.generator()
    weights = [torch.randn(WIDTH, WIDTH, device="cuda", generator=generator) * WIDTH**-0.5 for _ in range(LAYERS)]
    torch.backends.cuda.matmul.allow_tf32 = False

    def model(x):
        for weight in weights:
            x = torch.nn.functional.silu(x @ weight) + torch.nn.functional.layer_norm(x, (WIDTH,))
        return x

    def reference(x):
        x = x.double()
        for weight in weights:
            y = x @ weight.double()
            mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
            x = y * torch.sigmoid(y) + (x - mean) * torch.rsqrt(variance + 1e-5)
        return x

    inputs = {batch: torch.randn(batch, WIDTH, device="cuda", generator=generator) for batch in BATCHES}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for batch in (max(BATCHES), 1):
            model(inputs[batch])
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    pool = torch.cuda.graph_pool_handle()
    graphs, outputs = {}, {}
    with probe.phase("capture"):
        # The largest first, as the engines do: smaller graphs then fit into the pool that is there.
        for batch in sorted(BATCHES, reverse=True):
            graphs[batch] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[batch], pool=pool):
                outputs[batch] = model(inputs[batch])
        torch.cuda.synchronize()
    probe.metric("graphs", len(graphs))
    probe.metric("memory_bytes", max(0, before - torch.cuda.mem_get_info()[0]))
    for _ in range(2):
        for batch in BATCHES:
            fresh = torch.randn(batch, WIDTH, device="cuda", generator=generator)
            expected = reference(fresh)
            if probe.sabotage != "stale-input":
                inputs[batch].copy_(fresh)
            graphs[batch].replay()
            probe.compare(f"replay[{batch}]", outputs[batch], expected, tolerance=2e-5)
    # An in-place counter shows that each replay runs once, no more and no less.
    counter = torch.zeros(1, device="cuda")
    counting = torch.cuda.CUDAGraph()
    with torch.cuda.graph(counting):
        counter += 1
    counter.zero_()
    for _ in range(5):
        counting.replay()
    probe.equal("replays counted", counter.item(), 5.0)
    eager = median_seconds(lambda: model(inputs[1]))
    replay = median_seconds(graphs[1].replay)
    probe.metric("eager_us", eager * 1e6)
    probe.metric("replay_us", replay * 1e6)
    probe.faster("graphs", replay, eager)

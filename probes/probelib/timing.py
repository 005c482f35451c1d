"""Time on the device with CUDA events: warm-up left out, the median of several repetitions, in seconds."""


def median_seconds(function, *, repeats=20, warmup=5, inner=1, graph=False):
    """Return seconds of one call; `graph` replays a captured one, so that the host's own work does not count."""
    import torch

    for _ in range(warmup):
        function()
    if graph:
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            for _ in range(10):
                function()
        return median_seconds(captured.replay, repeats=repeats, warmup=2) / 10
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(inner):
            function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / inner / 1000)
    return sorted(times)[len(times) // 2]

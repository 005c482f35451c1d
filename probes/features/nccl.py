"""NCCL over two GPUs: all-reduce, all-gather and broadcast against sums made on the host."""

FEATURE = "nccl"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 2
WARM = False


def run(probe):
    probe.module("torch")
    from probelib.pair import together

    answers = together(probe, "nccl", __file__)
    for name, value in answers.items():
        probe.metric(name, value)


def rank_main(rank, size, report):
    import torch
    import torch.distributed as dist

    for count in (1, 1000, 1 << 20):
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
            parts = [
                torch.randn(count, generator=torch.Generator().manual_seed(7 * count + other)).to(dtype)
                for other in range(size)
            ]
            mine = parts[rank].cuda()
            dist.all_reduce(mine)
            report.compare(f"all_reduce.{str(dtype)[6:]}", mine, sum(part.double() for part in parts), tolerance)
            gathered = torch.full((size, count), float("nan"), dtype=dtype, device="cuda")
            dist.all_gather_into_tensor(gathered.view(-1), parts[rank].cuda())
            report.compare("all_gather", gathered, torch.stack(parts).double(), 1e-7)
    report.metric("nccl", ".".join(map(str, torch.cuda.nccl.version())))
    report.metric("peer_access", torch.cuda.can_device_access_peer(rank, 1 - rank))

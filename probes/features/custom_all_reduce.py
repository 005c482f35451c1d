"""Custom all-reduce over two GPUs with peer access, from vLLM or SGLang, against sums made on the host."""

FEATURE = "custom-all-reduce"
REQUIRES = ("torch-device", "nccl")
TIMEOUT = 180
GPUS = 2
WARM = False


def run(probe):
    torch = probe.module("torch")
    from probelib.context import NotRun, Unsupported
    from probelib.pair import together

    if not torch.cuda.can_device_access_peer(0, 1):
        raise Unsupported("the GPUs have no peer access to each other (GeForce cards have none)")
    if probe.is_absent("vllm") and probe.is_absent("sglang"):
        raise NotRun("neither vllm nor sglang is installed")
    for name, value in together(probe, "gloo", __file__).items():
        probe.metric(name, value)


def rank_main(rank, size, report):
    import importlib.util

    import torch
    import torch.distributed as dist

    device = torch.device(f"cuda:{rank}")
    ran = []
    for package, path in (("vllm", "vllm.distributed.device_communicators.custom_all_reduce"),
                          ("sglang", "sglang.srt.distributed.device_communicators.custom_all_reduce")):  # fmt: skip
        if importlib.util.find_spec(package) is None:
            continue
        module = importlib.import_module(path)
        reducer = module.CustomAllreduce(group=dist.group.WORLD, device=device)
        if getattr(reducer, "disabled", False):
            report.note(f"{package} disabled its custom all-reduce here")
            continue
        for count in (8, 1024, 1 << 17):
            parts = [
                torch.randn(count, generator=torch.Generator().manual_seed(7 * count + other)).bfloat16()
                for other in range(size)
            ]
            got = reducer.custom_all_reduce(parts[rank].to(device))
            if got is None:
                report.note(f"{package} declined {count} values")
                continue
            report.compare(f"{package}[{count}]", got, sum(part.double() for part in parts), 1e-2)
            ran.append(package)
    report.metric("providers", " ".join(sorted(set(ran))))
    if not ran:
        raise RuntimeError("no custom all-reduce ran: " + "; ".join(report.notes))

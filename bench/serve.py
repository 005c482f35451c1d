"""Is the load client the bottleneck? Its rate against a server that answers at once, beside the users' fastest rates.

Run: python bench/serve.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from assay.adapters.local_server import free_port
from assay.adapters.openai_client import OpenAiClient
from assay.serving.load import Job, Workload, summarise

SERVER = Path(__file__).parents[1] / "tests" / "support" / "openai_server.py"
FASTEST_TOKENS = 4200.0
"""Tokens per second, the fastest that the users' documents name (ten requests at once)."""
FASTEST_REQUESTS = 4.21
"""Requests per second, the fastest that they name at 20 users."""


class Run(NamedTuple):
    """One run of a load."""

    tokens: float
    """Per second."""
    requests: float
    """Per second."""
    first_ms: float
    token_ms: float
    tokens_per_cpu: float
    """Tokens per second of the client's own CPU: what it would take in with a core to itself."""


def workload(users: int, tokens: int, count: int) -> Workload:
    body = {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    jobs = tuple(Job(path="/v1/completions", body=body, max_tokens=tokens) for _ in range(count))
    return Workload(name="users", users=users, max_tokens=tokens, jobs=jobs, warm_up=jobs[:users])


def measure(misbehave: dict[str, object], load: Workload, repeats: int = 3) -> list[Run]:
    port = free_port()
    environment = {**os.environ, "MISBEHAVE": json.dumps(misbehave)}
    argv = [sys.executable, str(SERVER), "--model-path", "tiny", "--port", str(port)]
    server = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
    try:
        base, client = f"http://127.0.0.1:{port}", OpenAiClient()
        while client.call("GET", f"{base}/health", timeout=1).status == 0:
            time.sleep(0.05)
        runs: list[Run] = []
        for _ in range(repeats):
            before = time.process_time()
            series = summarise(load, client.load(base, load, timeout=60))
            used = time.process_time() - before
            assert not series.failed, series.errors
            assert series.ttft is not None
            assert series.per_token is not None
            # The warm-up took its part of the CPU too.
            tokens = series.completion_tokens + sum(job.max_tokens for job in load.warm_up)
            runs.append(
                Run(
                    tokens=series.tokens_per_second,
                    requests=series.requests_per_second,
                    first_ms=series.ttft.p50,
                    token_ms=series.per_token.p50,
                    tokens_per_cpu=tokens / used,
                )
            )
        return runs
    finally:
        server.kill()
        server.wait()


def main() -> None:
    head = ("instant server, 20 users", "tok/s", "of fastest", "req/s", "of fastest", "tok/CPU s", "of fastest")
    print("{:30} {:>9} {:>11} {:>9} {:>11} {:>10} {:>11}".format(*head))
    for burst in (1, 4, 16):
        runs = measure({"burst": burst}, workload(20, 100, 1000))
        tokens, requests, cpu = (max(run[place] for run in runs) for place in (0, 1, 4))
        row = (tokens, tokens / FASTEST_TOKENS, requests, requests / FASTEST_REQUESTS, cpu, cpu / FASTEST_TOKENS)
        name = f"{burst} tokens in each write"
        print(f"{name:30} " + "{:9.0f} {:10.1f}x {:9.0f} {:10.1f}x {:10.0f} {:10.1f}x".format(*row))
    print()
    names = ("delays set: 200 ms, then 20 ms", "first ms", "off by", "token ms", "off by")
    print("{:30} {:>9} {:>11} {:>9} {:>11}".format(*names))
    for users in (1, 5, 10, 20):
        runs = measure({"ttft": 0.2, "tpot": 0.02}, workload(users, 50, users))
        first, token = min(run.first_ms for run in runs), min(run.token_ms for run in runs)
        name = f"{users} users, best of 3"
        print(f"{name:30} {first:9.1f} {first / 200 - 1:11.1%} {token:9.2f} {token / 20 - 1:11.1%}")


if __name__ == "__main__":
    main()

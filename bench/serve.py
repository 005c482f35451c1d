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

from assay.adapters.local_server import free_port
from assay.adapters.openai_client import OpenAiClient
from assay.serving.load import Job, Workload, summarise

SERVER = Path(__file__).parents[1] / "tests" / "support" / "openai_server.py"
FASTEST_TOKENS = 4200.0
"""Tokens per second, the fastest that the users' documents name (ten requests at once)."""
FASTEST_REQUESTS = 4.21
"""Requests per second, the fastest that they name at 20 users."""


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


def measure(misbehave: dict[str, object], load: Workload, repeats: int = 3) -> list[tuple[float, float, float, float]]:
    """Return tokens/s, requests/s, time to first token and time per token (ms) of each run."""
    port = free_port()
    environment = {**os.environ, "MISBEHAVE": json.dumps(misbehave)}
    argv = [sys.executable, str(SERVER), "--model-path", "tiny", "--port", str(port)]
    server = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
    try:
        base, client = f"http://127.0.0.1:{port}", OpenAiClient()
        while client.call("GET", f"{base}/health", timeout=1).status == 0:
            time.sleep(0.05)
        runs = []
        for _ in range(repeats):
            series = summarise(load, client.load(base, load, timeout=60))
            assert not series.failed, series.errors
            assert series.ttft is not None
            assert series.per_token is not None
            runs.append((series.tokens_per_second, series.requests_per_second, series.ttft.p50, series.per_token.p50))
        return runs
    finally:
        server.kill()
        server.wait()


def main() -> None:
    print(f"{'instant server, 20 users':36} {'tok/s':>9} {'of fastest':>11} {'req/s':>9} {'of fastest':>11}")
    for burst in (1, 4, 16):
        tokens, requests, _, _ = max(measure({"burst": burst}, workload(20, 100, 1000)))
        name = f"{burst} tokens in each piece of network"
        print(f"{name:36} {tokens:9.0f} {tokens / FASTEST_TOKENS:10.1f}x {requests:9.0f} "
              f"{requests / FASTEST_REQUESTS:10.1f}x")  # fmt: skip
    print()
    print(f"{'delays set: 200 ms, then 20 ms':36} {'first ms':>9} {'off by':>11} {'token ms':>9} {'off by':>11}")
    for users in (1, 5, 10, 20):
        runs = measure({"ttft": 0.2, "tpot": 0.02}, workload(users, 50, users))
        first, token = min(run[2] for run in runs), min(run[3] for run in runs)
        print(f"{f'{users} users, best of 3':36} {first:9.1f} {first / 200 - 1:10.1%} {token:9.2f} "
              f"{token / 20 - 1:10.1%}")  # fmt: skip


if __name__ == "__main__":
    main()

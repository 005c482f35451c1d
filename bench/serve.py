"""Is the load client the bottleneck? Its rate against a server that answers at once, beside the users' fastest rates.

Client and server stand on one machine, so at full speed the one takes what the other leaves. The server costs a system
call for each token; what the client takes of a core is told beside its rate.

Run: python bench/serve.py
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from assay.adapters.executors.this_machine import free_port
from assay.adapters.http.openai import OpenAiClient
from assay.serving.load import LoadJob, Workload, summarise

INSTANT = Path(__file__).with_name("instant_server.py")
SERVER = Path(__file__).parents[1] / "tests" / "support" / "openai_server.py"
USERS = 20
TOKENS = 100
FASTEST_TOKENS = 4200.0
"""Tokens per second, the fastest that the users' documents name (ten requests at once)."""
FASTEST_REQUESTS = 4.21
"""Requests per second, the fastest that they name at 20 users."""


class Run(NamedTuple):
    """One run of a load."""

    tokens: float
    """Per second of wall clock."""
    requests: float
    """Per second of wall clock."""
    first_ms: float
    token_ms: float
    cpu: float
    """CPU seconds that the client took, the warm-up and the reading of the events included."""
    received: int
    """Tokens that the client took in, those of the warm-up included."""
    seconds: float
    """Wall clock of the load."""


def workload(users: int, tokens: int, count: int) -> Workload:
    body = {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    jobs = tuple(LoadJob(path="/v1/completions", body=body, max_tokens=tokens) for _ in range(count))
    return Workload(name="users", users=users, max_tokens=tokens, jobs=jobs, warm_up=jobs[:users])


@contextmanager
def serving(*argv: str, misbehave: dict[str, object] | None = None) -> Iterator[str]:
    """Run a server of its own process group; {port} stands for its port."""
    port = free_port()
    command = [sys.executable, *(word.replace("{port}", str(port)) for word in argv)]
    environment = {**os.environ, "MISBEHAVE": json.dumps(misbehave or {})}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while OpenAiClient().call("GET", f"http://127.0.0.1:{port}/health", timeout=1).status == 0:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def measure(base: str, load: Workload) -> Run:
    before = resource.getrusage(resource.RUSAGE_SELF)
    series = summarise(load, OpenAiClient().load(base, load, timeout=60))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert not series.failed, series.errors
    assert not series.notes, series.notes
    assert series.ttft is not None
    assert series.per_token is not None
    return Run(
        tokens=series.tokens_per_second,
        requests=series.requests_per_second,
        first_ms=series.ttft.p50,
        token_ms=series.per_token.p50,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        received=series.completion_tokens + sum(job.max_tokens for job in load.warm_up),
        seconds=series.seconds,
    )


def main() -> None:
    head = (f"instant server, {USERS} users, {TOKENS} tokens", "tok/s", "of fastest", "req/s", "of fastest")
    print("{:44} {:>9} {:>11} {:>9} {:>11} {:>18}".format(*head, "client us/token"))
    with serving(str(INSTANT), "{port}", str(TOKENS), "0") as base:
        for number in range(1, 6):
            run = measure(base, workload(USERS, TOKENS, 2000))
            name = f"a write for each token, run {number}"
            figures = f"{run.tokens:9.0f} {run.tokens / FASTEST_TOKENS:10.1f}x {run.requests:9.0f} "
            print(f"{name:44} {figures}{run.requests / FASTEST_REQUESTS:10.1f}x {run.cpu / run.received * 1e6:18.1f}")
    pause = USERS / FASTEST_TOKENS
    with serving(str(INSTANT), "{port}", str(TOKENS), str(pause)) as base:
        run = measure(base, workload(USERS, TOKENS, 400))
        name = "at the fastest rate, each token a read"
        print(f"{name:44} {run.tokens:9.0f} {'':32} {run.cpu / run.received * 1e6:18.1f}")
        print(f"  there the client takes {run.cpu / run.received * run.tokens:.0%} of a core")
    print()
    names = ("delays set: 200 ms, then 20 ms", "first ms", "off by", "token ms", "off by")
    print("{:30} {:>9} {:>11} {:>9} {:>11}".format(*names))
    delays = {"ttft": 0.2, "tpot": 0.02}
    with serving(str(SERVER), "--model-path", "tiny", "--port", "{port}", misbehave=delays) as base:
        for users in (1, 5, 10, 20):
            runs = [measure(base, workload(users, 50, users)) for _ in range(3)]
            first, per_token, _ = min((run.first_ms, run.token_ms, run.seconds) for run in runs)
            name = f"{users} users, best of 3"
            print(f"{name:30} {first:9.1f} {first / 200 - 1:11.1%} {per_token:9.2f} {per_token / 20 - 1:11.1%}")


if __name__ == "__main__":
    main()

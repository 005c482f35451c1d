"""Diagnosis of 100 MB of log: seconds and peak memory for five kinds of log; the demand is 5 s and 200 MB.

python bench/diagnose.py [MB]
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

from assay.diagnose import default_library, examine

WORDS = [
    "Building",
    "CUDA",
    "object",
    "csrc",
    "kernel",
    "flash",
    "attention",
    "sm_120",
    "torch",
    "vllm",
    "sglang",
    "flashinfer",
    "error",
    "warning",
    "failed",
    "loading",
    "Requirement",
    "already",
    "satisfied",
    "INFO",
    "DEBUG",
    "tokens",
    "batch",
    "cache",
    "memory",
    "GiB",
    "ptxas",
    "info",
    "registers",
    "symbol",
    "cannot",
    "open",
]


def ordinary(rng: random.Random, size: int) -> bytes:
    lines = [f"{i} INFO {' '.join(rng.choices(WORDS, k=rng.randint(6, 18)))}" for i in range(20_000)]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def near_misses(_: random.Random, size: int) -> bytes:
    """Every line holds an anchor and nothing matches."""
    lines = [near for entry in default_library().entries.values() for near in entry.near_misses]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def failures(_: random.Random, size: int) -> bytes:
    """Every line is a failure."""
    lines = [example for entry in default_library().entries.values() for example in entry.examples]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def colours(rng: random.Random, size: int) -> bytes:
    return b"".join(b"\x1b[32m" + line + b"\x1b[0m\r\n" for line in ordinary(rng, size * 9 // 10).split(b"\n"))[:size]


def one_line(rng: random.Random, size: int) -> bytes:
    """No newline at all, as a progress bar or a dumped tensor makes it."""
    return ordinary(rng, size).replace(b"\n", b" ")


KINDS = {f.__name__: f for f in (ordinary, near_misses, failures, colours, one_line)}


def measure(path: str, queue: multiprocessing.Queue[tuple[float, float, float, int]]) -> None:
    default_library()
    before, cpu = time.perf_counter(), time.process_time()
    with Path(path).open("rb") as log:
        report = examine(log)
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    # VmHWM begins anew with each program; ru_maxrss is inherited from the parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    queue.put((seconds, cpu, int(peak.split()[1]) / 1024, len(report.diagnoses)))


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    context = multiprocessing.get_context("spawn")
    print(
        f"{'log':<12} {'MB':>5} {'seconds':>8} {'CPU s':>7} {'MB/s':>7} {'of 5 s':>7} "
        f"{'peak MB':>8} {'of 200':>7} causes"
    )
    for name, make in KINDS.items():
        with tempfile.NamedTemporaryFile(suffix=".log") as file:
            file.write(make(random.Random(1), megabytes * 1_000_000))
            file.flush()
            queue: multiprocessing.Queue[tuple[float, float, float, int]] = context.Queue()
            process = context.Process(target=measure, args=(file.name, queue))
            process.start()
            seconds, cpu, peak, causes = queue.get()
            process.join()
        share = seconds / 5 * 100 / megabytes
        print(
            f"{name:<12} {megabytes:>5} {seconds:>8.2f} {cpu:>7.2f} {megabytes / seconds:>7.0f} {share:>7.2f} "
            f"{peak:>8.0f} {peak / 200:>7.2f} {causes}"
        )


if __name__ == "__main__":
    main()

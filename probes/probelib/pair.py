"""Run a probe's `rank_main` in one process per GPU and bring the answers together."""

import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
import time

if __package__ in (None, ""):
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from probelib.calls import missing_api
from probelib.context import NotRun, Wrong


class Report:
    """What one rank found."""

    def __init__(self):
        self.metrics, self.notes, self.wrong = {}, [], ""

    def metric(self, name, value):
        self.metrics[name] = value

    def note(self, text):
        self.notes.append(text)

    def compare(self, name, got, expected, tolerance):
        expected = expected.to(got.device).double()
        error = ((got.double() - expected).norm() / expected.norm()).item()
        key = "error." + name.split("[")[0]
        self.metrics[key] = max(error, self.metrics.get(key, 0.0)) if math.isfinite(error) else error
        if not error <= tolerance and not self.wrong:
            self.wrong = f"{name}: relative error {error:.3g}, tolerance {tolerance:g}"


def together(probe, backend, program, size=2):
    """Start the ranks, wait for them, raise what any of them found, return the metrics of rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        path = os.path.join(probe.folder, f"rank{rank}.json")
        argv = [sys.executable, os.path.abspath(__file__), program, backend, str(rank), str(size), str(port), path]
        children.append((path, subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": _python_path()})))
    failed = {}
    while any(child.poll() is None for _, child in children):
        time.sleep(0.05)
        failed = {rank: child.returncode for rank, (_, child) in enumerate(children) if child.poll() not in (None, 0)}
        if failed:
            # The others would wait for a rank that is gone.
            time.sleep(2)
            for _, child in children:
                child.kill()
    answers = []
    for path, _ in children:
        if os.path.exists(path):
            with open(path) as file:
                answers.append(json.load(file))
    for answer in answers:
        if answer["missing"]:
            raise NotRun("API not found: " + answer["missing"])
        if answer["error"]:
            raise RuntimeError(answer["error"])
        for note in answer["notes"]:
            probe.note(note)
    if failed or len(answers) < size:
        raise RuntimeError(f"ranks ended with {failed}")
    for answer in answers:
        probe.require("ranks agree with the host", not answer["wrong"], answer["wrong"])
    if probe.compared == 0:
        raise Wrong("no rank compared anything")
    return answers[0]["metrics"]


def _python_path():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def rank_process(program, backend, rank, size, port, path):
    import torch
    import torch.distributed as dist

    report, error, missing = Report(), "", ""
    try:
        torch.cuda.set_device(int(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=rank, WORLD_SIZE=size, LOCAL_RANK=rank)
        dist.init_process_group(backend, rank=int(rank), world_size=int(size))
        spec = importlib.util.spec_from_file_location("assay_probe_program", program)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.rank_main(int(rank), int(size), report)
        torch.cuda.synchronize()
        dist.barrier()
    except Exception as exception:
        error = f"rank {rank}: {type(exception).__name__}: {exception}"
        missing = missing_api(exception)
    answer = {"metrics": report.metrics, "notes": report.notes, "wrong": report.wrong, "error": error}
    with open(path, "w") as file:
        json.dump({**answer, "missing": missing}, file)
    sys.stdout.flush()
    os._exit(1 if error else 0)


if __name__ == "__main__":
    rank_process(*sys.argv[1:])

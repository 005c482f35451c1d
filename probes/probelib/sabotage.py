"""Ways to break a probe on purpose: the proof that it can fail. `before` strikes ahead of the probe's own program.

perturb, nan, slow and missing-library strike inside Context; a probe may know more kinds of its own (SABOTAGE).
"""

import ctypes
import os
import signal
import time

GENERIC = {
    "perturb": "wrong",
    "nan": "wrong",
    "segfault": "broken",
    "abort": "broken",
    "exit": "broken",
    "garbage": "broken",
    "flood": "works",
    "hang": "inconclusive",
    "kill": "inconclusive",
    "out-of-memory": "inconclusive",
    "cuda-out-of-memory": "inconclusive",
    "no-answer": "inconclusive",
    "leftover": "works",
}
"""Kind -> the outcome that any probe which works must get; flood and leftover must not change it."""


RAISED = {"out-of-memory": MemoryError(), "no-answer": TimeoutError("an engine gave no answer within 1 s")}


def before(context):
    kind = context.sabotage
    if kind in RAISED:
        raise RAISED[kind]
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "exit":
        os._exit(3)
    elif kind == "garbage":
        with open(os.path.join(context.folder, "outcome.json"), "wb") as file:
            file.write(b"\x00\xff{" * 1000)
        os._exit(0)
    elif kind == "flood":
        block = b"x" * (1 << 20)
        for _ in range(2048):
            os.write(1, block)
            os.write(2, block[:1024])
    elif kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "cuda-out-of-memory":
        import torch

        hoard = []
        while True:
            hoard.append(torch.empty(8 << 30, dtype=torch.uint8, device="cuda"))
    elif kind == "leftover":
        _leave_behind()


def _leave_behind():
    """Leave a process of another session behind that holds the probe's streams and would outlive it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)

"""Run one probe program: python3 run.py PROBE.py FOLDER; writes FOLDER/outcome.json.

What a probe says by raising:

    Exception
    +-- probelib.context.Wrong          it ran and its numbers are bad
    +-- probelib.context.Unsupported    the hardware or the framework itself declares that it cannot
    +-- probelib.context.NotRun         it could not be tried here; says why
    +-- ModuleNotFoundError             of a top-level package: not tried
    +-- AttributeError, TypeError, ...  raised by the probe's own use of a package: its API moved, not tried
    +-- out of memory of any kind       inconclusive
    +-- TimeoutError                    inconclusive: something the probe waited for gave no answer in time
    +-- anything else                   broken
"""

import faulthandler
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback

if __package__ in (None, ""):
    # The folder of this file holds modules with names that packages have too; only the folder above may be searched.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from probelib.calls import missing_api
from probelib.context import Context, NotRun, Unsupported, Wrong
from probelib.sabotage import before

OUT_OF_MEMORY = ("out of memory", "outofmemory", "cuda_error_out_of_memory", "std::bad_alloc", "cannot allocate memory")


def is_out_of_memory(error):
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(mark in text for mark in OUT_OF_MEMORY)


def judge(error, context):
    """Return (outcome, reason) for what a probe raised."""
    text = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, Wrong):
        return "wrong", str(error)
    if isinstance(error, Unsupported):
        return "unsupported", str(error)
    if isinstance(error, NotRun):
        return "not_run", str(error)
    if is_out_of_memory(error):
        return "inconclusive", "out of memory: " + str(error)[:500]
    if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
        return "inconclusive", "time-out: " + str(error)[:500]
    if isinstance(error, ModuleNotFoundError) and error.name and context.is_absent(error.name):
        return "not_run", f"package {error.name.split('.')[0]} is not installed"
    missing = missing_api(error)
    if missing:
        return "not_run", f"API not found: {missing}"
    return "broken", text[:2000]


def ptx_cache_bytes():
    total = 0
    for base, _, names in os.walk(os.environ.get("CUDA_CACHE_PATH", "")):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(base, name))
            except OSError:
                continue
    return total


def main(argv):
    program, folder = argv
    faulthandler.enable()
    limit = float(os.environ.get("ASSAY_TIMEOUT", "0"))
    if limit > 0:
        faulthandler.dump_traceback_later(limit, exit=False)
    began = time.monotonic()
    context = Context(folder=folder, sabotage=os.environ.get("ASSAY_SABOTAGE", ""))
    outcome, reason = "works", ""
    compiled = ptx_cache_bytes()
    try:
        before(context)
        spec = importlib.util.spec_from_file_location("assay_probe_program", program)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.run(context)
        if context.compared == 0 and not context.shown:
            outcome, reason = "broken", "the probe compared nothing: a fault of the probe itself"
        elif context.slower:
            outcome, reason = "degraded", "; ".join(context.slower)
    except BaseException as error:
        outcome, reason = judge(error, context)
        if not isinstance(error, (Unsupported, NotRun)):
            traceback.print_exc()
    # What the driver had to compile from PTX: code the image lacks for this card, and why a first start takes minutes.
    context.metric("ptx_jit_bytes", ptx_cache_bytes() - compiled)
    document = {
        "outcome": outcome,
        "reason": reason,
        "metrics": context.metrics,
        "notes": context.notes,
        "seconds": round(time.monotonic() - began, 3),
    }
    path = os.path.join(folder, "outcome.json")
    with open(path + ".part", "w") as file:
        json.dump(document, file)
    os.replace(path + ".part", path)
    sys.stdout.flush()
    sys.stderr.flush()
    # Destructors of engines and of NCCL abort now and then at exit; what was to be shown has been shown.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:3])

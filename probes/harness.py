"""Run probes inside an image, each in a process of its own, and write one result document.

Usage: python3 harness.py JOB.json RESULT.json

Needs nothing but Python 3.9 and a Linux kernel. The harness never touches the GPU: it may import torch to fork
from (which saves the import for each probe), but only after a child has shown that the import survives. Whatever a
probe does (segfault, hang, gigabytes of output, children that outlive it), the harness goes on; the result document is
rewritten after each probe, so that what was measured stays when the harness itself is killed.

The job: {"probes": [{"feature", "file", "requires", "timeout", "gpus", "warm"}], "work": folder, "gpus": number,
"cache": folder, "warm": bool, "sabotage": {feature: kind}, "seed": int}. Judging is left to whoever reads the
result; the harness only decides what a prerequisite needs: whether a probe ended with `works` or `degraded`.
"""

import ctypes
import hashlib
import json
import os
import selectors
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HEAD_BYTES = 8 * 1024
TAIL_BYTES = 24 * 1024
DOCUMENT_BYTES = 256 * 1024
GRACE_SECONDS = 3.0
PR_SET_CHILD_SUBREAPER = 36


class Bounded:
    """The head and the tail of a stream, and how long it was."""

    def __init__(self):
        self.head = b""
        self.tail = b""
        self.size = 0

    def feed(self, data):
        self.size += len(data)
        room = HEAD_BYTES - len(self.head)
        if room > 0:
            self.head, data = self.head + data[:room], data[room:]
        self.tail = (self.tail + data)[-TAIL_BYTES:]

    def text(self):
        head, tail = (part.decode("utf-8", "replace") for part in (self.head, self.tail))
        left_out = self.size - len(self.head) - len(self.tail)
        return head + (f"\n[... {left_out} bytes left out ...]\n" if left_out > 0 else "") + tail


def say(text):
    sys.stderr.write(f"probe: {text}\n")
    sys.stderr.flush()


def write_json(path, value):
    with open(path + ".part", "w") as file:
        json.dump(value, file)
    os.replace(path + ".part", path)


def suite_digest(folder):
    """Return the digest of all programs under a folder, the same as assay's own: path, NUL, sha256, newline."""
    lines = []
    for base, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(base, name)
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                lines.append(f"{os.path.relpath(path, folder)}\0{digest}\n")
    return "sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def oom_kills():
    """Return how often the kernel's out-of-memory killer struck in this control group; -1 if it cannot be known."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return -1


def descendants(of=None):
    """Return the pids of all processes below one (this one, if none is named), found by their parents in /proc.

    Parents come before their children.
    """
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    found, frontier = [], {os.getpid() if of is None else of}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found += frontier
    return found


def kill(pids):
    """Kill processes, of which some may have ended."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def sweep():
    """Kill and reap everything a probe left behind; this process is the reaper of orphans below it."""
    for _ in range(200):
        left = descendants()
        kill(left)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        if not left:
            return
        time.sleep(0.02)


def end_all(number, _frame):
    """End whatever runs below, then this process: probes are in sessions of their own, nobody else would reach them."""
    sweep()
    os._exit(128 + number)


def child(argv_or_function, stdin, stdout, stderr, environment):
    """Become the probe's process: a session of its own, its own streams; never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        if callable(argv_or_function):
            os.environ.update(environment)
            os.closerange(3, 256)
            code = argv_or_function()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os.execvpe(argv_or_function[0], argv_or_function, {**os.environ, **environment})
    except BaseException as error:
        os.write(2, f"probe process could not start: {error!r}\n".encode())
        os._exit(120)


def run_process(argv_or_function, *, timeout, environment):
    """Run one process to its end or its time limit; return how it ended and the bounded text of its streams."""
    began = time.monotonic()
    kills = oom_kills()
    null = os.open(os.devnull, os.O_RDONLY)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(argv_or_function, null, out_write, err_write, environment)
    for fd in (null, out_write, err_write):
        os.close(fd)
    streams = {out_read: Bounded(), err_read: Bounded()}
    selector = selectors.DefaultSelector()
    for fd in streams:
        os.set_blocking(fd, False)
        selector.register(fd, selectors.EVENT_READ)
    status, timed_out = None, False
    while status is None:
        for key, _ in selector.select(0.02 if selector.get_map() else 0):
            drain(key.fd, streams[key.fd], selector)
        if not selector.get_map():
            time.sleep(0.005)
        done, raw = os.waitpid(pid, os.WNOHANG)
        if done:
            status = raw
        elif time.monotonic() - began > timeout:
            timed_out = True
            kill_group(pid)
            status = os.waitpid(pid, 0)[1]
    kill_group(pid)
    sweep()
    for fd in list(selector.get_map()):
        drain(fd, streams[fd], selector)
    selector.close()
    for fd in streams:
        os.close(fd)
    return {
        "exit_code": None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status),
        "signal": signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None,
        "core_dumped": bool(os.WIFSIGNALED(status) and os.WCOREDUMP(status)),
        "timed_out": timed_out,
        "oom_killed": 0 <= kills < oom_kills(),
        "seconds": round(time.monotonic() - began, 3),
        "stdout": streams[out_read].text(),
        "stdout_bytes": streams[out_read].size,
        "stderr": streams[err_read].text(),
        "stderr_bytes": streams[err_read].size,
    }


def drain(fd, stream, selector):
    # A bounded number of reads: a probe that never stops writing must not keep the clock from being read.
    for _ in range(16):
        try:
            data = os.read(fd, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            selector.unregister(fd)
            return
        stream.feed(data)


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def read_document(path):
    """Return a probe's document, or why there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(DOCUMENT_BYTES + 1)
    except OSError as error:
        return None, f"no result document ({error.strerror})"
    if len(data) > DOCUMENT_BYTES:
        return None, f"the result document is larger than {DOCUMENT_BYTES} bytes"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        return None, f"the result document is not JSON: {error}"
    if not isinstance(document, dict) or not isinstance(document.get("outcome"), str):
        return None, "the result document has no outcome"
    return document, ""


def forked(probe, folder):
    """Return the function that runs a probe in a fork of this process."""

    def body():
        sys.path.insert(0, HERE)
        from probelib.run import main

        return main([os.path.join(HERE, probe["file"]), folder])

    return body


def main(job_path, result_path):
    began = time.monotonic()
    with open(job_path) as file:
        job = json.load(file)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, end_all)
    sys.path.insert(0, HERE)
    work = job["work"]
    os.makedirs(work, exist_ok=True)
    result = {
        "schema_version": 1,
        "suite_digest": suite_digest(HERE),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "facts": None,
        "warm": None,
        "probes": {},
        "finished": False,
    }

    def save():
        result["seconds"] = round(time.monotonic() - began, 3)
        write_json(result_path, result)

    save()
    facts_path = os.path.join(work, "facts.json")
    ended = run_process(
        [sys.executable, os.path.join(HERE, "probelib", "facts.py"), facts_path], timeout=120, environment={}
    )
    try:
        with open(facts_path) as file:
            result["facts"] = json.load(file)
    except (OSError, ValueError):
        result["facts_error"] = ended
    save()
    devices = (result["facts"] or {}).get("devices", [])
    present = len(devices)
    uuids = [device["uuid"] for device in devices if isinstance(device, dict) and device.get("uuid")]
    if job.get("warm", True) and job["probes"]:
        result["warm"] = warm_up()
        save()
    good = set()
    for probe in job["probes"]:
        feature = probe["feature"]
        missing = [name for name in probe["requires"] if name not in good]
        entry = {"feature": feature, "file": probe["file"]}
        if missing:
            entry["not_run"] = "prerequisite " + ", ".join(missing)
        elif probe["gpus"] > present:
            entry["not_run"] = f"needs {probe['gpus']} GPU{'s' if probe['gpus'] > 1 else ''}, {present} present"
        else:
            shared = others(uuids) if probe["gpus"] else ""
            warm = bool(result["warm"] and result["warm"]["ok"] and probe["warm"])
            entry.update(run_probe(probe, job, warm=warm, shared=shared))
            document = entry.get("document")
            if probe["gpus"] and document and document["outcome"] == "degraded":
                shared = shared or others(uuids)
            entry["others"] = shared
            if document and entry["exit_code"] == 0 and document["outcome"] in ("works", "degraded"):
                good.add(feature)
        result["probes"][feature] = entry
        save()
        say(f"{feature}: {summary(entry)}")
    result["finished"] = True
    save()
    return 0


def others(uuids):
    """Return what other processes use of these GPUs now, in words; empty if nothing, or if it cannot be known."""
    if not uuids:
        return ""
    program = os.path.join(HERE, "probelib", "others.py")
    ended = run_process([sys.executable, "-S", program, *uuids], timeout=20, environment={})
    return ended["stdout"].strip() if ended["exit_code"] == 0 else ""


def warm_up():
    """Import torch here, to fork from, if a child survives the import; say what happened and what it took."""
    ended = run_process([sys.executable, "-c", "import torch"], timeout=120, environment={})
    if ended["exit_code"] != 0:
        return {"ok": False, "reason": f"importing torch ended with {ended['signal'] or ended['exit_code']}"}
    began = time.monotonic()
    # NumPy's OpenBLAS starts a pool of threads when it is imported; no probe needs it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import torch

    # A fork from a process with threads of its own, or with CUDA in use, is not a clean start.
    threads = len(os.listdir("/proc/self/task"))
    ok = threads == 1 and not torch.cuda.is_initialized()
    reason = "" if ok else f"after importing torch there are {threads} threads"
    return {"ok": ok, "reason": reason, "seconds": round(time.monotonic() - began, 3)}


def run_probe(probe, job, *, warm, shared):
    folder = os.path.join(job["work"], probe["feature"])
    os.makedirs(folder, exist_ok=True)
    environment = {
        **cache_environment(job),
        "ASSAY_SABOTAGE": job.get("sabotage", {}).get(probe["feature"], ""),
        "ASSAY_TIMEOUT": str(probe["timeout"]),
        "ASSAY_SEED": str(job.get("seed", 0)),
        "ASSAY_OTHERS": shared,
        "PYTHONFAULTHANDLER": "1",
    }
    if warm:
        target = forked(probe, folder)
    else:
        program = os.path.join(HERE, "probelib", "run.py")
        target = [sys.executable, program, os.path.join(HERE, probe["file"]), folder]
    entry = run_process(target, timeout=probe["timeout"] + GRACE_SECONDS, environment=environment)
    entry["warm"] = warm
    entry["document"], entry["document_error"] = read_document(os.path.join(folder, "outcome.json"))
    return entry


def cache_environment(job):
    """Return where compilers at run time keep what they built: one folder, which may outlive the run."""
    folder = job.get("cache") or os.path.join(job["work"], "cache")
    places = {
        "CUDA_CACHE_PATH": "cuda",
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
        "TVM_FFI_CACHE_DIR": "tvm-ffi",
        "TILELANG_CACHE_DIR": "tilelang",
        "VLLM_CACHE_ROOT": "vllm",
        "XDG_CACHE_HOME": "xdg",
        "HF_HOME": "huggingface",
    }
    environment = {name: os.path.join(folder, place) for name, place in places.items()}
    for path in environment.values():
        os.makedirs(path, exist_ok=True)
    # The driver's own cache of compiled PTX: FlashAttention's code alone outgrows the default of 1 GiB.
    environment["CUDA_CACHE_MAXSIZE"] = str(4 << 30)
    home = os.environ.get("HOME", "")
    if not (home and os.access(home, os.W_OK)):
        environment["HOME"] = os.path.join(folder, "home")
        os.makedirs(environment["HOME"], exist_ok=True)
    return environment


def summary(entry):
    if "not_run" in entry:
        return "not run: " + entry["not_run"]
    document = entry["document"] or {}
    end = entry["signal"] or ("time-out" if entry["timed_out"] else f"exit {entry['exit_code']}")
    said = document.get("outcome", entry["document_error"])
    return f"{said} ({end}, {entry['seconds']:.1f} s) {document.get('reason', '')}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

"""Start a serving engine on the tiny model, ask it things, and hold its answers against the float64 reference.

An engine runs in a child of the probe (vllm_driver.py, sglang_driver.py), so that its memory is free again when the
next configuration starts, and its crash leaves the probe alive to tell of it.
"""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time

from harness import descendants, kill

from probelib.context import NotRun, Unsupported

HERE = os.path.dirname(os.path.abspath(__file__))
REFUSALS = (
    "is not supported on this",
    "is not valid for this configuration",
    "only supported on devices with compute capability",
    "not supported for compute capability",
    "is only supported on",
    "is required for",
    "requires compute capability",
    "attention backend is not supported",
    "only supports sm",
    "backend requires sm",
)
"""How engines say that the hardware cannot; said of a back end that was asked for, this is `unsupported`."""


class EngineFailed(RuntimeError):
    """The engine did not start or died; carries the end of what it said."""


def present(probe, *names):
    """Return which engines are installed; NotRun if none is."""
    found = [name for name in names if not probe.is_absent(name)]
    if not found:
        raise NotRun(" and ".join(names) + (" is" if len(names) == 1 else " are") + " not installed")
    return found


def prompts(seed, lengths):
    """Return reproducible prompts of bytes, as token ids."""
    import random

    source = random.Random(seed)
    return [[source.randrange(32, 127) for _ in range(length)] for length in lengths]


class Tiny:
    """The tiny model of one probe: its folder, and the reference."""

    def __init__(self, probe, *, awq=False):
        from probelib import tiny

        seed = int(os.environ.get("ASSAY_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
        probe.metric("seed", seed)
        self.seed = seed
        self.folder = os.path.join(probe.folder, "model-awq" if awq else "model")
        self.weights = tiny.write(self.folder, seed=seed, awq=awq)

    def check(self, probe, name, prompt, answer, *, tolerance=0.06, slack=0.25):
        """Compare the log-probabilities of one answer, and see that each token chosen was (nearly) the best one."""
        self.check_together(probe, name, [(prompt, answer)], tolerance=tolerance, slack=slack)

    def check_together(self, probe, name, answers, *, tolerance=0.06, slack=0.25):
        """Compare the log-probabilities of all answers [prompt, answer] as one, and each token chosen by itself.

        The tolerance is a root mean square in nats: bfloat16 costs some 0.02, attention that looks elsewhere 0.5 and
        more. Relative errors would blame a single likely token, whose log-probability is next to nothing, for both.

        It is one of several tokens: rounding to bfloat16 alone, emulated for prompts of 4136 tokens, put single tokens
        off by as much as 0.074, five together by 0.038 at most (450 tokens). Answers of one token are
        to be given together.
        """
        import torch

        from probelib.tiny import log_probabilities

        got, expected = [], []
        for prompt, answer in answers:
            tokens = answer["tokens"]
            table = log_probabilities(self.weights, prompt + tokens)
            steps = table[len(prompt) - 1 : len(prompt) + len(tokens) - 1]
            chosen = steps[torch.arange(len(tokens)), torch.tensor(tokens)]
            got += answer["logprobs"]
            expected.append(chosen.cpu())
            lag = (steps.max(-1).values - chosen).max().item()
            probe.worst(f"greedy_lag.{name}", lag)
            probe.require(
                f"{name}.greedy", lag <= slack, f"a token {lag:.2f} below the best in log-probability was chosen"
            )
            if answer.get("prompt_logprobs"):
                told = torch.tensor(answer["prompt_logprobs"])
                known = table[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])].cpu()
                close(probe, f"{name}.prompt", told, known, tolerance)
        close(probe, f"{name}.logprobs", torch.tensor(got), torch.cat(expected), tolerance)

    def check_sampled(self, probe, name, prompt, answer, **sampling):
        """See that each sampled token is one that the reference's distribution lets through, and what it says of it."""
        from probelib.sampling import impossible
        from probelib.tiny import log_probabilities

        tokens = answer["tokens"]
        cut = {key: value for key, value in sampling.items() if key != "seed"}
        probe.require(f"{name}.tokens", tokens, "no token was sampled")
        finite = all(isinstance(value, float) and math.isfinite(value) for value in answer["logprobs"])
        probe.require(f"{name}.finite", finite, f"log-probabilities are {answer['logprobs']}")
        table = log_probabilities(self.weights, prompt + tokens)[len(prompt) - 1 :].cpu().tolist()
        for at, (row, token) in enumerate(zip(table, tokens)):
            fault = impossible(row, token, **cut)
            probe.require(f"{name}.support", not fault, f"sampled token {at} cannot have been drawn: {fault}")


def agree(probe, name, ones, others, *, tolerance=0.06):
    """Compare the log-probabilities of two lists of answers [prompt, answer] to the same prompts, as one."""
    import torch

    one, other = (torch.tensor([x for _, answer in many for x in answer["logprobs"]]) for many in (ones, others))
    close(probe, name, one, other, tolerance)


def close(probe, name, got, expected, tolerance):
    """Compare log-probabilities by the root mean square of their differences, in nats; NaN never passes."""
    error = (got.double() - expected.double()).pow(2).mean().sqrt().item()
    probe.worst(f"nats.{name}", error)
    probe.worst(f"nats_max.{name}", (got.double() - expected.double()).abs().max().item())
    probe.require(name, error <= tolerance, f"log-probabilities are {error:.3g} nats off, tolerance {tolerance:g}")


def ask(probe, engine, label, *, model, arguments, tasks, timeout=240, environment=None, asked_for=None):
    """Start an engine, run tasks, return its answer document.

    arguments: of the engine's own constructor; `must` names those whose absence in this version is `API not found`.
    asked_for: a back end that was asked for; a refusal of the engine then is Unsupported.
    """
    job = os.path.join(probe.folder, f"{label}.job.json")
    answer = os.path.join(probe.folder, f"{label}.answer.json")
    log = os.path.join(probe.folder, f"{label}.log")
    with open(job, "w") as file:
        json.dump(
            {"model": model, "arguments": arguments, "tasks": tasks, "must": [asked_for[0]] if asked_for else []}, file
        )
    began = time.monotonic()
    stood = ""
    settings = {
        **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "PYTHONFAULTHANDLER": "1", "DO_NOT_TRACK": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TOKENIZERS_PARALLELISM": "false", **(environment or {}),
    }  # fmt: skip
    driver = os.path.join(HERE, f"{engine}_driver.py")
    with open(log, "wb") as out:
        child = subprocess.Popen([sys.executable, driver, job, answer], stdout=out, stderr=out, env=settings)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            stood = stop(child, log)
            code = "time-out"
    said = tail(log)
    sys.stderr.write(f"--- {engine} {label}, ended with {code}\n{said[-6000:]}\n")
    probe.metric(f"seconds.{label}", round(time.monotonic() - began, 2))
    document = {}
    if os.path.exists(answer):
        with open(answer) as file:
            document = json.load(file)
    if document.get("not_run"):
        raise NotRun(document["not_run"])
    error = document.get("error", "")
    if code == "time-out":
        raise TimeoutError(f"{engine} ({label}) gave no answer within {timeout} s" + (f"; {stood}" if stood else ""))
    if error or code != 0:
        text = error or f"{engine} ended with {signal_of(code)}"
        whole = (text + "\n" + said).lower()
        if "out of memory" in whole and "cuda" in whole:
            raise MemoryError(f"{engine} ({label}): {text[:300]}")
        if asked_for and any(mark in whole for mark in REFUSALS):
            refusal = next((line for line in reversed((said + "\n" + text).splitlines())
                            if any(mark in line.lower() for mark in REFUSALS)), text)  # fmt: skip
            raise Unsupported(f"{engine} refuses {asked_for[1]}: {refusal.strip()[:400]}")
        raise EngineFailed(f"{engine} ({label}): {best_line(text, said)}")
    document["seen"] = {**from_log(log), **{name: value for name, value in document["seen"].items() if value != ""}}
    for name, value in document["seen"].items():
        probe.metric(f"{label}.{name}", value)
    disturb(probe, document)
    return document


LOGGED = {
    "attention_backend": re.compile(r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]+) (?:attention )?backend\b"),
    "graphs": re.compile(r"Graph capturing finished in (\d+) sec"),
}
"""What vLLM's log tells of itself, for what its objects do not tell in some version."""


def from_log(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        said = file.read()
    found = {name: pattern.search(said) for name, pattern in LOGGED.items()}
    seen = {name: match.group(1) for name, match in found.items() if match}
    if "graphs" in seen:
        seen["graphs"] = 1
    return seen


def stop(child, log, *, patience=5.0):
    """End an engine that gives no answer, with all processes below it; return where each of them stood.

    SIGABRT makes a Python process write its stacks into the log, whatever it hangs in (PYTHONFAULTHANDLER is set).
    The innermost processes go first, lest they end with their parents before they have spoken.
    """
    below = descendants(child.pid)
    stood = [
        (name, last_frame(pid, log, patience)) for pid in [*reversed(below), child.pid] if (name := process_name(pid))
    ]
    kill([*below, child.pid])
    child.wait()
    return "; ".join(f"{name} stood in {frame}" for name, frame in reversed(stood) if frame)[:600]


def last_frame(pid, log, patience):
    """Abort a process and return the frame it stood in, as it tells in the log; empty if it tells nothing."""
    at = os.path.getsize(log)
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        os.kill(pid, signal.SIGABRT)
    except (ProcessLookupError, PermissionError):
        return ""
    ends = time.monotonic() + patience
    while running(pid) and time.monotonic() < ends:
        time.sleep(0.02)
    with open(log, "rb") as file:
        file.seek(at)
        return innermost(file.read(1 << 20).decode("utf-8", "replace"))


def process_name(pid):
    """Return what a process calls itself; nothing for those that only help: compilers' workers, resource trackers."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").rstrip("\0 ").split("\0")
    except OSError:
        return ""
    if not words[0] or any(mark in word for word in words for mark in ("compile_worker", "resource_tracker")):
        return ""
    # Engines rename their processes ("sglang::scheduler"); else the program tells more than the interpreter.
    return next((os.path.basename(word) for word in words if word.endswith(".py")), os.path.basename(words[0]))


def running(pid):
    """Whether a process is there and not yet dead; who has ended and was not waited for counts as dead."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def innermost(stacks):
    """Return "file.py:12 function" of the innermost frame of the thread that was hit, out of faulthandler's stacks."""
    hit = re.search(r'Current thread .*\n  File "(?:.*/)?(.+?)", line (\d+) in (\S+)', stacks)
    return "{}:{} {}".format(*hit.groups()) if hit else ""


def disturb(probe, document):
    """Under sabotage, make the answers what a broken kernel would make of them: the probe's own checks must see it.

    perturb: every log-probability is one nat off, more than any tolerance, and text loses its end; nan: one
    log-probability is not a number, and text is no JSON object.
    """
    if probe.sabotage not in ("perturb", "nan"):
        return
    probe.disturbed = True
    for done in document["tasks"]:
        for answer in done["answers"]:
            told = list(answer["logprobs"])
            if probe.sabotage == "perturb":
                told = [value - 1.0 for value in told]
            else:
                told[len(told) // 2] = float("nan")
            answer["logprobs"] = told
            answer["text"] = (answer.get("text") or "")[:-1] if probe.sabotage == "perturb" else "NaN"


def best_line(text, said):
    """Return the line that tells most: the engine's first own error rather than the wrapper's last."""
    # The name of an exception at the start of a line, or behind a log line's own prefix.
    lines = [match.group(0) for match in re.finditer(r"(?m)(?:^|[] ])((?:\w+\.)*\w+(?:Error|Exception): .+)$", said)]
    inner = next((line.strip("] ") for line in lines if "RuntimeError: Engine" not in line), "")
    return text[:600] + (f" | first error: {inner[:500]}" if inner and inner[:80] not in text else "")


def signal_of(code):
    import signal

    if isinstance(code, int) and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def tail(path, size=16000):
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - size))
        return file.read().decode("utf-8", "replace")


def common(engine, *, context=2048, graphs=False):
    """Return the arguments that keep a tiny engine small, by engine; graphs off unless asked for."""
    if engine == "vllm":
        # vLLM ends if others give memory back while it measures; with a size (known since 0.10.2) it does not measure.
        fixed = {"kv_cache_memory_bytes": 1 << 30} if os.environ.get("ASSAY_OTHERS") else {}
        return {
            **fixed,
            "max_model_len": context, "gpu_memory_utilization": 0.2, "enforce_eager": not graphs,
                "max_num_seqs": 16, "seed": 0, "disable_log_stats": True, "num_gpu_blocks_override": 2048,
        }  # fmt: skip
    return {
        "context_length": context, "mem_fraction_static": 0.3, "max_total_tokens": 32768, "max_running_requests": 16,
        "disable_cuda_graph": not graphs, "cuda_graph_max_bs": 8, "cuda_graph_max_bs_decode": 8,
        "cuda_graph_backend_prefill": None if graphs else "disabled", "random_seed": 0, "log_level": "info",
        "skip_server_warmup": True,
    }  # fmt: skip

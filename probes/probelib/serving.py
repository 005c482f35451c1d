"""The probes of the engine level, shared by vLLM and SGLang."""

import json

from probelib.context import NotRun
from probelib.engine import Tiny, agree, ask, common, present, prompts
from probelib.sampling import alike

CARD_POOL = 16384
"""Tokens that the card may hold where the tier in the host's memory is to be seen."""
LENGTHS = (1, 5, 17, 64, 200)
TEMPERATURE = 0.8
CUTS = {"top_p": {"top_p": 0.9}, "top_k": {"top_k": 20, "top_p": 0.9}, "min_p": {"min_p": 0.1, "top_p": 0.9}}
"""How distributions are cut before tokens are drawn."""
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
OTHERS_THAN_MARLIN = (
    "MacheteLinearKernel", "CutlassW4A8LinearKernel", "AllSparkLinearKernel", "HummingLinearKernel",
)  # fmt: skip
"""vLLM's kernels for 4-bit weights that it may prefer to Marlin."""
CHOICE = {"type": "string", "enum": ["north", "south", "east", "west"]}


def generation(probe, engine):
    """Start, greedy decode, sampling, and CUDA graphs on against off: all must agree with the reference."""
    present(probe, engine)
    model = Tiny(probe)
    asked = prompts(model.seed, LENGTHS)
    tasks = [
        {"name": "alone", "prompts": asked[-1:], "max_tokens": 24, "prompt_logprobs": True},
        {"name": "batch", "prompts": asked, "max_tokens": 24},
        {"name": "single", "prompts": asked[2:3], "max_tokens": 64, "flush": True},
        *sampled_tasks(engine, asked, model.seed),
        {"name": "greedy again", "prompts": asked[1:3], "max_tokens": 24, "flush": True},
    ]
    seconds = {}
    for label, graphs in (("eager", False), ("graphs", True)):
        document = ask(
            probe, engine, label, model=model.folder, arguments=common(engine, graphs=graphs), tasks=tasks, timeout=280
        )
        for task, done in zip(tasks, document["tasks"]):
            check = model.check_sampled if "sampling" in task else model.check
            for prompt, answer in zip(task["prompts"], done["answers"]):
                check(probe, f"{label}.{task['name']}", prompt, answer, **task.get("sampling", {}))
            if task["name"] == "single":
                seconds[label] = done["seconds"]
        really_sampled(probe, label, tasks, document["tasks"])
        probe.metric(f"tokens_per_second.{label}", 64 / seconds[label])
        if graphs and "graphs" in document["seen"]:
            probe.require("graphs captured", document["seen"]["graphs"] > 0, "the engine captured no CUDA graph")
        if graphs:
            off = document["seen"].get("disable_cuda_graph") == "True"
            probe.require("graphs really used", not off, "the engine switched CUDA graphs off by itself")
    probe.faster("graphs", seconds["graphs"], seconds["eager"])


def sampled_tasks(engine, asked, seed):
    """Return tasks for each way to cut a distribution, which have kernels of their own; with a seed, twice.

    vLLM promises the same tokens for the same seed of a request; SGLang does so in a mode of its own only.
    """
    tasks = [
        {"name": name, "prompts": asked, "max_tokens": 24, "sampling": {"temperature": TEMPERATURE, **cut}}
        for name, cut in CUTS.items()
    ]
    if engine == "vllm":
        sampling = {"temperature": TEMPERATURE, **CUTS["top_k"], "seed": seed % 2**31}
        one = {"name": "seeded", "prompts": asked[2:3], "max_tokens": 32, "sampling": sampling, "flush": True}
        tasks += [one, {**one, "name": "same seed"}]
    return tasks


def really_sampled(probe, label, tasks, done):
    """See that tokens were drawn and not just the likeliest taken, and that a seed repeats what it drew."""
    answers = {task["name"]: some["answers"] for task, some in zip(tasks, done)}
    greedy = [answer["tokens"] for answer in answers["batch"]]
    for name in CUTS:
        drawn = [answer["tokens"] for answer in answers[name]]
        probe.require(f"{label}.{name}", drawn != greedy, "with a temperature the engine gives the greedy answers")
    if "seeded" in answers:
        one, other = (answers[name][0]["tokens"] for name in ("seeded", "same seed"))
        common = alike(one, other)
        probe.metric(f"same_seed_tokens.{label}", common)
        # Rounding that differs may part them late; without the seed they have one or two tokens in common.
        told = f"the same seed gave other tokens after {common} of {len(one)}"
        probe.require(f"{label}.same seed", common >= min(8, len(one)), told)


def attention_backend(probe, engine, backend, *, reads=None, packages=()):
    """One attention back end: it starts, it is the one really used, its answers agree with the reference.

    packages: those that the back end comes from, where the engine does not bring it along. They are asked for before
    the engine starts: each engine has words of its own for one that is not there, none of which mean a fault.
    """
    for name in (engine, *packages):
        present(probe, name)
    model = Tiny(probe)
    asked = prompts(model.seed, LENGTHS)
    tasks = [
        {"name": "alone", "prompts": asked[-1:], "max_tokens": 24, "prompt_logprobs": True},
        {"name": "batch", "prompts": asked, "max_tokens": 24},
    ]
    arguments = {**common(engine), "attention_backend": backend}
    document = ask(
        probe, engine, "engine", model=model.folder, arguments=arguments, tasks=tasks, timeout=280,
        asked_for=("attention_backend", backend),
    )  # fmt: skip
    used = document["seen"].get("attention_backend", "")
    if used:
        probe.equal("back end really used", used.lower(), (reads or backend).lower())
    else:
        probe.note("this version does not tell which back end it uses")
    for task, done in zip(tasks, document["tasks"]):
        for prompt, answer in zip(task["prompts"], done["answers"]):
            model.check(probe, task["name"], prompt, answer)


def prefix_cache(probe, engine, *, arguments=None, must=None, host=False):
    """A shared prefix: tokens come from the cache, answers stay right, the first token comes no later.

    host: the cache has a second tier in the host's memory. The prefix is asked for again after so many other prompts
    that it cannot have stayed on the card, whose pool `CARD_POOL` keeps small.
    """
    present(probe, engine)
    model = Tiny(probe)
    shared, *tails = prompts(model.seed, (4096, 40, 41, 42, 43, 44, 45, 46))
    others = prompts(model.seed + 1, (4136,) * 6)
    tasks = [{"name": "warm up", "prompts": [others[0]], "max_tokens": 4, "flush": True}]
    for index, tail in enumerate(tails[1:6]):
        # Cold: a prompt of the same length that nobody has seen. Warm: the shared prefix with a tail of its own.
        tasks.append({"name": "cold", "prompts": [others[index + 1]], "max_tokens": 1})
        if index == 0:
            tasks.append({"name": "first", "prompts": [shared + tails[0]], "max_tokens": 4})
        tasks.append({"name": "warm", "prompts": [shared + tail], "max_tokens": 1})
    switched_on = {"vllm": {"enable_prefix_caching": True}, "sglang": {}}
    tasks.append({"name": "decode", "prompts": [shared + tails[6]], "max_tokens": 16})
    crowd = prompts(model.seed + 2, (4136,) * (CARD_POOL // 4136 + 2)) if host else []
    for tail in tails[1:6] if host else ():
        tasks += [{"name": "crowd", "prompts": [prompt], "max_tokens": 1} for prompt in crowd]
        tasks.append({"name": "host", "prompts": [shared + tail], "max_tokens": 1})
    tasks.append({"name": "fresh", "prompts": [shared + tails[6]], "max_tokens": 16, "flush": True})
    # The warm prompts once more, each with nothing in the cache.
    tasks += [{"name": "again", "prompts": [shared + tail], "max_tokens": 1, "flush": True} for tail in tails[1:6]]
    document = ask(
        probe, engine, "engine", model=model.folder, tasks=tasks, timeout=280, asked_for=must,
        arguments={
            **common(engine, context=8192), **switched_on[engine], **({"max_total_tokens": CARD_POOL} if host else {}),
            **(arguments or {}),
        },
    )  # fmt: skip
    pool = document["seen"].get("max_total_num_tokens")
    if host and pool and int(pool) >= sum(map(len, crowd)):
        raise NotRun(f"the card's pool has {pool} tokens where {CARD_POOL} were asked for: nothing leaves it")
    seconds = {"cold": [], "warm": [], "host": []}
    answers = {"warm": [], "again": [], "host": []}
    for task, done in zip(tasks, document["tasks"]):
        answer, prompt = done["answers"][0], task["prompts"][0]
        cached_rightly(probe, task["name"], prompt, answer, len(shared))
        if task["name"] in ("decode", "fresh"):
            model.check(probe, task["name"], prompt, answer)
        if task["name"] in seconds:
            seconds[task["name"]].append(done["seconds"])
        if task["name"] in answers:
            answers[task["name"]].append((prompt, answer))
    # One token each, so that the time is that of the first token. Cold first: what it is off is bfloat16's doing.
    tiers = ("warm", "host") if host else ("warm",)
    for name in ("again", *tiers):
        model.check_together(probe, name, answers[name])
    for name in tiers:
        agree(probe, f"{name}_against_cold", answers[name], answers["again"])
    middle = {name: sorted(values)[len(values) // 2] for name, values in seconds.items() if values}
    for name, value in middle.items():
        probe.metric(f"first_token_ms.{name}", value * 1000)
    probe.faster("time to first token", middle["warm"], middle["cold"], slack=1.25)


def cached_rightly(probe, name, prompt, answer, shared):
    """See that as many tokens of an answer came from the cache as must have, and from where."""
    cached = answer["cached"] or 0
    if name in ("warm", "decode", "host"):
        probe.require("cached tokens", cached > 0, "the second request with the same prefix found nothing in the cache")
        probe.require("cached prefix", 2048 <= cached <= len(prompt), f"{cached} of {shared} shared tokens cached")
        probe.metric("cached_tokens", cached)
        # Newer versions tell where the tokens were found; of older ones it follows from the size of the card's pool.
        found = (answer.get("tiers") or {}).get("host")
        if name == "host" and found is not None:
            probe.metric("cached_tokens.host", found)
            probe.require("from the host", found >= 2048, f"{found} of {cached} tokens came from the host's memory")
    elif name in ("cold", "fresh", "first", "again"):
        probe.require("nothing cached when cold", cached <= 64, f"{cached} tokens cached for an unseen prompt")


def chunked_prefill(probe, engine):
    """A prompt many chunks long, alone and beside decoding requests."""
    present(probe, engine)
    model = Tiny(probe)
    long, *short = prompts(model.seed, (1500, 7, 33, 64))
    size = {
        "vllm": {"max_num_batched_tokens": 128, "enable_chunked_prefill": True},
        "sglang": {"chunked_prefill_size": 128},
    }
    tasks = [
        {"name": "alone", "prompts": [long], "max_tokens": 8},
        {"name": "mixed", "prompts": [*short, long], "max_tokens": 24, "flush": True},
    ]
    document = ask(
        probe, engine, engine, model=model.folder, tasks=tasks, timeout=280,
        arguments={**common(engine), **size[engine]}, asked_for=(next(iter(size[engine])), "chunked prefill"),
    )  # fmt: skip
    # vLLM cannot take a prompt longer than its budget in any other way; SGLang tells what it made of the wish.
    chunk = int(document["seen"].get("chunked_prefill_size") or 128)
    probe.require("chunks really used", 0 < chunk < len(long), f"chunks of {chunk} tokens, a prompt of {len(long)}")
    for task, done in zip(tasks, document["tasks"]):
        for prompt, answer in zip(task["prompts"], done["answers"]):
            model.check(probe, f"{engine}.{task['name']}", prompt, answer)


def structured_output(probe, engine):
    """Output held to a JSON schema: what random weights say must still parse and fit."""
    present(probe, engine)
    model = Tiny(probe)
    asked = prompts(model.seed, (20, 33, 50, 8))
    tasks = [{"name": "json", "prompts": asked, "max_tokens": 256, "schema": SCHEMA, "choice": CHOICE}]
    # Random weights love white space, which JSON allows without end; each version has its own way to forbid it.
    # One that has none is held to a choice, in which there is no place for it.
    compact = {
        "structured_outputs_config": {"disable_any_whitespace": True, "backend": "xgrammar"},
        "guided_decoding_disable_any_whitespace": True,
        "constrained_json_disable_any_whitespace": True,
    }
    arguments = {**common(engine), **compact}
    document = ask(probe, engine, engine, model=model.folder, tasks=tasks, timeout=280, arguments=arguments)
    compact_json = document["seen"].get("compact_json", True)
    for answer in document["tasks"][0]["answers"]:
        try:
            # xgrammar 0.2 lets raw control characters into strings with a maxLength: bad JSON, no fault of the card.
            value = json.loads(answer["text"], strict=False)
        except ValueError:
            value = None
        fits = fits_schema(value) if compact_json else value in CHOICE["enum"]
        probe.require(
            f"{engine} schema", fits, f"{answer['text'][:200]!r} does not fit the schema ({answer['finish']})"
        )


def fits_schema(value):
    return (
        isinstance(value, dict) and set(value) == {"name", "age", "tags"} and isinstance(value["name"], str)
        and isinstance(value["age"], int) and 0 <= value["age"] <= 99
        and isinstance(value["tags"], list) and len(value["tags"]) == 2 and set(value["tags"]) <= {"a", "b"}
    )  # fmt: skip


def quantised(probe, engine):
    """An AWQ INT4 model through Marlin: loaded by the real loader, answers against the dequantised reference."""
    present(probe, engine)
    model = Tiny(probe, awq=True)
    asked = prompts(model.seed, LENGTHS)
    tasks = [
        {"name": "alone", "prompts": asked[-1:], "max_tokens": 24, "prompt_logprobs": True},
        {"name": "batch", "prompts": asked, "max_tokens": 24},
    ]
    document = ask(
        # SGLang 0.5.14 compiles Marlin at its first use, which took more than 340 s on a host with a busy processor.
        probe, engine, engine, model=model.folder, tasks=tasks, timeout=620,
        arguments={**common(engine), "quantization": "awq_marlin", "dtype": "float16"},
        # On Hopper vLLM takes Machete or Humming; this probe asks about Marlin, which is what sm_120 gets.
        environment={"VLLM_DISABLED_KERNELS": ",".join(OTHERS_THAN_MARLIN)},
        asked_for=("quantization", "awq_marlin"),
    )  # fmt: skip
    used = " ".join(str(document["seen"].get(name, "")) for name in ("quantization", "linear_methods"))
    if used.strip():
        probe.require("quantisation really used", "marlin" in used.lower(), f"the engine multiplies through {used!r}")
    else:
        probe.note("this version does not tell how it multiplies")
    for task, done in zip(tasks, document["tasks"]):
        for prompt, answer in zip(task["prompts"], done["answers"]):
            model.check(probe, f"{engine}.{task['name']}", prompt, answer)


def fp8_cache(probe, engine):
    """The key-value cache in FP8: answers close to the reference (FP8 itself costs some accuracy)."""
    present(probe, engine)
    model = Tiny(probe)
    asked = prompts(model.seed, (64, 200))
    tasks = [{"name": "batch", "prompts": asked, "max_tokens": 16}]
    name = "fp8" if engine == "vllm" else "fp8_e4m3"
    document = ask(
        probe, engine, engine, model=model.folder, tasks=tasks, timeout=280, asked_for=("kv_cache_dtype", name),
        arguments={**common(engine), "kv_cache_dtype": name},
    )  # fmt: skip
    used = document["seen"].get("kv_cache_dtype", "")
    probe.metric(f"kv_cache_dtype.{engine}", used)
    probe.require("type really used", not used or "fp8" in used, f"the engine keeps its cache in {used}")
    for prompt, answer in zip(asked, document["tasks"][0]["answers"]):
        model.check(probe, f"{engine}.fp8", prompt, answer, tolerance=0.4, slack=1.5)


def each(probe, check, *engines, **arguments):
    """Run a check for every engine that the image has."""
    for engine in present(probe, *engines):
        check(probe, engine, **arguments)

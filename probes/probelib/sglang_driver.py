"""Run SGLang for a probe: python3 sglang_driver.py JOB.json ANSWER.json; the engine's processes are below this one."""

import json
import os
import sys
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

COMPACT = "constrained_json_disable_any_whitespace"
TELLS = (
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "sampling_backend", "quantization",
    "kv_cache_dtype", "disable_cuda_graph", "chunked_prefill_size", "max_total_num_tokens",
)  # fmt: skip


def work(job, answer):
    import sglang

    # What sglang.Engine takes is documented as the arguments of this class.
    from sglang.srt.server_args import ServerArgs

    from probelib.calls import names_of
    from probelib.driver import known_of, told

    known = names_of(ServerArgs)
    arguments = known_of(known, job, f"ServerArgs of SGLang {getattr(sglang, '__version__', '')}".strip())
    began = time.monotonic()
    engine = sglang.Engine(model_path=job["model"], **arguments)
    answer["seen"]["start_seconds"] = round(time.monotonic() - began, 2)
    # Until its first request SGLang 0.5.2 does not listen to its scheduler: get_server_info and flush_cache would wait
    # for ever. No prompt of a probe begins with this token.
    engine.generate(input_ids=[[1]], sampling_params={"temperature": 0.0, "max_new_tokens": 1})
    answer["seen"].update(told(information, engine) or {})
    if COMPACT in job["arguments"]:
        answer["seen"]["compact_json"] = COMPACT in known
    for task in job["tasks"]:
        answer["tasks"].append(run_task(engine, task, COMPACT in known))


def information(engine):
    """Return what the engine tells of its configuration, as texts."""
    tells = engine.get_server_info()
    seen = {name: str(tells[name]) for name in TELLS if tells.get(name) is not None}
    # Newer versions decide on graphs by phase, and leave `disable_cuda_graph` as it was given.
    decode = (tells.get("cuda_graph_config") or {}).get("decode") or {}
    if decode.get("backend") == "disabled":
        seen["disable_cuda_graph"] = "True"
    return seen


def run_task(engine, task, compact):
    from probelib.calls import flushed

    if task.get("flush"):
        flushed(engine.flush_cache)
        time.sleep(0.2)
    parameters = {"temperature": 0.0, "max_new_tokens": task["max_tokens"], "ignore_eos": "schema" not in task}
    # A seed of one request counts in SGLang's deterministic mode only.
    parameters.update({name: value for name, value in task.get("sampling", {}).items() if name != "seed"})
    if "schema" in task:
        # SGLang 0.5.2 has no way to forbid white space, which random weights then write without end.
        parameters["json_schema"] = json.dumps(task["schema" if compact else "choice"])
    extra = {"logprob_start_len": 0} if task.get("prompt_logprobs") else {}
    began = time.perf_counter()
    outputs = engine.generate(input_ids=task["prompts"], sampling_params=parameters, return_logprob=True, **extra)
    seconds = time.perf_counter() - began
    answers = []
    for output in outputs:
        about = output["meta_info"]
        one = {
            "tokens": [token for _, token, *_ in about["output_token_logprobs"]],
            "logprobs": [value for value, *_ in about["output_token_logprobs"]],
            "text": output["text"],
            "cached": about.get("cached_tokens"),
            "tiers": about.get("cached_tokens_details"),
            "finish": (about.get("finish_reason") or {}).get("type"),
        }
        if task.get("prompt_logprobs"):
            one["prompt_logprobs"] = [value for value, *_ in about["input_token_logprobs"][1:]]
        answers.append(one)
    return {"name": task["name"], "seconds": seconds, "answers": answers}


if __name__ == "__main__":
    from probelib.driver import drive

    drive(work, *sys.argv[1:])

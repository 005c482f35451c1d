"""Run SGLang for a probe: python3 sglang_driver.py JOB.json ANSWER.json; the engine's processes are below this one."""

import dataclasses
import json
import os
import sys
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

COMPACT = "constrained_json_disable_any_whitespace"


def main(job_path, answer_path):
    with open(job_path) as file:
        job = json.load(file)
    answer = {"tasks": [], "seen": {}, "error": ""}
    try:
        work(job, answer)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        answer["error"] = f"{type(error).__name__}: {error}"[:3000] or "failed"
    with open(answer_path, "w") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def work(job, answer):
    import sglang
    from sglang.srt.server_args import ServerArgs

    known = {field.name for field in dataclasses.fields(ServerArgs)}
    missing = [name for name in job["must"] if name not in known]
    if missing:
        answer["api_not_found"] = f"ServerArgs.{missing[0]} of SGLang {sglang.__version__}"
        return
    arguments = {name: value for name, value in job["arguments"].items() if name in known}
    began = time.monotonic()
    engine = sglang.Engine(model_path=job["model"], **arguments)
    answer["seen"]["start_seconds"] = round(time.monotonic() - began, 2)
    # Until its first request SGLang 0.5.2 does not listen to its scheduler: get_server_info and flush_cache would wait
    # for ever. No prompt of a probe begins with this token.
    engine.generate(input_ids=[[1]], sampling_params={"temperature": 0.0, "max_new_tokens": 1})
    information = engine.get_server_info()
    for name in ("attention_backend", "prefill_attention_backend", "decode_attention_backend", "sampling_backend",
                 "quantization", "kv_cache_dtype", "disable_cuda_graph", "chunked_prefill_size",
                 "max_total_num_tokens"):  # fmt: skip
        if information.get(name) is not None:
            answer["seen"][name] = str(information[name])
    if COMPACT in job["arguments"]:
        answer["seen"]["compact_json"] = COMPACT in known
    for task in job["tasks"]:
        answer["tasks"].append(run_task(engine, task, COMPACT in known))


def run_task(engine, task, compact):
    from probelib.calls import flushed

    if task.get("flush"):
        flushed(engine.flush_cache)
        time.sleep(0.2)
    parameters = {"temperature": 0.0, "max_new_tokens": task["max_tokens"], "ignore_eos": "schema" not in task}
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
    main(*sys.argv[1:])

"""Run vLLM for a probe: python3 vllm_driver.py JOB.json ANSWER.json; this process is the engine's own."""

import dataclasses
import json
import os
import sys
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    arguments = dict(job["arguments"])
    backend = arguments.pop("attention_backend", None)
    if backend:
        if "attention_backend" in known:
            arguments["attention_backend"] = backend
        else:
            os.environ["VLLM_ATTENTION_BACKEND"] = backend
    missing = [name for name in job["must"] if name not in known and name != "attention_backend"]
    if missing:
        answer["api_not_found"] = f"EngineArgs.{missing[0]} of vLLM {vllm.__version__}"
        return
    began = time.monotonic()
    llm = LLM(model=job["model"], **{name: value for name, value in arguments.items() if name in known})
    answer["seen"]["start_seconds"] = round(time.monotonic() - began, 2)
    answer["seen"]["attention_backend"] = backends(llm)
    answer["seen"]["linear_methods"] = linear_methods(llm)
    answer["seen"]["quantization"] = str(getattr(llm.llm_engine.vllm_config.model_config, "quantization", ""))
    answer["seen"]["kv_cache_dtype"] = str(llm.llm_engine.vllm_config.cache_config.cache_dtype)
    try:
        from vllm.compilation.counter import compilation_counter

        answer["seen"]["graphs"] = compilation_counter.num_cudagraph_captured
    except ImportError:
        pass
    for task in job["tasks"]:
        answer["tasks"].append(run_task(llm, SamplingParams, task))


def backends(llm):
    """Return the attention back ends that the layers really use, as the model runner holds them."""
    try:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        groups = [group for groups in runner.attn_groups for group in groups]
        return " ".join(sorted({group.backend.get_name() for group in groups}))
    except AttributeError:
        return ""


def linear_methods(llm):
    """Return the classes that multiply matrices in the loaded model, kernels chosen by them included."""
    try:
        model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    except AttributeError:
        return ""
    found = set()
    for module in model.modules():
        for holder in (getattr(module, "quant_method", None), getattr(module, "scheme", None)):
            if holder is not None:
                found.add(type(holder).__name__)
                kernel = getattr(holder, "kernel", None)
                if kernel is not None:
                    found.add(type(kernel).__name__)
    return " ".join(sorted(found))


def run_task(llm, parameters, task):
    from probelib.calls import flushed

    if task.get("flush"):
        flushed(llm.reset_prefix_cache)
    arguments = {
        "temperature": 0.0,
        "max_tokens": task["max_tokens"],
        "logprobs": 1,
        "ignore_eos": "schema" not in task,
    }
    if task.get("prompt_logprobs"):
        arguments["prompt_logprobs"] = 0
    if "schema" in task:
        try:
            from vllm.sampling_params import StructuredOutputsParams

            arguments["structured_outputs"] = StructuredOutputsParams(json=task["schema"])
        except ImportError:
            from vllm.sampling_params import GuidedDecodingParams

            arguments["guided_decoding"] = GuidedDecodingParams(json=task["schema"])
    began = time.perf_counter()
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in task["prompts"]], parameters(**arguments), use_tqdm=False
    )
    seconds = time.perf_counter() - began
    answers = []
    for output in outputs:
        choice = output.outputs[0]
        tokens = list(choice.token_ids)
        one = {
            "tokens": tokens,
            "text": choice.text,
            "logprobs": [step[token].logprob for step, token in zip(choice.logprobs, tokens)],
            "cached": output.num_cached_tokens,
            "finish": choice.finish_reason,
        }
        if task.get("prompt_logprobs"):
            one["prompt_logprobs"] = [
                step[token].logprob for step, token in zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:])
            ]
        answers.append(one)
    return {"name": task["name"], "seconds": seconds, "answers": answers}


if __name__ == "__main__":
    main(*sys.argv[1:])

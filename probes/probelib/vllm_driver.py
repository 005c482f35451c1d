"""Run vLLM for a probe: python3 vllm_driver.py JOB.json ANSWER.json; this process is the engine's own."""

import os
import sys
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def work(job, answer):
    import vllm
    from vllm import LLM, EngineArgs, SamplingParams

    from probelib.calls import names_of
    from probelib.driver import known_of, told

    # LLM hands on to EngineArgs what it does not name itself.
    known = names_of(EngineArgs) | names_of(LLM)
    if "attention_backend" in job["arguments"] and "attention_backend" not in known:
        os.environ["VLLM_ATTENTION_BACKEND"] = job["arguments"]["attention_backend"]
        job["must"] = [name for name in job["must"] if name != "attention_backend"]
    arguments = known_of(known, job, f"EngineArgs of vLLM {getattr(vllm, '__version__', '')}".strip())
    began = time.monotonic()
    llm = LLM(model=job["model"], **arguments)
    answer["seen"]["start_seconds"] = round(time.monotonic() - began, 2)
    for tell in (attention_backend, linear_methods, quantization, kv_cache_dtype, graphs):
        answer["seen"][tell.__name__] = told(tell, llm)
    for task in job["tasks"]:
        answer["tasks"].append(run_task(llm, SamplingParams, task))


def attention_backend(llm):
    """Return the attention back ends that the layers of the loaded model really use."""

    def of(model):
        layers = (module for module in model.modules() if hasattr(module, "get_attn_backend"))
        return {layer.get_attn_backend().get_name() for layer in layers}

    return " ".join(sorted(set().union(*llm.apply_model(of))))


def linear_methods(llm):
    """Return the classes that multiply matrices in the loaded model, kernels chosen by them included."""

    def of(model):
        found = set()
        for module in model.modules():
            for holder in (getattr(module, "quant_method", None), getattr(module, "scheme", None)):
                kernel = getattr(holder, "kernel", None)
                found.update(type(one).__name__ for one in (holder, kernel) if one is not None)
        return found

    return " ".join(sorted(set().union(*llm.apply_model(of))))


def quantization(llm):
    return str(llm.llm_engine.vllm_config.model_config.quantization or "")


def kv_cache_dtype(llm):
    return str(llm.llm_engine.vllm_config.cache_config.cache_dtype)


def graphs(_):
    from vllm.compilation.counter import compilation_counter

    return compilation_counter.num_cudagraph_captured


def run_task(llm, parameters, task):
    from probelib.calls import flushed

    if task.get("flush"):
        flushed(llm.reset_prefix_cache)
    arguments = {
        "temperature": 0.0,
        "max_tokens": task["max_tokens"],
        "logprobs": 1,
        "ignore_eos": "schema" not in task,
        **task.get("sampling", {}),
    }
    if task.get("prompt_logprobs"):
        arguments["prompt_logprobs"] = 0
    if "schema" in task:
        # Before 0.11 the class and the argument had other names.
        import vllm.sampling_params as module

        if hasattr(module, "StructuredOutputsParams"):
            arguments["structured_outputs"] = module.StructuredOutputsParams(json=task["schema"])
        else:
            arguments["guided_decoding"] = module.GuidedDecodingParams(json=task["schema"])
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
    from probelib.driver import drive

    drive(work, *sys.argv[1:])

"""Imitations of serving engines that take exactly what a release takes, by its recorded surface (tests/assets/api)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMMON = '''
import inspect
import json
import os

with open(os.environ["SURFACE"]) as file:
    SURFACE = json.load(file)

def takes(name, names, body):
    """Make a function that takes these names and no others, as Python itself checks it."""
    words = [word if word.startswith("*") else word + "=None" for word in names.split()]
    space = {"body": body}
    code = f"def {name}(self, {', '.join(words)}):\\n    return body(self, **given(locals()))"
    space["given"] = lambda found: {key: value for key, value in found.items() if key not in ("self",)}
    exec(code, space)
    return space[name]

def method(owner, name, body):
    if name in SURFACE["methods"]:
        setattr(owner, name, takes(name, SURFACE["methods"][name], body))

def refuse(given, names, what):
    for name in given:
        if name not in names.split():
            raise TypeError(f"Unexpected keyword argument {name!r} of {what}")
'''

SGLANG = {
    "sglang/__init__.py": COMMON
    + """
from sglang.srt.server_args import ServerArgs

__version__ = SURFACE["version"]

class Engine:
    def __init__(self, **kwargs):
        refuse(kwargs, SURFACE["constructor"]["arguments"], "ServerArgs")
        self.given = kwargs
        self.listens = False

def generate(self, input_ids, sampling_params, **_):
    self.listens = True
    refuse(sampling_params, SURFACE["sampling"], "SamplingParams")
    count = sampling_params["max_new_tokens"]
    outputs = []
    for ids in input_ids:
        about = {
            "output_token_logprobs": [(-1.0, 7, None)] * count, "cached_tokens": 0, "cached_tokens_details": None,
            "input_token_logprobs": [(None, ids[0], None), *((-1.0, token, None) for token in ids[1:])],
            "finish_reason": {"type": "length"},
        }
        about = {key: value for key, value in about.items() if key in SURFACE["answer"].split()}
        outputs.append({"text": "a", "meta_info": about})
    return outputs

def get_server_info(self):
    assert self.listens, "would wait for ever"
    phases = {"decode": {"backend": "disabled" if self.given.get("disable_cuda_graph") else "full"}}
    newer = {} if SURFACE["constructor"]["dataclass"] else {"cuda_graph_config": phases}
    return {**self.given, **newer, "max_total_num_tokens": 32768}

class Flushed:
    success = True

def flush_cache(self, **_):
    assert self.listens, "would wait for ever"
    return Flushed()

method(Engine, "generate", generate)
method(Engine, "get_server_info", get_server_info)
method(Engine, "flush_cache", flush_cache)
""",
    "sglang/srt/__init__.py": "",
    "sglang/srt/server_args.py": '''
import dataclasses
import inspect
import json
import os

with open(os.environ["SURFACE"]) as file:
    told = json.load(file)["constructor"]

if told["dataclass"]:
    ServerArgs = dataclasses.make_dataclass("ServerArgs", [(name, object, None) for name in told["arguments"].split()])
else:
    class ServerArgs:
        """No data class: its signature is made, as msgspec makes it."""

        __signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in told["arguments"].split()]
        )
''',
}

VLLM = {
    "vllm/__init__.py": COMMON
    + """
import dataclasses
import types

from vllm.sampling_params import SamplingParams

__version__ = SURFACE["version"]
EngineArgs = dataclasses.make_dataclass(
    "EngineArgs", [(name, object, None) for name in SURFACE["constructor"]["arguments"].split()]
)

class Backend:
    @staticmethod
    def get_name():
        return os.environ.get("VLLM_ATTENTION_BACKEND") or LLM.backend or "FLASH_ATTN"

class Layer:
    quant_method = types.SimpleNamespace(kernel=None)

    def get_attn_backend(self):
        return Backend

class Model:
    def modules(self):
        return [Layer()]

class LLM:
    backend = None

def start(self, **given):
    rest = given.pop("kwargs", {})
    refuse(rest, SURFACE["constructor"]["arguments"], "EngineArgs")
    LLM.backend = rest.get("attention_backend")
    if not SURFACE.get("hidden"):
        bag = types.SimpleNamespace
        config = bag(model_config=bag(quantization=None), cache_config=bag(cache_dtype="auto"))
        self.llm_engine = bag(vllm_config=config)

LLM.__init__ = takes("__init__", SURFACE["llm"], start)

def told(kind, values):
    return types.SimpleNamespace(**{k: v for k, v in values.items() if k in SURFACE["answer"][kind].split()})

def generate(self, prompts, sampling_params, **_):
    outputs = []
    for prompt in prompts:
        ids = prompt["prompt_token_ids"]
        step = types.SimpleNamespace(logprob=-1.0)
        choice = told("CompletionOutput", {
            "text": "a", "finish_reason": "length", "token_ids": [7] * sampling_params.max_tokens,
            "logprobs": [{7: step}] * sampling_params.max_tokens,
        })
        outputs.append(told("RequestOutput", {
            "outputs": [choice], "num_cached_tokens": 0, "prompt_token_ids": ids,
            "prompt_logprobs": [None, *({token: step} for token in ids[1:])],
        }))
    return outputs

method(LLM, "generate", generate)
method(LLM, "apply_model", lambda self, func: [func(Model())])
method(LLM, "reset_prefix_cache", lambda self, **_: True)
""",
    "vllm/sampling_params.py": """
import dataclasses
import json
import os

with open(os.environ["SURFACE"]) as file:
    surface = json.load(file)

def of(name, names):
    return dataclasses.make_dataclass(name, [(word, object, None) for word in names.split()])

SamplingParams = of("SamplingParams", surface["sampling"])
structured = surface["structured"]
globals()[structured["class"]] = of(structured["class"], structured["arguments"])
""",
}


def write_engine(folder: Path, surface: dict[str, Any]) -> Path:
    """Write an imitation of an engine into a folder to be put on the path; returns the file for SURFACE."""
    for name, text in {"sglang": SGLANG, "vllm": VLLM}[surface["engine"]].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    told = folder / "surface.json"
    told.write_text(json.dumps(surface))
    return told

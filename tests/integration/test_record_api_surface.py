"""The tool that records an engine's surface reads a package without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLAIN = """
import not_there
@dataclasses.dataclass
class ServerArgs:
    model_path: str
    known: ClassVar[int] = 3
    disable_cuda_graph: bool = False
"""
MADE = """
import not_there
class ServerArgs:
    def __post_init__(self): ...
ServerArgs = msgspec.defstruct("ServerArgs", fields)
"""
GROUP = """
class Model(msgspec.Struct):
    _NS_PATH = "model"
    model_path: A[str, "help"]
    disable_cuda_graph: A[bool, "help"] = False
    resolved = Derived(bool)
class Helper:
    other: int
"""
FILES = {
    "srt/entrypoints/engine.py": "class Engine:\n    def generate(self, prompt=None, *, seed=0, **more): ...\n",
    "srt/sampling/sampling_params.py": "class SamplingParams:\n    def __init__(self, top_p=1.0, **kwargs): ...\n",
    "srt/managers/tokenizer_manager.py": (
        "def answer(meta_info):\n    meta_info = {'id': 1}\n    meta_info['cached_tokens'] = 2\n"
        "    meta_info.update({'finish_reason': 3})\n    other = {'text': 4}\n"
    ),
    "jit_kernel/gptq_marlin.py": "def gptq_marlin_gemm(a, b): ...\ndef _private(): ...\n",
}


def record(root: Path, tmp_path: Path, files: dict[str, str]) -> Any:
    wheel = tmp_path / "wheel"
    (wheel / "sglang-1.2.dist-info").mkdir(parents=True)
    for name, text in {**FILES, **files}.items():
        path = wheel / "sglang" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    subprocess.run([sys.executable, root / "tools" / "record_api_surface.py", wheel, tmp_path], check=True)

    return json.loads((tmp_path / "sglang-1.2.json").read_text())


@pytest.mark.parametrize(
    ("files", "dataclass"),
    [
        ({"srt/server_args.py": PLAIN}, True),
        ({"srt/server_args.py": MADE, "srt/arg_groups/fields/model.py": GROUP}, False),
    ],
    ids=["data class", "made of structures"],
)
def test_constructor_arguments_are_read_from_its_signature(
    root: Path, tmp_path: Path, files: dict[str, str], dataclass: bool
) -> None:
    surface = record(root, tmp_path, files)

    assert {
        "class": "ServerArgs", "dataclass": dataclass, "arguments": "disable_cuda_graph model_path",
    } == surface["constructor"]  # fmt: skip


def test_methods_answers_and_functions_are_read(root: Path, tmp_path: Path) -> None:
    surface = record(root, tmp_path, {"srt/server_args.py": PLAIN})

    assert {"generate": "prompt seed **more"} == surface["methods"]
    assert "top_p **kwargs" == surface["sampling"]
    assert "cached_tokens finish_reason id" == surface["answer"]
    assert {"sglang.jit_kernel.gptq_marlin": {"gptq_marlin_gemm": "a b"}} == surface["modules"]

# ruff: noqa: INP001
"""Writes tests/assets/api/ENGINE-VERSION.json: `python tools/record_api_surface.py FOLDER tests/assets/api`.

FOLDER is where a wheel of vLLM or SGLang is unpacked. It is read, never imported, so this runs on any machine. A file
holds the names that an engine documents and the probes rest on: constructors' arguments, methods, sampling parameters,
the fields of answers, and the functions of its modules that probes call. Names of one function stand in one text.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FUNCTIONS = {
    "sglang": (
        "srt/layers/quantization/marlin_utils.py", "srt/layers/moe/fused_moe_triton/fused_marlin_moe.py",
        "srt/layers/moe/fused_marlin_moe.py", "jit_kernel/gptq_marlin.py", "jit_kernel/awq_marlin_repack.py",
        "jit_kernel/gptq_marlin_repack.py", "jit_kernel/nvfp4.py", "kernels/ops/gemm/gptq_marlin.py",
        "kernels/ops/quantization/awq_marlin_repack.py", "kernels/ops/quantization/gptq_marlin_repack.py",
        "srt/distributed/device_communicators/custom_all_reduce.py",
    ),
    "vllm": (
        "_custom_ops.py", "model_executor/layers/quantization/utils/marlin_utils.py",
        "model_executor/layers/quantization/utils/marlin_utils_fp4.py",
        "model_executor/layers/fused_moe/fused_moe.py", "model_executor/layers/fused_moe/fused_marlin_moe.py",
        "model_executor/layers/fused_moe/experts/marlin_moe.py", "vllm_flash_attn/flash_attn_interface.py",
        "distributed/device_communicators/custom_all_reduce.py",
    ),
}  # fmt: skip
"""The modules whose functions probes call by name."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def classes(tree: ast.AST) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names a function takes, `*` and `**` of those that it takes without naming them included."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs) if one.arg != "self"]
    return names + [mark + one.arg for mark, one in (("*", given.vararg), ("**", given.kwarg)) if one]


def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.If | ast.Try):
            found.update(functions(node.body))
    return found


def fields(node: ast.ClassDef) -> list[str]:
    """Return the annotated fields of a class: of data classes and of msgspec's structures alike."""
    return [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    ]


def taken(node: ast.ClassDef) -> list[str]:
    """Return what a constructor takes: the arguments of __init__ or, where none is written, the fields."""
    return functions(node.body).get("__init__") or fields(node)


def methods(node: ast.ClassDef, names: tuple[str, ...]) -> dict[str, list[str]]:
    found = functions(node.body)
    return {name: found[name] for name in names if name in found}


def answered(tree: ast.AST, name: str) -> set[str]:
    """Return the keys that are put into a dictionary of this name anywhere in a module."""

    def keys(value: ast.AST) -> Iterator[str]:
        if isinstance(value, ast.Dict):
            yield from (key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))

    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    found.update(keys(node.value))
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                    found.add(ast.literal_eval(target.slice) if isinstance(target.slice, ast.Constant) else "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == f"{name}.update":
            found.update(key for argument in node.args for key in keys(argument))
    return found - {""}


def sglang(package: Path) -> dict[str, Any]:
    server_args = parse(package / "srt/server_args.py")
    plain = fields(classes(server_args)["ServerArgs"])
    grouped = sorted((package / "srt/arg_groups/fields").glob("*.py"))
    engine = classes(parse(package / "srt/entrypoints/engine.py"))["Engine"]
    manager = parse(package / "srt/managers/tokenizer_manager.py")
    # From 0.5.23 on the class is made of the fields of several structures, and is not a data class.
    names = plain or [
        name
        for path in grouped
        for node in classes(parse(path)).values()
        if "_NS_PATH" in ast.unparse(node)
        for name in fields(node)
    ]
    decorated = any("dataclass" in ast.unparse(one) for one in classes(server_args)["ServerArgs"].decorator_list)
    return {
        "constructor": {"class": "ServerArgs", "dataclass": decorated, "arguments": sorted(set(names))},
        "methods": methods(engine, ("generate", "flush_cache", "get_server_info")),
        "sampling": taken(classes(parse(package / "srt/sampling/sampling_params.py"))["SamplingParams"]),
        "answer": sorted(answered(manager, "meta_info")),
    }


def vllm(package: Path) -> dict[str, Any]:
    arg_utils = classes(parse(package / "engine/arg_utils.py"))["EngineArgs"]
    llm_module = parse(package / "entrypoints/llm.py")
    llm = classes(llm_module)["LLM"]
    sampling = classes(parse(package / "sampling_params.py"))
    outputs = classes(parse(package / "outputs.py"))
    structured = next(name for name in ("StructuredOutputsParams", "GuidedDecodingParams") if name in sampling)
    return {
        "constructor": {"class": "EngineArgs", "dataclass": True, "arguments": sorted(fields(arg_utils))},
        "llm": functions(llm.body)["__init__"],
        "methods": methods(llm, ("generate", "apply_model", "reset_prefix_cache")),
        "sampling": taken(sampling["SamplingParams"]),
        "structured": {"class": structured, "arguments": taken(sampling[structured])},
        "answer": {name: sorted(taken(outputs[name])) for name in ("RequestOutput", "CompletionOutput")},
    }


def lines(value: Any) -> Any:
    """Write lists of names as one text each, which takes a line and shows in a difference of two files."""
    if isinstance(value, dict):
        return {key: lines(item) for key, item in value.items()}
    return " ".join(value) if isinstance(value, list) else value


def main() -> None:
    """Read one unpacked wheel and write its file."""
    folder, target = map(Path, sys.argv[1:3])
    about = next(iter(folder.glob("*.dist-info")))
    engine, version = about.name.removesuffix(".dist-info").split("-")
    package = folder / engine
    surface = {"sglang": sglang, "vllm": vllm}[engine](package)
    modules = {}
    for name in FUNCTIONS[engine]:
        path = package / name
        if path.exists():
            tree = parse(path)
            modules[f"{engine}.{name.removesuffix('.py').replace('/', '.')}"] = {
                name: names
                for name, names in (
                    *functions(tree.body).items(),
                    *((node.name, taken(node)) for node in classes(tree).values()),
                )
                if not name.startswith("_")
            }
    document = {"engine": engine, "version": version, **surface, "modules": modules}
    text = json.dumps(lines(document), indent=1, sort_keys=True)
    (target / f"{engine}-{version}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

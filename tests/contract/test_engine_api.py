"""The engines' releases against what the probes rest on: their recorded surfaces (tools/record_api_surface.py)."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_stubs import write_engine

ROOT = Path(__file__).parents[2]
SURFACES = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "assets" / "api").glob("*.json"))
}
FP4 = {"scaled_fp4_quant", "cutlass_scaled_fp4_mm"}
MISSING = {
    # sgl-kernel 0.3.9 holds them, but for the mixture of experts, which came later.
    "sglang-0.5.2": {
        *FP4, "gptq_marlin_gemm", "awq_marlin_repack", "gptq_marlin_repack", "fused_marlin_moe",
    },
    # FlashInfer multiplies in FP4.
    # The Marlin product of 0.5.20 stands where no probe looks: the probe says that it found no API.
    "sglang-0.5.20": {*FP4, "gptq_marlin_gemm"},
    "sglang-0.5.21": FP4, "sglang-0.5.22": FP4, "sglang-0.5.23": FP4,
}  # fmt: skip
"""The functions that a release does not hold itself, wherever the probes look."""
UNKNOWN = {
    "sglang-0.5.2": {
        "constrained_json_disable_any_whitespace", "cuda_graph_backend_prefill", "cuda_graph_max_bs_decode",
    },
    **{f"sglang-{version}": {"cuda_graph_max_bs"} for version in ("0.5.20", "0.5.21", "0.5.22", "0.5.23")},
    # Its back end is chosen by an environment variable.
    "vllm-0.11.0": {"attention_backend"},
    **{
        f"vllm-{version}": {"guided_decoding_disable_any_whitespace"}
        for version in ("0.30.0", "0.31.0", "0.32.0", "0.33.0")
    },
}  # fmt: skip
"""The arguments of each release's engine that the probes would give it and that it does not know."""
OTHERS = {
    "sglang": {"structured_outputs_config", "guided_decoding_disable_any_whitespace"},
    "vllm": {"constrained_json_disable_any_whitespace"},
}
"""What structured_output names for the other engine."""
RUNNER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import importlib
driver = importlib.import_module(f"probelib.{sys.argv[2]}_driver")
from probelib.driver import answer_of
with open(sys.argv[3]) as file:
    jobs = json.load(file)
answers = []
for job in jobs:
    os.environ.pop("VLLM_ATTENTION_BACKEND", None)
    answers.append(answer_of(driver.work, job))
with open(sys.argv[4], "w") as file:
    json.dump(answers, file)
"""


class Asked(Exception):
    """Ends a probe when it has asked for an engine."""


class Model:
    seed, folder = 7, "model"

    def __init__(self, *_: object, **__: object) -> None: ...


@pytest.fixture
def jobs_of(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Collect what every program of the suite asks of an engine, by feature."""
    serving, context = library("probelib.serving"), library("probelib.context")

    def collect(engine: str) -> dict[str, Any]:
        jobs: dict[str, Any] = {}

        def present(_: object, *names: str) -> list[str]:
            if names[0] in ("vllm", "sglang") and engine not in names:
                raise context.NotRun("another engine's")
            return [engine]

        def ask(_: object, asked: str, label: str, **job: Any) -> None:
            assert engine == asked
            must = [job["asked_for"][0]] if job.get("asked_for") else []
            jobs[program.stem] = {**job, "must": must}
            raise Asked

        monkeypatch.setattr(serving, "present", present)
        monkeypatch.setattr(serving, "ask", ask)
        monkeypatch.setattr(serving, "Tiny", Model)
        for program in sorted((ROOT / "probes" / "features").glob("*.py")):
            if "serving" not in program.read_text():
                continue
            spec = importlib.util.spec_from_file_location(program.stem, program)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            with contextlib.suppress(Asked, context.NotRun):
                module.run(context.Context(folder=str(tmp_path)))
        return jobs

    return collect


def drive(folder: Path, surface: dict[str, Any], jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run an engine's driver on an imitation of a release; returns its answers."""
    told = write_engine(folder, surface)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run(
        [
            sys.executable, "-c", RUNNER, ROOT / "probes", surface["engine"], folder / "jobs.json",
            folder / "answers.json",
        ],
        env={**os.environ, "PYTHONPATH": str(folder), "SURFACE": str(told)}, check=True, timeout=120,
    )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads((folder / "answers.json").read_text())
    return answers


def known(surface: dict[str, Any]) -> set[str]:
    return {*surface["constructor"]["arguments"].split(), *surface.get("llm", "").split()}


def test_every_release_of_the_matrix_is_recorded() -> None:
    locked = {
        line.split()[0].replace("==", "-")
        for lock in (ROOT / "images").glob("*/cells/*/lock.txt")
        for line in lock.read_text().splitlines()
        if line.startswith(("vllm==", "sglang=="))
    }

    assert locked
    assert locked <= SURFACES.keys()


@pytest.mark.parametrize("release", SURFACES)
def test_every_probe_of_an_engine_is_answered_by_every_release(jobs_of: Any, tmp_path: Path, release: str) -> None:
    surface = SURFACES[release]
    jobs = jobs_of(surface["engine"])

    answers = dict(zip(jobs, drive(tmp_path, surface, list(jobs.values())), strict=True))

    assert 9 < len(jobs)
    for name, answer in answers.items():
        assert ("", "") == (answer["error"], answer["not_run"]), name
        assert [task["name"] for task in jobs[name]["tasks"]] == [task["name"] for task in answer["tasks"]]
        assert all(len(task["prompts"]) == len(done["answers"])
                   for task, done in zip(jobs[name]["tasks"], answer["tasks"], strict=True))  # fmt: skip


@pytest.mark.parametrize("release", SURFACES)
def test_the_arguments_that_a_release_does_not_know_are_known(jobs_of: Any, release: str) -> None:
    """A new release that lost an argument fails here, before its cells are measured without it."""
    surface = SURFACES[release]

    used = {name for job in jobs_of(surface["engine"]).values() for name in job["arguments"]}

    assert UNKNOWN[release] == used - known(surface) - OTHERS[surface["engine"]]


@pytest.mark.parametrize("release", SURFACES)
def test_engine_behaviour_is_passed_to_the_probes(jobs_of: Any, tmp_path: Path, release: str) -> None:
    """Evidence that nothing but a stub without insides may lack."""
    surface = SURFACES[release]
    jobs = jobs_of(surface["engine"])
    name = next(name for name in jobs if "_on_" in name)
    backend = jobs[name]["arguments"]["attention_backend"]

    (answer,) = drive(tmp_path, surface, [jobs[name]])

    assert backend == answer["seen"]["attention_backend"]


def test_graphs_that_a_phase_has_switched_off_are_reported(jobs_of: Any, tmp_path: Path) -> None:
    jobs = jobs_of("sglang")
    off = {**jobs["sglang_engine"], "arguments": {"disable_cuda_graph": True}}

    told = drive(tmp_path, SURFACES["sglang-0.5.23"], [off, {**off, "arguments": {}}])

    assert ["True", None] == [answer["seen"].get("disable_cuda_graph") for answer in told]


def without(surface: dict[str, Any], *path: str) -> dict[str, Any]:
    """Return a surface that lacks one name."""
    changed = copy.deepcopy(surface)
    *holders, name = path
    found = changed
    for holder in holders[:-1]:
        found = found[holder]
    if isinstance(found[holders[-1]], dict):
        del found[holders[-1]][name]
    else:
        found[holders[-1]] = " ".join(word for word in found[holders[-1]].split() if word != name)
    return changed


@pytest.mark.parametrize(
    ("release", "gone", "told"),
    [
        (
            "sglang-0.5.23",
            ("constructor", "arguments", "attention_backend"),
            "attention_backend of ServerArgs of",
        ),
        ("sglang-0.5.23", ("methods", "flush_cache"), "'Engine' object has no attribute 'flush_cache'"),
        ("sglang-0.5.23", ("methods", "generate", "return_logprob"), "unexpected keyword argument 'return_logprob'"),
        ("sglang-0.5.23", ("answer", "output_token_logprobs"), "'output_token_logprobs'"),
        ("vllm-0.33.0", ("constructor", "arguments", "attention_backend"), ""),
        ("vllm-0.33.0", ("constructor", "arguments", "max_num_batched_tokens"), "max_num_batched_tokens of EngineArgs"),
        ("vllm-0.33.0", ("methods", "reset_prefix_cache"), "'LLM' object has no attribute 'reset_prefix_cache'"),
        ("vllm-0.33.0", ("methods", "generate", "use_tqdm"), "unexpected keyword argument 'use_tqdm'"),
        ("vllm-0.33.0", ("sampling", "min_p"), "unexpected keyword argument 'min_p'"),
        ("vllm-0.33.0", ("answer", "RequestOutput", "num_cached_tokens"), "no attribute 'num_cached_tokens'"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_release_that_takes_a_name_away_is_not_tried(
    jobs_of: Any, tmp_path: Path, release: str, gone: tuple[str, ...], told: str
) -> None:
    surface = without(SURFACES[release], *gone)
    jobs = jobs_of(surface["engine"])

    answers = drive(tmp_path, surface, list(jobs.values()))

    assert {""} == {answer["error"] for answer in answers}
    assert bool(told) is any(answer["not_run"] for answer in answers)
    for answer in answers:
        if answer["not_run"]:
            assert answer["not_run"].startswith("API not found: ")
            assert told in answer["not_run"]


def test_release_without_readable_arguments_is_not_tried(jobs_of: Any, tmp_path: Path) -> None:
    surface = copy.deepcopy(SURFACES["sglang-0.5.23"])
    surface["constructor"]["arguments"] = ""

    (answer,) = drive(tmp_path, surface, [jobs_of("sglang")["sglang_engine"]])

    assert "API not found: arguments of ServerArgs of SGLang 0.5.23" == answer["not_run"]


def test_an_engine_that_hides_its_insides_still_answers(jobs_of: Any, tmp_path: Path) -> None:
    surface = {**without(SURFACES["vllm-0.33.0"], "methods", "apply_model"), "hidden": True}
    jobs = jobs_of("vllm")

    (answer,) = drive(tmp_path, surface, [jobs["vllm_engine"]])

    assert ("", "") == (answer["error"], answer["not_run"])
    assert len(jobs["vllm_engine"]["tasks"]) == len(answer["tasks"])
    assert {""} == {value for name, value in answer["seen"].items() if name != "start_seconds"}


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of a function or a method's owner in all of the probes, with where they stand."""
    for path in sorted((ROOT / "probes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                owner = called.value if isinstance(called, ast.Attribute) else called
                if isinstance(owner, ast.Name) and owner.id == name:
                    yield f"{path.name}:{node.lineno}", node


@pytest.mark.parametrize("release", SURFACES)
def test_every_function_that_moved_is_found_where_a_release_has_it(release: str) -> None:
    surface = SURFACES[release]
    missing = set()
    for _, node in calls("first"):
        paths = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        own = [path.split(":") for path in paths if path.startswith(surface["engine"] + ".")]
        # scalar_types is not a function: its modules are not recorded.
        if own and "scalar_types" not in paths[0] and not any(
            name in surface["modules"].get(module, {}) for module, name in own
        ):  # fmt: skip
            missing.add(own[0][1])

    assert MISSING.get(release, set()) == missing


@pytest.mark.parametrize("release", [name for name in SURFACES if name.startswith("vllm")])
def test_every_call_of_vllms_operations_fits_each_release(release: str) -> None:
    operations = SURFACES[release]["modules"]["vllm._custom_ops"]
    seen = set()
    for where, node in calls("ops"):
        assert isinstance(node.func, ast.Attribute)
        name = node.func.attr
        seen.add(name)
        assert name in operations, where
        names = operations[name].split()
        count = sum(6 if isinstance(word, ast.Starred) else 1 for word in node.args)
        starred = any(isinstance(word, ast.Starred) for word in node.args)
        assert starred or count <= len(names), where
        assert {word.arg for word in node.keywords} <= set(names), where

    assert {"rms_norm", "rotary_embedding", "cutlass_scaled_mm", "scaled_fp8_quant", "reshape_and_cache_flash"} <= seen

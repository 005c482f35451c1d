"""What the programs of the suite decide without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


def program(root: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, root / "probes" / "features" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_back_end_whose_package_is_missing_is_not_tried(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    context = library("probelib.context")
    (tmp_path / engine).mkdir()
    (tmp_path / engine / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    module = program(root, f"{engine}_on_flashinfer")

    with pytest.raises(context.NotRun, match=r"^flashinfer is not installed$"):
        module.run(context.Context(folder=str(tmp_path)))


def test_a_flash_attn_without_its_function_is_not_api(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: sgl-kernel 0.3.9 installs flash_attn/cute, and no flash_attn."""
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    probe = library("probelib.context").Context(folder=str(tmp_path))

    assert [] == list(library("probelib.flash").providers(probe, 2))
    assert ["flash_attn is there without flash_attn_varlen_func"] == probe.notes


def test_an_engine_that_refuses_to_empty_its_cache_is_asked_again(library: Any) -> None:
    class Answer:
        def __init__(self, success: bool) -> None:
            self.success = success

    flushed = library("probelib.calls").flushed
    for answers in ([False, False, True], [Answer(success=False), Answer(success=True)], [None], [True]):
        left = list(answers)
        flushed(lambda left=left: left.pop(0), pause=0)
        assert [] == left

    with pytest.raises(RuntimeError, match="did not empty its cache"):
        flushed(lambda: Answer(success=False), seconds=0.01, pause=0)


class Tiers:
    """An engine whose cache holds prompts on the card and, driven out of there, in the host's memory; LRU."""

    def __init__(self, card: int, host: int, *, tells: bool = True) -> None:
        self.card, self.host, self.tells = card, host, tells
        self._kept: list[list[int]] = []

    def answer(self, task: dict[str, Any]) -> dict[str, Any]:
        if task.get("flush"):
            self._kept = []
        (prompt,) = task["prompts"]
        found, tier = 0, "device"
        used = 0
        for index, known in enumerate(reversed(self._kept)):
            used += len(known)
            same = next((at for at, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), len(known))
            if same > found and used <= self.card + (self.host or 0):
                found, tier = min(same, len(prompt) - 1), "device" if used <= self.card else "host"
                most = index
        if found > 64:
            del self._kept[len(self._kept) - 1 - most]
        else:
            found = 0
        self._kept.append(prompt)
        tiers = {"device": 0, "host": 0, tier: found} if self.tells and found else None
        one = {"tokens": [1], "logprobs": [-1.0], "text": "", "cached": found, "tiers": tiers, "finish": "length"}
        return {"name": task["name"], "seconds": 0.1, "answers": [one]}


class Model:
    def __init__(self, probe: Any) -> None:
        self.seed, self.folder = 7, ""

    def check(self, probe: Any, name: str, prompt: list[int], answer: dict[str, Any], **_: float) -> None:
        probe.require(name, answer["logprobs"] == [-1.0], "another log-probability")

    def check_sampled(self, probe: Any, name: str, prompt: list[int], answer: dict[str, Any], **_: float) -> None:
        probe.require(name, answer["tokens"] != [0], "cannot have been drawn")

    def check_together(self, probe: Any, name: str, answers: list[tuple[list[int], dict[str, Any]]]) -> None:
        assert 5 == len(answers)
        for prompt, answer in answers:
            self.check(probe, name, prompt, answer)


def ask_the_cache(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Tiers, *, sabotage: str = ""
) -> Any:
    serving, context = library("probelib.serving"), library("probelib.context")
    probe = context.Context(folder=str(tmp_path), sabotage=sabotage)

    def ask(*_: object, tasks: list[dict[str, Any]], arguments: dict[str, Any], **__: object) -> dict[str, Any]:
        assert arguments["max_total_tokens"] == serving.CARD_POOL
        document = {
            "tasks": [engine.answer(task) for task in tasks],
            "seen": {"max_total_num_tokens": str(engine.card)},
        }
        library("probelib.engine").disturb(probe, document)
        return document

    monkeypatch.setattr(serving, "ask", ask)
    monkeypatch.setattr(serving, "present", lambda *_: None)
    monkeypatch.setattr(serving, "Tiny", Model)
    monkeypatch.setattr(serving, "agree", lambda *_: None)
    program(root, "hierarchical_cache").run(probe)
    return probe


@pytest.mark.parametrize("tells", [True, False])
def test_hierarchical_cache_returns_evicted_prefixes(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    probe = ask_the_cache(library, root, tmp_path, monkeypatch, Tiers(16384, 65536, tells=tells))

    assert 4096 <= probe.metrics["cached_tokens"]
    assert {"first_token_ms.cold", "first_token_ms.warm", "first_token_ms.host"} <= probe.metrics.keys()


def test_a_second_tier_that_gives_nothing_back_is_wrong(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache on the card alone passes every check but this one."""
    with pytest.raises(library("probelib.context").Wrong, match="found nothing in the cache"):
        ask_the_cache(library, root, tmp_path, monkeypatch, Tiers(16384, 0))


def test_a_card_that_keeps_everything_proves_nothing_of_the_host(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(library("probelib.context").NotRun, match="nothing leaves it"):
        ask_the_cache(library, root, tmp_path, monkeypatch, Tiers(400_000, 65536))


@pytest.mark.parametrize("kind", ["perturb", "nan"])
def test_answers_that_are_disturbed_are_found_by_the_checks_themselves(
    library: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with pytest.raises(library("probelib.context").Wrong, match="another log-probability"):
        ask_the_cache(library, root, tmp_path, monkeypatch, Tiers(16384, 65536), sabotage=kind)


@pytest.mark.parametrize(
    ("check", "seen", "told"),
    [
        ("generation", {"disable_cuda_graph": "True"}, "switched CUDA graphs off"),
        ("chunked_prefill", {"chunked_prefill_size": "8192"}, "chunks of 8192 tokens"),
        ("chunked_prefill", {"chunked_prefill_size": "-1"}, "chunks of -1 tokens"),
        ("fp8_cache", {"kv_cache_dtype": "bfloat16"}, "keeps its cache in bfloat16"),
    ],
)
def test_an_engine_that_does_something_else_than_it_was_asked_for_proves_nothing(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, check: str, seen: dict[str, str], told: str
) -> None:
    serving, context = library("probelib.serving"), library("probelib.context")
    good = {"disable_cuda_graph": "False", "chunked_prefill_size": "128", "kv_cache_dtype": "fp8_e4m3"}
    answer = {"tokens": [1], "logprobs": [-1.0], "text": "", "cached": 0, "finish": "length"}

    def run(said: dict[str, str]) -> None:
        def ask(*_: object, tasks: list[dict[str, Any]], **__: object) -> dict[str, Any]:
            # Sampled answers are others than the greedy ones, as a sampler's are.
            found = [{**answer, "tokens": [2]} if "sampling" in task else answer for task in tasks]
            done = [
                {"seconds": 0.1, "answers": [one] * len(task["prompts"])}
                for one, task in zip(found, tasks, strict=True)
            ]
            return {"tasks": done, "seen": said}

        monkeypatch.setattr(serving, "ask", ask)
        getattr(serving, check)(context.Context(folder=str(tmp_path)), "sglang")

    monkeypatch.setattr(serving, "present", lambda *_: None)
    monkeypatch.setattr(serving, "Tiny", Model)
    run(good)
    run({})
    with pytest.raises(context.Wrong, match=told):
        run({**good, **seen})


def generate(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, answers: Any) -> Any:
    """Run the probe of generation on answers made up: `answers` says what tokens a task gets."""
    serving, context = library("probelib.serving"), library("probelib.context")

    def ask(*_: object, tasks: list[dict[str, Any]], **__: object) -> dict[str, Any]:
        one = {"logprobs": [-1.0], "text": "", "cached": 0, "finish": "length"}
        done = [
            {"seconds": 0.1, "answers": [{**one, "tokens": answers(task)} for _ in task["prompts"]]} for task in tasks
        ]
        return {"tasks": done, "seen": {}}

    monkeypatch.setattr(serving, "ask", ask)
    monkeypatch.setattr(serving, "present", lambda *_: None)
    monkeypatch.setattr(serving, "Tiny", Model)
    probe = context.Context(folder=str(tmp_path))
    serving.generation(probe, engine)
    return probe


def drawn(task: dict[str, Any]) -> list[int]:
    return list(range(2, 34)) if "sampling" in task else [1]


@pytest.mark.parametrize(("engine", "seeds"), [("vllm", 2), ("sglang", 0)])
def test_generation_samples_in_each_way_and_decodes_greedily_afterwards(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, seeds: int
) -> None:
    asked: list[dict[str, Any]] = []

    def answers(task: dict[str, Any]) -> list[int]:
        asked.append(task)
        return drawn(task)

    probe = generate(library, tmp_path, monkeypatch, engine, answers)

    sampled = [task["sampling"] for task in asked if "sampling" in task]
    assert {"top_p", "top_k", "min_p", "temperature"} <= {name for cut in sampled for name in cut}
    assert 2 * seeds == sum("seed" in cut for cut in sampled)
    assert "sampling" not in asked[-1]
    assert (32 if seeds else None) == probe.metrics.get("same_seed_tokens.graphs")


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (lambda task: [1], "gives the greedy answers"),
        (lambda task: [0] if "min_p" in task.get("sampling", {}) else drawn(task), "cannot have been drawn"),
        (lambda task: [9, 9] * 16 if task["name"] == "same seed" else drawn(task), "other tokens after 0 of 32"),
    ],
    ids=["temperature", "cut", "seed"],
)
def test_sampler_that_ignores_its_parameters_is_wrong(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Any, told: str
) -> None:
    with pytest.raises(library("probelib.context").Wrong, match=told):
        generate(library, tmp_path, monkeypatch, "vllm", answers)

"""Programs of the suite and the drivers of engines, in processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HANGING_DRIVER = """
import os, subprocess, sys, time

def waits_below():
    print("below", os.getpid(), flush=True)
    time.sleep(600)

def waits_for_the_answer():
    time.sleep(600)

if len(sys.argv) == 2:
    waits_below()
subprocess.Popen([sys.executable, __file__, "below"])
waits_for_the_answer()
"""


def test_an_engine_that_hangs_tells_where_and_is_ended_with_all_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    engine, context = library("probelib.engine"), library("probelib.context")
    (tmp_path / "idle_driver.py").write_text(HANGING_DRIVER)
    monkeypatch.setattr(engine, "HERE", str(tmp_path))

    with pytest.raises(TimeoutError) as caught:
        engine.ask(context.Context(folder=str(tmp_path)), "idle", "one", model="", arguments={}, tasks=[], timeout=3)

    assert "idle (one) gave no answer within 3 s" in str(caught.value)
    assert re.search(r"idle_driver.py stood in idle_driver.py:\d+ waits_for_the_answer", str(caught.value))
    assert re.search(r"idle_driver.py stood in idle_driver.py:\d+ waits_below", str(caught.value))
    (below,) = re.findall(r"below (\d+)", (tmp_path / "one.log").read_text())
    assert not engine.running(int(below))


ANSWERING_DRIVER = """
import json, sys
print("INFO cuda.py: Using AttentionBackendEnum.FLASH_ATTN backend.")
print("INFO runner: Graph capturing finished in 4 secs, took 0.1 GiB")
with open(sys.argv[1]) as file:
    told = json.load(file)["model"]
with open(sys.argv[2], "w") as file:
    json.dump({"tasks": [], "seen": {"attention_backend": told}, "error": "", "not_run": ""}, file)
"""


@pytest.mark.parametrize(("told", "seen"), [("", "FLASH_ATTN"), ("TRITON_ATTN", "TRITON_ATTN")])
def test_log_supplies_facts_that_the_engine_does_not_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any, told: str, seen: str
) -> None:
    engine, context = library("probelib.engine"), library("probelib.context")
    (tmp_path / "logging_driver.py").write_text(ANSWERING_DRIVER)
    monkeypatch.setattr(engine, "HERE", str(tmp_path))
    probe = context.Context(folder=str(tmp_path))

    document = engine.ask(probe, "logging", "one", model=told, arguments={}, tasks=[])

    assert {"attention_backend": seen, "graphs": 1} == document["seen"]
    assert seen == probe.metrics["one.attention_backend"]


def test_missing_engine_api_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    engine, context = library("probelib.engine"), library("probelib.context")
    lacking = ANSWERING_DRIVER.replace('"not_run": ""', '"not_run": "API not found: generate of LLM"')
    (tmp_path / "lacking_driver.py").write_text(lacking)
    monkeypatch.setattr(engine, "HERE", str(tmp_path))

    with pytest.raises(context.NotRun, match=r"^API not found: generate of LLM$"):
        engine.ask(context.Context(folder=str(tmp_path)), "lacking", "one", model="", arguments={}, tasks=[])


DEAF_SGLANG = """
class Engine:
    def __init__(self, model_path, **arguments):
        self.listens = False

    def generate(self, input_ids, sampling_params, return_logprob=False, **_):
        self.listens = True
        about = {"output_token_logprobs": [(-1.0, 7)], "cached_tokens": 0, "finish_reason": {"type": "length"}}
        return [{"text": sampling_params.get("json_schema", "a"), "meta_info": about} for _ in input_ids]

    def get_server_info(self):
        assert self.listens, "would wait for ever"
        return {"attention_backend": "fa3"}

    def flush_cache(self):
        assert self.listens, "would wait for ever"
"""
SERVER_ARGS = """
import dataclasses

@dataclasses.dataclass
class ServerArgs:
    model_path: str = ""
"""
COMPACT = "constrained_json_disable_any_whitespace"


def ask_sglang(root: Path, tmp_path: Path, job: dict[str, Any], *, more: str = "") -> Any:
    """Run SGLang's driver on an imitation; returns its answer.

    Args:
        more: another argument that this version knows.
    """
    package = tmp_path / "sglang"
    (package / "srt").mkdir(parents=True)
    (package / "__init__.py").write_text(DEAF_SGLANG)
    (package / "srt" / "__init__.py").touch()
    (package / "srt" / "server_args.py").write_text(SERVER_ARGS + (f"    {more}: bool = False\n" if more else ""))
    (tmp_path / "job.json").write_text(json.dumps({"model": "", "arguments": {}, "must": [], **job}))

    driver = root / "probes" / "probelib" / "sglang_driver.py"
    subprocess.run(
        [sys.executable, driver, tmp_path / "job.json", tmp_path / "answer.json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True, timeout=60,
    )  # fmt: skip

    answer = json.loads((tmp_path / "answer.json").read_text())
    assert "" == answer["error"]
    return answer


def test_sglang_is_asked_nothing_before_its_first_request(root: Path, tmp_path: Path) -> None:
    """SGLang 0.5.2 listens to its scheduler from the first request on, and waits for ever for what comes before."""
    task = {"name": "first", "prompts": [[40, 41]], "max_tokens": 1, "flush": True}

    answer = ask_sglang(root, tmp_path, {"tasks": [task]})

    assert {"attention_backend": "fa3"} == {k: v for k, v in answer["seen"].items() if k != "start_seconds"}
    assert [7] == answer["tasks"][0]["answers"][0]["tokens"]


@pytest.mark.parametrize("compact", [True, False])
def test_sglang_that_cannot_forbid_white_space_is_held_to_a_choice(root: Path, tmp_path: Path, compact: bool) -> None:
    """Random weights write white space without end where a schema lets them."""
    task = {
        "name": "json",
        "prompts": [[40]],
        "max_tokens": 9,
        "schema": {"of": "an object"},
        "choice": {"of": "words"},
    }
    job = {"arguments": {COMPACT: True}, "tasks": [task]}

    answer = ask_sglang(root, tmp_path, job, more=COMPACT if compact else "")

    assert compact is answer["seen"]["compact_json"]
    assert task["schema" if compact else "choice"] == json.loads(answer["tasks"][0]["answers"][0]["text"])

"""The engines that this machine's Python has, started for real on a tiny model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from assay.adapters.executors.local import LocalTaskHost
from assay.adapters.files.records import FileStore
from assay.adapters.files.serving import load_profiles, load_server_flags
from assay.adapters.http.openai import OpenAiClient
from assay.evidence.record import ServeStatus
from assay.pipeline.bench import Contestant, LoadShape, bench
from assay.pipeline.serve import local_job
from assay.pipeline.serve_check import ServeRequest, serve_check

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "sglang": ("python3", "-m", "sglang.launch_server"),
    "vllm": ("python3", "-m", "vllm.entrypoints.cli.main", "serve"),
}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([sys.executable, str(ROOT / "bench" / "tiny_model.py"), str(folder)], check=True)
    return str(folder)


def request(engine: str, model: str) -> ServeRequest:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed here")
    profiles = load_profiles(ROOT / "images" / f"{engine}-blackwell" / "profiles")
    return ServeRequest(
        cell="local",
        engine=engine,
        job=local_job(),
        facts_program=ROOT / "probes" / "probelib" / "facts.py",
        model=model,
        profile=profiles["tiny"],
        profile_name="tiny",
        program=PROGRAMS[engine],
    )


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_real_server_passes_every_check_and_is_measured(engine: str, model: str, tmp_path: Path) -> None:
    host = LocalTaskHost(python=sys.executable)
    knowledge = load_server_flags(ROOT / "knowledge" / "server_flags.yaml")
    store, asked = FileStore(tmp_path), request(engine, model)

    record = serve_check(host, OpenAiClient(), knowledge, store, asked, say=quiet)
    shape = LoadShape(lengths=(10,), users=(1, 4), repeats=2, questions=8)
    (measured,) = bench([Contestant(host=host, request=asked)], OpenAiClient(), knowledge, store, shape, say=quiet)

    assert (ServeStatus.OK, "") == (record.status, record.reason)
    assert int(record.chosen["cuda_graphs"]) > 0
    assert record.chosen["attention_backend"]
    assert measured.stable
    assert measured.gpu_memory_gib is not None
    assert all(one.tokens_per_second > 0 for one in measured.series)

"""The whole flow against a small server that behaves and misbehaves on request: as a process, and in a container."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from python_image import SERVER_IMAGE, write_server_image
from serve_checked import FACTS, HELP, KNOWLEDGE, PROFILES, ROOT, SERVER, check, failed, quiet, request, this_machine

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.this_machine import free_port
from assay.adapters.files.records import FileStore
from assay.adapters.http.openai import OpenAiClient
from assay.errors import EngineError, UsageError
from assay.evidence.record import SHARED_GPU, ServeRecord, ServeStatus, shared_gpu
from assay.pipeline.bench import Contestant, LoadShape, bench
from assay.pipeline.serve import container_job, local_job
from assay.pipeline.serve_check import serve_check
from assay.ports.engine import Bind
from assay.ports.models import FoundModel
from assay.ports.server import ServerJob, running_server
from assay.serving.profile import Profile


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "build_logs")


def test_a_good_server_passes_every_check(store: FileStore) -> None:
    record = check(store, profile=PROFILES["tiny"], profile_name="tiny")

    assert (ServeStatus.OK, "") == (record.status, record.reason)
    assert {} == failed(record)
    assert {"health", "chat", "stream", "stream-usage", "structured-output", "errors", "parallel", "metrics"} <= {
        one.name for one in record.checks
    }
    assert 4 == record.chosen["cuda_graphs"]
    assert "flashinfer" == record.chosen["attention_backend"]
    assert "code 0" == record.stopped
    assert record.log is not None
    assert "Shutting down" in (store.root / record.log).read_text()


def test_vllm_passes_too(store: FileStore) -> None:
    record = check(store, {"engine": "vllm", "help": "/dev/null"}, engine="vllm", extra={"max-model-len": "256"})

    assert ServeStatus.OK is record.status
    assert (116, "FLASH_ATTN") == (record.chosen["cuda_graphs"], record.chosen["attention_backend"])
    assert "serve" not in record.argv  # the program replaces `vllm serve`; the model is the first argument
    assert "tiny" == record.argv[2]


@pytest.mark.parametrize("key", ["a-secret-key", None])
def test_a_key_is_shown_to_the_server_and_to_no_one_else(store: FileStore, key: str | None) -> None:
    asked = request(extra={"api-key": "a-secret-key"})

    record = serve_check(this_machine(), OpenAiClient(api_key=key), KNOWLEDGE, store, asked, say=quiet)

    assert (ServeStatus.OK if key else ServeStatus.FAILED) is record.status
    assert key is not None or "401" in failed(record)["models"]
    assert "***" in record.argv
    assert not any(b"a-secret-key" in path.read_bytes() for path in store.root.rglob("*") if path.is_file())


def test_a_model_that_babbles_is_held_to_a_choice(store: FileStore) -> None:
    record = check(store, {"babble": True})

    (structured,) = [one for one in record.checks if one.name == "structured-output"]
    assert ServeStatus.OK is record.status
    assert '"Busan" (an object did not end' in structured.detail


def test_a_server_that_ignores_sigterm_is_killed_and_reported(store: FileStore) -> None:
    record = check(store, {"ignore_term": True}, stop_grace=1.0)

    assert ServeStatus.FAILED is record.status
    assert "did not stop within 1 s" in record.reason
    assert "killed after it ignored SIGTERM" in record.stopped


def test_a_slow_start_is_waited_for(store: FileStore) -> None:
    record = check(store, {"start_delay": 2})

    assert ServeStatus.OK is record.status
    assert 2.0 <= record.start_seconds < 10


def test_a_crash_at_start_is_diagnosed(store: FileStore) -> None:
    crash = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    record = check(store, {"crash": crash})

    assert (ServeStatus.CRASHED, "arch-no-kernel-image") == (record.status, record.cause)
    assert "code 1" in record.reason
    assert crash in record.reason


def test_a_server_that_another_process_brought_down_gives_no_result_for_its_image(store: FileStore) -> None:
    crash = "AssertionError: Error in memory profiling. Initial free memory 138.14 GiB, current free memory 138.48 GiB."
    record = check(store, {"crash": crash})

    assert (ServeStatus.INCONCLUSIVE, "cap-memory-profiling") == (record.status, record.cause)


def test_a_crash_of_no_known_cause_is_reported_with_its_line(store: FileStore) -> None:
    record = check(store, {"crash": "FrobnicationError: the flux is inverted"})

    assert (ServeStatus.CRASHED, None) == (record.status, record.cause)
    assert "no known cause; log line 1: FrobnicationError: the flux is inverted" in record.reason


def test_a_signal_is_reported(store: FileStore) -> None:
    record = check(store, {"crash_signal": 11})

    assert ServeStatus.CRASHED is record.status
    assert "signal 11" in record.reason


@pytest.mark.parametrize("misbehave", [{"never_healthy": True}, {"hang": True}], ids=["503", "hang"])
def test_a_server_that_never_gets_healthy_is_given_up(store: FileStore, misbehave: dict[str, Any]) -> None:
    began = time.monotonic()

    record = check(store, misbehave, start_timeout=1.0)

    assert ServeStatus.TIMED_OUT is record.status
    assert "not healthy within 1 s" in record.reason
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("mebibytes", "status"),
    [(3, ServeStatus.TIMED_OUT), (900, ServeStatus.TIMED_OUT), (9000, ServeStatus.INCONCLUSIVE)],
)
def test_a_server_that_is_late_beside_another_process_on_its_gpu_gives_no_result_for_its_image(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int, status: ServeStatus
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'GPU-0, {mebibytes}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    late = check(store, {"never_healthy": True}, start_timeout=1.0)
    crashed = check(FileStore(tmp_path / "another"), {"crash": "FrobnicationError: the flux is inverted"})

    shared = status is ServeStatus.INCONCLUSIVE
    assert status is late.status, late.reason
    assert shared is late.reason.startswith(SHARED_GPU)
    assert shared is shared_gpu(late)
    assert ServeStatus.CRASHED is crashed.status


def test_a_death_under_way_is_reported_with_its_cause(store: FileStore) -> None:
    record = check(store, {"die_after": 2})

    assert ServeStatus.FAILED is record.status
    assert "died while it was checked (code 139)" in record.reason


def test_wrong_flags_refuse_the_start_as_written(store: FileStore) -> None:
    record = check(store, profile=PROFILES["qwen2.5-3b-guide"], profile_name="qwen2.5-3b-guide", as_written=True)

    assert (ServeStatus.REFUSED, 0) == (record.status, record.starts)
    assert "--max-total-tokens 512000 does the same" in record.reason
    assert record.log is None


def test_without_as_written_successors_are_used(store: FileStore) -> None:
    record = check(store, profile=PROFILES["qwen2.5-3b-guide"])

    assert ServeStatus.OK is record.status
    assert "--radix-cache-num-tokens" not in record.argv
    assert record.argv[record.argv.index("--max-total-tokens") + 1] == "512000"
    assert any("never was a flag" in note for note in record.flag_findings)


def test_bisect_finds_the_smallest_change(store: FileStore) -> None:
    needs = {"crash_unless": {"disable-radix-cache": [], "disable-decode-cuda-graph": []}, "crash": "core dumped"}
    record = check(store, needs, bisect=True)

    assert ServeStatus.OK is record.status
    assert record.needed is not None
    assert {"cuda-graphs", "radix-cache"} == set(record.needed)
    assert {"--disable-radix-cache", "--disable-decode-cuda-graph"} <= set(record.argv)
    assert record.starts > 3
    assert record.starts == len(list((store.root / record.run).glob("*.log")))


def test_bisect_says_when_nothing_helps(store: FileStore) -> None:
    record = check(store, {"crash": "core dumped"}, bisect=True)

    assert ServeStatus.CRASHED is record.status
    assert record.needed is None
    assert any("does not make it start" in note for note in record.notes)


def test_a_missing_engine_is_reported(store: FileStore) -> None:
    with pytest.raises(UsageError, match="sglang is not installed"):
        serve_check(this_machine(), OpenAiClient(), KNOWLEDGE, store, request(facts_program=FACTS), say=quiet)


def test_a_port_in_use_is_reported(store: FileStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        job = local_job(port=taken.getsockname()[1])

        with pytest.raises(EngineError, match="is in use"):
            serve_check(this_machine(), OpenAiClient(), KNOWLEDGE, store, request(job=job), say=quiet)


class _Models:
    """Knows one model of 280 GiB."""

    def find(self, model: str) -> FoundModel | None:
        config = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 1000}
        return FoundModel(config=config, weight_bytes=280 << 30, source="x") if model == "huge" else None


def test_a_model_that_is_too_large_is_reported_beforehand(store: FileStore) -> None:
    with pytest.raises(UsageError, match=r"does not fit: its weights are 280\.0 GiB, and NVIDIA H200 has 140\.0 GiB"):
        check(store, model="huge", models=_Models())


def test_an_unknown_model_is_reported_and_left_to_the_server(store: FileStore) -> None:
    said: list[str] = []

    serve_check(this_machine(), OpenAiClient(), KNOWLEDGE, store, request(models=_Models()), say=said.append)

    assert any("tiny is not a folder, not in the Hugging Face cache" in line for line in said)


def test_no_process_is_left_behind(store: FileStore) -> None:
    """Workers that the server started and forgot go with it."""
    marker = f"{time.time_ns() % 10**9 + 10**9}"
    wrapper = (
        f"import subprocess, sys, runpy; '--help' in sys.argv or subprocess.Popen(['sleep', '{marker}']); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    check(store, program=("python3", "-c", wrapper, str(SERVER)))

    deadline = time.monotonic() + 5
    while _running(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [] == _running(marker)


def _running(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_ctrl_c_ends_the_server_and_keeps_log_and_record(tmp_path: Path) -> None:
    """The command line itself, interrupted while it waits for the server."""
    site = tmp_path / "site" / "sglang-0.5.14.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.14\n")
    project = _project(tmp_path)
    marker = f"ctrl-c-{os.getpid()}-{time.time_ns()}"
    misbehave = json.dumps({"never_healthy": True, "help": str(HELP)})
    argv = [sys.executable, "-m", "assay", "serve-check", "local", "--engine", "sglang", "--model", marker,
            "--program", f"python3 {SERVER}", "--project", str(project)]  # fmt: skip
    process = subprocess.Popen(
        argv,
        env={**os.environ, "PYTHONPATH": str(site.parent), "MISBEHAVE": misbehave},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 200
    while not _running(marker) or len(_running(marker)) < 2:  # itself and the server
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)

    assert 130 == process.returncode, output.decode()
    assert [] == _running(marker)
    (record,) = FileStore(project / "build_logs").records(kind="serve")
    assert isinstance(record, ServeRecord)
    assert ServeStatus.ABORTED is record.status
    assert record.log is not None
    assert "Uvicorn running" in (project / "build_logs" / record.log).read_text()


def _project(folder: Path) -> Path:
    project = folder / "project"
    project.mkdir()
    for name in ("matrix.yaml", "images", "knowledge", "templates", "probes", "schemas"):
        (project / name).symlink_to(ROOT / name)
    return project


# --- bench ------------------------------------------------------------------------------------------------------------


def contestant(name: str, misbehave: dict[str, Any] | None = None, profile: Profile | None = None) -> Contestant:
    return Contestant(host=this_machine(), request=request(misbehave, profile_name=name, profile=profile))


SMALL = LoadShape(lengths=(10,), users=(1, 4), repeats=2, questions=6)


def test_bench_compares_servers_in_one_run(store: FileStore) -> None:
    records = bench(
        [contestant("fast", {"tpot": 0.001, "cache": True, "ttft": 0.02}), contestant("slow", {"tpot": 0.01})],
        OpenAiClient(), KNOWLEDGE, store, SMALL, say=quiet,
    )  # fmt: skip

    assert [True, True] == [record.stable for record in records]
    assert list(records) == list(store.records(kind="bench"))
    fast, slow = ({(one.workload, one.users): one for one in record.series} for record in records)
    assert {("length", 1), ("users", 1), ("users", 4), ("prefix", 1), ("mixed", 4)} == set(fast)
    assert fast["users", 4].tokens_per_second > 2 * slow["users", 4].tokens_per_second
    prefix = fast["prefix", 1]
    assert prefix.cached_tokens is not None
    assert prefix.latency is not None
    assert prefix.first_ms is not None
    assert prefix.first_ms > prefix.latency.mean
    run = store.root / records[0].run
    assert {"comparison.csv", "series.csv", "latency-over-users.svg", "throughput-over-users.svg"} <= {
        path.name for path in run.iterdir()
    }
    assert 3 == len((run / "comparison.csv").read_text().splitlines())


def test_a_server_that_does_not_start_keeps_no_other_from_running(store: FileStore) -> None:
    records = bench(
        [contestant("broken", {"crash": "core dumped"}), contestant("good"), contestant("dies", {"die_after": 5})],
        OpenAiClient(), KNOWLEDGE, store, SMALL, say=quiet,
    )  # fmt: skip

    assert [False, True, False] == [record.stable for record in records]
    assert () == records[0].series
    assert "before it was healthy" in records[0].notes[-1]
    assert any(one.failed for one in records[2].series)


def test_all_servers_are_checked_before_the_first_is_measured(store: FileStore) -> None:
    elsewhere = Contestant(host=this_machine(), request=request(profile_name="elsewhere", facts_program=FACTS))

    with pytest.raises(UsageError, match="sglang is not installed"):
        bench([contestant("good"), elsewhere], OpenAiClient(), KNOWLEDGE, store, SMALL, say=quiet)

    assert [] == list(store.records(kind="bench"))


def test_cut_streams_are_failures_of_the_load(store: FileStore) -> None:
    (record,) = bench([contestant("cuts", {"cut_streams": 3})], OpenAiClient(), KNOWLEDGE, store, SMALL, say=quiet)

    assert not record.stable
    assert 0 < sum(one.failed for one in record.series)


# --- in a container ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """An engine that holds the image with the small server."""
    found = DockerEngine()
    with tempfile.TemporaryDirectory() as folder:
        found.load(write_server_image(Path(folder), version="0.5.14"))
    yield found
    found.remove_image(SERVER_IMAGE, force=True)


@pytest.fixture
def run_name() -> str:
    return f"test-serve-{os.getpid()}-{time.time_ns()}"


@pytest.fixture
def inside(engine: DockerEngine, run_name: str) -> dict[str, Any]:
    """Return how to check the server of an image in its container."""
    job = container_job(SERVER_IMAGE, run=run_name, gpus=())
    return {"host": DockerTaskHost(engine), "job": job, "facts_program": FACTS, "program": ()}


def left(run: str) -> list[str]:
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"label=assay.run={run}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout.split()


INSIDE = {"help": "/srv/help.txt"}
START = """
import os, runpy, sys
open(os.path.expanduser("~/written"), "w").write("ok")
sys.argv = sys.argv[1:]
runpy.run_module("sglang.launch_server", run_name="__main__")
"""
INSIDE_SERVER = ("python3", "-c", START, "server", "--model-path", "tiny", "--host", "{host}", "--port", "{port}")


@pytest.mark.engine
def test_a_server_in_a_container(store: FileStore, inside: dict[str, Any], run_name: str) -> None:
    """The engine's own command, the help of the server in that very image, and nothing left behind."""
    record = check(store, INSIDE, cell=SERVER_IMAGE, profile=PROFILES["tiny"], **inside)

    assert (ServeStatus.OK, "docker") == (record.status, record.executor), record.reason
    assert "sglang.launch_server" in record.argv
    assert record.image_digest is not None
    assert {"sglang": "0.5.14"} == record.packages
    assert 16 > record.start_seconds
    assert [] == left(run_name)


@pytest.mark.engine
@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_server_in_a_container_at_a_port_of_choice(
    engine: DockerEngine, store: FileStore, run_name: str, network: Any, tmp_path: Path
) -> None:
    """On an engine without a bridge the host's network is all there is; more folders and a home of one's own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    port = free_port()
    place = container_job(
        SERVER_IMAGE, run=run_name, gpus=(), network=network, port=port,
        mounts=[Bind(source=str(tmp_path / "home"), target="/keep", read_only=False)],
    )  # fmt: skip
    job = ServerJob.model_validate({**place.model_dump(), "argv": INSIDE_SERVER, "env": {"HOME": "/keep"}})
    bases: list[str] = []

    with running_server(DockerTaskHost(engine), job) as server:
        bases.append(server.base)
        client, deadline = OpenAiClient(), time.monotonic() + 120
        while client.call("GET", f"{server.base}/health", timeout=5).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    assert [f"http://127.0.0.1:{port}"] == bases
    assert [] == left(run_name)
    assert "ok" == (tmp_path / "home" / "written").read_text()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("misbehave", "status"),
    [
        ({"crash": "ImportError: libnuma.so.1: cannot open shared object file"}, ServeStatus.CRASHED),
        ({"never_healthy": True}, ServeStatus.TIMED_OUT),
        ({"ignore_term": True}, ServeStatus.FAILED),
        ({"die_after": 1}, ServeStatus.FAILED),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_bad_servers_in_containers_leave_nothing(
    store: FileStore, inside: dict[str, Any], run_name: str, misbehave: dict[str, Any], status: ServeStatus
) -> None:
    patience = 4.0 if status is ServeStatus.TIMED_OUT else 60.0
    record = check(store, {**INSIDE, **misbehave}, cell=SERVER_IMAGE, start_timeout=patience, stop_grace=1.0, **inside)

    assert status is record.status, record.reason
    assert [] == left(run_name)


@pytest.mark.engine
def test_flags_are_checked_against_the_help_in_the_image(store: FileStore, inside: dict[str, Any]) -> None:
    record = check(store, INSIDE, cell=SERVER_IMAGE, profile=PROFILES["experimental"], as_written=True, **inside)

    assert ServeStatus.REFUSED is record.status
    assert "--disable-flashinfer is not a flag of this server and could be" in record.reason


@pytest.mark.engine
def test_an_image_that_is_missing_is_reported(store: FileStore, inside: dict[str, Any], run_name: str) -> None:
    job = container_job("assay/no-such:1", run=run_name, gpus=())

    with pytest.raises(EngineError, match="does not hold the image"):
        check(store, **{**inside, "job": job})


@pytest.mark.engine
def test_an_interrupt_removes_the_container(store: FileStore, inside: dict[str, Any], run_name: str) -> None:
    def say(line: str) -> None:
        # Told while it waits for the server: now the server runs.
        if line.startswith("waiting for the server"):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        serve_check(
            inside.pop("host"), OpenAiClient(), KNOWLEDGE, store,
            request({**INSIDE, "never_healthy": True}, start_timeout=60.0, **inside), say=say,
        )  # fmt: skip

    assert [] == left(run_name)
    (record,) = store.records(kind="serve")
    assert isinstance(record, ServeRecord)
    assert ServeStatus.ABORTED is record.status
    assert record.log is not None
    assert "Uvicorn running" in (store.root / record.log).read_text()

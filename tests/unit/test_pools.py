"""pools.yaml, what is rendered for Slurm, what squeue says, and results in logs."""

from __future__ import annotations

import base64
import json
import os
import time
import zlib
from pathlib import Path

import pytest

from assay.adapters.executors import this_machine
from assay.adapters.files.project import ProjectFiles
from assay.adapters.pools.bundle import runner, suite_name, suite_zip
from assay.adapters.pools.fake import sealed_result
from assay.adapters.pools.folder import JobFolder
from assay.adapters.pools.frames import results_in, without_frames
from assay.adapters.pools.slurm import SlurmProbePool, states_in
from assay.cli.pool_composition import gpus_of
from assay.errors import ConfigError, UsageError
from assay.foundation.digest import sha256_of
from assay.matrix.pools import RUNTIMES, BuildkitPool, SlurmPool, chosen_gpus, load_pools
from assay.ports.jobs import DevicesWanted, JobLimits, JobResult, Place, ProbeJob, seal
from assay.ports.pools import Loss, Phase, Submission

DIGEST = "sha256:" + "a" * 64
GOOD = """
registry: registry.example:5000/team/{image}
pools:
  box: {kind: local, executor: local}
  hosts: {kind: ssh, gpus: [h200], hosts: [{context: gpu1, gpu: h200, count: 4}]}
  hpc: {kind: slurm, partition: gpu, folder: /shared/assay, gpus: [h200, a100]}
  cluster: {kind: kubernetes, context: x, namespace: gpu, tolerations: [{key: nvidia.com/gpu}]}
  builders: {kind: buildkit, endpoints: ["tcp://10.0.0.1:1234"]}
"""
JOB = ProbeJob(
    run="pool-1",
    place=Place(reference=f"registry.example:5000/team/a@{DIGEST}", digest=DIGEST),
    suite=sha256_of(b"suite"),
    features=("one",),
    devices=DevicesWanted(count=1, model="h200"),
    limits=JobLimits(memory_bytes=8 << 30),
)


def test_each_kind_of_pool_is_read() -> None:
    pools = load_pools(GOOD).pools

    assert ["local", "ssh", "slurm", "kubernetes", "buildkit"] == [pool.kind for pool in pools.values()]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("partition", "partitoin", "did you mean 'partition'"),
        ("kind: slurm", "kind: slrum", "kind must be one of"),
        ("gpu: h200, ", "gpu: h20, ", "no host has the GPU 'h200'; did you mean 'h20'?"),
        ("gpus: [h200, a100]", "gpus: [h200, h200]", "'h200' occurs twice"),
        ("partition: gpu", "partition: --uid=0", "is not allowed here"),
        ("folder: /shared/assay", "folder: /shared/assay, runtime: podmann", "no runtime 'podmann'; did you mean"),
        ("folder: /shared/assay", 'folder: /s, runtime: "x {imge} {arguments}"', "placeholder 'imge' is unknown"),
        ("folder: /shared/assay", "folder: shared", "is not allowed here"),
        # What a template evaluates could take all memory, or end in an error of its own.
        (
            "folder: /shared/assay",
            'folder: /s, runtime: "{arguments}{env:>99999999999}"',
            "'env' with a format is unkn",
        ),
        ("folder: /shared/assay", 'folder: /s, runtime: "{arguments}{env!r}"', "placeholder 'env' with a format"),
        ("folder: /shared/assay", 'folder: /s, runtime: "{arguments}{env.x}"', "placeholder 'env.x' is unknown"),
        ("folder: /shared/assay", 'folder: /s, runtime: "{arguments}{env[x]}"', "placeholder 'env[x]' is unknown"),
        ("folder: /shared/assay", 'folder: /s, runtime: "{arguments}{"', "Single '{'"),
        ("folder: /shared/assay", 'folder: /s, runtime: "{arguments}\\nx"', "must be one line"),
        ("tcp://10", "tcp://me:secret@10", "an endpoint must not hold a password"),
        ("tcp://10.0.0.1:1234", "ssh://me:secret@host", "an endpoint must not hold a password"),
        ("tcp://10", "tcp://\\e[31m10", "is not allowed here"),
        ("tcp://", "ftp://", "is not allowed here"),
        ('["tcp://10.0.0.1:1234"]', '["tcp://b:1", "tcp://b:1"]', "the endpoint 'tcp://b:1' occurs twice"),
        ("kind: buildkit", "kind: buildkit, ca: /ca.pem", "`ca`, `cert` and `key` belong together"),
    ],
)
def test_what_is_wrong_in_pools_yaml_has_its_place_and_the_nearest_names(good: str, bad: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pools(GOOD.replace(good, bad))

    assert said.replace("kind must", "'kind' must") in str(caught.value)
    assert "pools.yaml:" in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_thousands_of_endpoints_are_read_in_no_time() -> None:
    names = ", ".join(f'"tcp://10.0.0.1:{number}"' for number in range(20_000))
    began = time.monotonic()
    pool = load_pools(GOOD.replace('"tcp://10.0.0.1:1234"', names)).pool("builders")

    assert isinstance(pool, BuildkitPool)
    assert 20_000 == len(pool.endpoints)
    assert time.monotonic() - began < 5


def test_builders_build_a_few_cells_each_and_at_once_limits_all() -> None:
    def room(more: str) -> int:
        pool = load_pools(GOOD.replace("kind: buildkit", f"kind: buildkit{more}")).pools["builders"]
        assert isinstance(pool, BuildkitPool)
        return pool.room

    assert [2, 5, 3] == [room(""), room(", per_endpoint: 5"), room(", per_endpoint: 5, at_once: 3")]


def test_unknown_pools_and_gpus_are_answered_with_the_nearest() -> None:
    pools = load_pools(GOOD)
    with pytest.raises(UsageError, match="did you mean 'hpc'"):
        pools.pool("hpcc")
    with pytest.raises(UsageError, match="has no GPU 'h20'; did you mean 'h200'"):
        chosen_gpus("hpc", pools.pool("hpc").gpus, ["h20"])
    assert ("h200", "a100") == chosen_gpus("hpc", pools.pool("hpc").gpus, [])
    assert ("a100",) == chosen_gpus("hpc", pools.pool("hpc").gpus, ["a100"])


def test_this_machine_is_a_pool_with_the_gpus_that_its_driver_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pools.yaml").write_text("pools: {box: {kind: local}, named: {kind: local, gpus: [a100]}}\n")
    files = ProjectFiles(tmp_path)
    monkeypatch.setattr(this_machine, "cuda_devices_in_child", lambda: (("0",), ""))
    assert [("gpu",), ("a100",)] == [gpus_of(files, "box"), gpus_of(files, "named")]
    monkeypatch.setattr(this_machine, "cuda_devices_in_child", lambda: ((), "no driver"))
    assert () == gpus_of(files, "box")


def script(**more: object) -> str:
    pool = SlurmPool.model_validate({"kind": "slurm", "partition": "gpu", "folder": "/shared/assay", **more})
    files = SlurmProbePool(pool).render([Submission(job=JOB, suite=b"zip")])
    return files[f"{JOB.name}.sbatch"].decode()


@pytest.mark.parametrize(
    ("runtime", "form"),
    [
        ("podman", f" registry.example:5000/team/a@{DIGEST} "),
        ("apptainer", f" docker://registry.example:5000/team/a@{DIGEST} "),
        ("pyxis", f"--container-image=registry.example:5000#team/a:{DIGEST} "),
    ],
)
def test_each_runtime_of_slurm_gets_the_digest_in_its_own_form(runtime: str, form: str) -> None:
    assert form in script(runtime=runtime)


def test_pyxis_asks_docker_hub_at_the_host_of_its_registry() -> None:
    pool = SlurmPool(kind="slurm", partition="gpu", folder="/shared/assay", runtime="pyxis")
    place = JOB.place.model_copy(update={"reference": f"team/a@{DIGEST}"})
    item = Submission(job=JOB.model_copy(update={"place": place}), suite=b"zip")
    (text,) = [text for path, text in SlurmProbePool(pool).render([item]).items() if path.endswith(".sbatch")]

    assert f"--container-image=registry-1.docker.io#team/a:{DIGEST} ".encode() in text


def test_a_batch_script_asks_for_the_gpu_memory_and_place_of_its_job() -> None:
    lines = script(account="team", qos="low", minutes=30, options=["--exclude=n7"]).splitlines()

    assert "#!/bin/sh" == lines[0]
    for option in ("--gres=gpu:h200:1", "--mem=8192M", "--partition=gpu", "--requeue", "--time=30", "--exclude=n7",
                   "--account=team", "--qos=low", "--dependency=singleton", f"--job-name={JOB.name}"):  # fmt: skip
        assert f"#SBATCH {option}" in lines


def test_every_runtime_runs_the_runner_with_the_job_and_its_result() -> None:
    for name in RUNTIMES:
        *_, before, last = script(runtime=name).splitlines()

        assert last.startswith("exec ") or before.startswith("trap ")
        assert f"/shared/assay/pool-1/results/{JOB.name}.json" in last
        assert "{" not in last.replace("${CUDA_VISIBLE_DEVICES:-}", "").replace("${SLURM_JOB_GPUS:-}", "")


@pytest.mark.parametrize(
    ("line", "phase", "loss"),
    [
        ("pool-1-a-1|7|RUNNING|None|n1", Phase.RUNNING, None),
        ("pool-1-a-1|7|PENDING|Priority|", Phase.WAITING, None),
        ("pool-1-a-1|7|PENDING|BeginTime|", Phase.WAITING, None),
        ("pool-1-a-1|7|PENDING|launch failed requeued held|", Phase.WAITING, Loss.HELD),
        ("pool-1-a-1|7|PENDING|JobHeldUser|", Phase.WAITING, Loss.HELD),
        ("pool-1-a-1|7|NODE_FAIL|None|n2", Phase.ENDED, Loss.NODE_LOST),
        ("pool-1-a-1|7|OUT_OF_MEMORY|OutOfMemory|n2", Phase.ENDED, Loss.OUT_OF_MEMORY),
        ("pool-1-a-1|7|PREEMPTED|None|n2", Phase.ENDED, Loss.PREEMPTED),
        ("pool-1-a-1|7|COMPLETED|None|n2", Phase.ENDED, None),
        ("pool-1-a-1|7|COMPLETED|None|n2\npool-1-a-1|8|RUNNING|None|n1", Phase.RUNNING, None),
    ],
)
def test_what_squeue_says_becomes_a_state(line: str, phase: Phase, loss: Loss | None) -> None:
    found = states_in(f"{line}\npool-2-b-1|9|RUNNING|None|n1\nsomebody's|10\n", "pool-1")

    assert ["pool-1-a-1"] == list(found)
    assert (phase, loss) == (found["pool-1-a-1"].phase, found["pool-1-a-1"].loss)


def frames(data: bytes, size: int = 200) -> list[bytes]:
    """Return the lines that the runner writes into a log."""
    text = base64.b64encode(zlib.compress(data)).decode()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    mark = sha256_of(data)[7:39]
    return [f"assay-result {mark} {n}/{len(pieces)} {piece}\n".encode() for n, piece in enumerate(pieces, 1)]


def test_results_are_read_from_a_log_between_other_lines_in_any_order() -> None:
    result = sealed_result(JOB)
    lines = frames(result)
    log = b"probe: one\n" + b"noise\n".join(reversed(lines)) + lines[0] + b"the end\n"

    assert 3 < len(lines)
    assert [result] == [data for data, _ in results_in(log)]
    assert b"probe: one\nnoise\n" == without_frames(log)[:17]
    assert b"assay-result" not in without_frames(log)


def test_a_result_that_was_cut_or_changed_in_a_log_does_not_count() -> None:
    lines = frames(sealed_result(JOB))

    assert [] == results_in(b"".join(lines[:-1]))
    assert [] == results_in(b"".join(lines).replace(lines[1], lines[1][:-9] + b"AAAAAAA=\n"))
    assert [] == results_in(b"assay-result " + b"0" * 32 + b" 1/1 AAAA\n")


def test_a_log_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = zlib.compress(b"\0" * (64 << 20))
    line = b"assay-result " + b"0" * 32 + b" 1/1 " + base64.b64encode(bomb) + b"\n"

    assert [] == results_in(line)


def test_results_of_one_log_have_one_bound_together() -> None:
    made = [
        seal(JobResult(job="sha256:" + "0" * 64, executor="x", ended="failed", message=f"{number}" + " " * (6 << 20)))
        for number in range(8)
    ]
    log = b"".join(line for one in made for line in frames(one, size=1 << 20))

    assert len(log) < 1 << 20
    assert 5 == len(results_in(log))


def test_the_last_line_of_a_log_is_one_that_a_terminal_may_show(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    log = folder.log("run", "one")
    log.parent.mkdir(parents=True)
    log.write_bytes(b"INFO: begin\n\x1b[91mFATAL:   manifest\x07 unknown\x1b[0m\n\n")

    assert r"FATAL: manifest\x07 unknown" == folder.last_line("run", "one")
    assert "" == folder.last_line("run", "none")


def test_a_pipe_among_the_results_of_a_shared_folder_is_not_waited_for(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    for path in (folder.result("run", "one"), folder.log("run", "one")):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)

    assert [] == folder.collect(["one"], run="run")


def test_the_suite_is_the_same_bytes_everywhere_and_says_what_it_declares() -> None:
    declare = b'FEATURE = "one"\nREQUIRES = ()\nTIMEOUT = 5\nGPUS = 0\nWARM = True\n'
    suite = {"features/one.py": declare, "harness.py": b"pass\n"}
    shuffled = dict(reversed(suite.items()))

    assert suite_zip(suite) == suite_zip(shuffled)
    assert suite_name(suite_zip(suite)).startswith("suite-")
    assert b"def main(" in runner()
    assert json.loads(JOB.model_dump_json())["devices"]["model"] == "h200"

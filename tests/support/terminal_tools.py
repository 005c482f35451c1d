"""A project with long cell ids and realistic results, for tests of what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from publish_tools import NOW
from wheels import wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.pool_runs import PoolRuns
from assay.adapters.files.records import FileStore
from assay.audit.findings import AuditReport, Finding, Prediction, Suggestion
from assay.evidence.policy import FeatureLine, PolicyJudgement
from assay.evidence.record import (
    AuditRecord,
    BenchRecord,
    BenchSeries,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeCheck,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.policy import Basis
from assay.pipeline.doctor import Check, CheckState
from assay.ports.jobs import Place, ProbeJob
from assay.ports.pools import PlannedJob, PoolRun
from assay.wheels.facts import READER, Library, WheelFacts

ROOT: Final = Path(__file__).parents[2]
CELL: Final = "sglang-blackwell-cu128-torch2.8.0-sglang0.5.2-sglk0.3.9.post2-fi0.3.1"
OTHER: Final = "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0"
DIGEST: Final = "sha256:" + "1f" * 32
CARD: Final = Device(name="NVIDIA RTX PRO 6000 Blackwell Workstation Edition", capability="12.0", memory_bytes=96 << 30)
LIBRARY: Final = "sgl_kernel/sm100/common_ops.cpython-312-x86_64-linux-gnu.so"
VERSION: Final = "2.12.0.dev20260301+cu130"
SYMBOL: Final = "_ZN3c104cuda9SetDeviceEab"
WHY: Final = f"undefined symbol {SYMBOL} in {LIBRARY}: the extension was built for another release of torch"
FEATURES: Final = [
    "awq-marlin",
    "chunked-prefill",
    "cuda-graphs",
    "custom-all-reduce",
    "flash-attn-2",
    "flash-attn-3",
    "flashinfer",
    "fp8-gemm",
    "fp8-kv-cache",
    "fp8-kv-cache-engine",
    "hierarchical-cache",
    "marlin",
    "marlin-fp4",
    "marlin-moe",
    "mxfp4",
    "nccl",
    "numa",
    "nvfp4",
    "prefix-caching",
    "radix-cache",
    "sgl-kernel",
    "sglang-engine",
    "structured-output",
    "torch-compile",
    "torch-device",
    "triton",
]


def outcome(number: int) -> Outcome:
    return list(Outcome)[number % 7] if number % 3 == 0 else Outcome.WORKS


def probed(cell: str = CELL) -> ProbeRecord:
    return ProbeRecord(
        created=NOW,
        run="run1",
        cell=cell,
        image_digest=DIGEST,
        suite_digest=DIGEST,
        executor="docker",
        devices=(CARD,),
        packages={},
        features={
            name: FeatureResult(outcome=outcome(number), seconds=number, cause="abi-setdevice", reason=WHY)
            for number, name in enumerate(FEATURES)
        },
    )


def served() -> ServeRecord:
    return ServeRecord(
        created=NOW,
        run="r",
        cell=CELL,
        engine="sglang",
        executor="docker",
        status=ServeStatus.OK,
        devices=(CARD,),
        checks=(ServeCheck(name="chat-completions-streamed", passed=False, detail=WHY),),
        chosen={"attention backend": "flashinfer", "quantisation kernel": "compressed-tensors-marlin-moe"},
    )


def benched(users: int = 10) -> BenchRecord:
    series = BenchSeries(
        workload="users", users=users, max_tokens=8, requests=8, failed=0, seconds=1, completion_tokens=64,
        requests_per_second=1234.5678, tokens_per_second=1,
    )  # fmt: skip
    return BenchRecord(
        created=NOW, run="r", cell=CELL, engine="sglang", executor="local", profile="long-context-balanced",
        stable=True, series=(series,), packages={"sglang": "0.5.2"},
    )  # fmt: skip


def report() -> AuditReport:
    findings = [
        Finding(rule="L1", severity=Severity.ERROR, package="sglang-kernel 0.3.9.post2", library=LIBRARY, message=WHY,
                fix="pin torch beside it", suggestions=(Suggestion(package="torch", versions=("2.8.0",), why=WHY),)),
        *(
            Finding(rule="G1", severity=Severity.WARNING, package="sgl-deep-ep 0.1.2.post1",
                    library=f"deep_ep/number{number}_of_many_extension_modules.abi3.so",
                    message="has no code")
            for number in range(4)
        ),
    ]  # fmt: skip
    predictions = [
        Prediction(feature=name, target="sm_120", outcome=outcome(number), verdict=Verdict.OK, reason=WHY)
        for number, name in enumerate(FEATURES)
    ]
    return AuditReport(
        subject="wheels", name=CELL, verdict=Verdict.FAIL, python="3.12", base="slim", targets=("sm_120",),
        findings=tuple(findings), predictions=tuple(predictions),
        unread=("deepseek-recipe 0.2.0", "nvidia-cudnn-cu13 9.24.0.43") * 3,
    )  # fmt: skip


def judged() -> PolicyJudgement:
    lines = [
        FeatureLine(feature=name, outcome=outcome(number), wanted=(Outcome.WORKS,), reason=WHY, measured=NOW)
        for number, name in enumerate(FEATURES)
    ]
    idle = [FeatureLine(feature=f"{name}-again", outcome=Outcome.NOT_RUN, wanted=()) for name in FEATURES]
    return PolicyJudgement(
        level="verified", basis=Basis.PROBE, image="sglang-blackwell", target="sm_120", digest=DIGEST,
        features=(*lines, *idle), probes=(probed(),),
    )  # fmt: skip


class Doctor:
    """Finds what no other machine has."""

    def run(self, _needs: object) -> tuple[Check, ...]:
        names = ("engine", "index pytorch-nightly-cu128", "registry docker.io")
        address = "https://registry-1.docker.io/v2/nvidia/cuda/manifests/13.0.2-cudnn-devel-ubuntu24.04"
        found = f"cells on nvidia/cuda cannot be locked: HEAD {address}: Name or service not known"
        return tuple(Check(name=name, state=CheckState.WARN, found=found, mend="docker login") for name in names)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    for name in ("matrix.yaml", "images", "probes", "knowledge", "templates"):
        (tmp_path / name).symlink_to(ROOT / name)
    store = FileStore(tmp_path / "build_logs")
    records: dict[str, Any] = {"created": NOW, "run": "run1", "image_digest": DIGEST}
    store.append(BuildRecord(**records, cell=CELL, status=BuildStatus.FAILED, reason=WHY, cause="abi-setdevice"))
    store.append(BuildRecord(**records, cell=OTHER, status=BuildStatus.BUILT, size_bytes=9 << 30, seconds=1234))
    store.append(AuditRecord(**records, cell=CELL, subject="wheels", verdict=Verdict.WARN, targets=("sm_120",)))
    store.append(probed())
    store.append(probed(OTHER).model_copy(update={"image_digest": "sha256:" + "2e" * 32}))
    (tmp_path / "pools.yaml").write_text("pools: {box: {kind: local, executor: local}}\n")
    place = Place(reference=f"registry.example/team/vllm@{DIGEST}", digest=DIGEST)
    job = ProbeJob(run="pool-0123456789", place=place, suite="sha256:" + "3f" * 32, features=("one",))
    jobs = (PlannedJob(job=job, cell=CELL), PlannedJob(job=job.model_copy(update={"seed": 1}), cell=OTHER))
    PoolRuns(store.root).start(PoolRun(run=job.run, pool="box", created=NOW, jobs=jobs), {"harness.py": b""})
    facts = FactsCache(tmp_path / "facts")
    for name in ("nvidia-cuda-nvrtc-cu12", "torch"):
        library = Library(path=LIBRARY, size=1, scope="full", needed=("libcudart.so.13", "libtorch_cuda.so") * 4)
        sha256 = (name.encode().hex() * 64)[:64]
        common = {"name": name, "version": VERSION, "filename": f"{name}.whl", "sha256": sha256, "reader": READER}
        facts.put(WheelFacts.model_validate({**common, "libraries": (library,), "complete": True}))
    (tmp_path / "server.log").write_text(f"ImportError: {LIBRARY}: undefined symbol: {SYMBOL}\n")
    (tmp_path / "plain-1.0-py3-none-any.whl").write_bytes(wheel_bytes("plain", "1.0", {"plain/__init__.py": b""}))
    monkeypatch.setattr("assay.cli.composition.doctor", lambda _matrix: Doctor())
    monkeypatch.chdir(tmp_path)
    return tmp_path

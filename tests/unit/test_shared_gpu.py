"""A GPU that other processes use: how that is found out, and that what was only slow there is left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.evidence import suite as probes
from assay.evidence.record import SHARED_GPU, ProbeRecord, dump, parse, shared_gpu
from assay.evidence.suite import ProbeEnded
from assay.foundation.outcome import Outcome

GIB = 1 << 30


class Nvml:
    """NVML as the program calls it; each look at the memory sees the next amount, and the last one from then on."""

    def __init__(self, *used: int, processes: int = 0, display: int = 0, status: int = 0) -> None:
        self.used, self.processes, self.display, self.status = list(used), processes, display, status

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: Any) -> int:  # noqa: N802 - NVML's names
        device._obj.value = 1
        return 0 if uuid == b"GPU-0" else 6

    def nvmlDeviceGetComputeRunningProcesses_v3(self, _device: Any, count: Any, _infos: None) -> int:  # noqa: N802
        count._obj.value = self.processes
        return 7 if self.processes else 0

    def nvmlDeviceGetMemoryInfo_v2(self, _device: Any, memory: Any) -> int:  # noqa: N802
        assert memory._obj.version == 0x02000028, "nvmlMemory_v2 of nvml.h"
        memory._obj.used = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        return self.status

    def nvmlDeviceGetDisplayActive(self, _device: Any, active: Any) -> int:  # noqa: N802
        active._obj.value = self.display
        return 0


@pytest.mark.parametrize(
    ("nvml", "said"),
    [
        (Nvml(4 << 20), ""),
        (Nvml(3 * GIB), "3.0 GiB in use"),
        # The driver takes back the memory of the probe before.
        (Nvml(3 * GIB, 4 << 20), ""),
        (Nvml(600 << 20), "0.6 GiB in use"),
        (Nvml(600 << 20, display=1), ""),
        (Nvml(3 * GIB, display=1), "3.0 GiB in use"),
        (Nvml(0, processes=1), "1 compute process"),
        (Nvml(0, processes=2), "2 compute processes"),
        # A card whose memory is the host's answers NOT_SUPPORTED.
        (Nvml(3 * GIB, status=3), ""),
    ],
)
def test_what_nvml_says_while_no_probe_runs_is_of_others(
    library: Any, monkeypatch: pytest.MonkeyPatch, nvml: Nvml, said: str
) -> None:
    others = library("probelib.others")
    monkeypatch.setattr(others, "PATIENCE_SECONDS", 0.2)

    assert said == others.others(nvml, ["GPU-0"])
    assert "" == others.others(nvml, ["GPU-of-another-machine"])


def test_without_a_driver_nothing_is_reported(library: Any, capsys: pytest.CaptureFixture[str]) -> None:
    library("probelib.others").main(["GPU-0"])

    assert "" == capsys.readouterr().out.strip()


def test_vllm_measures_no_memory_beside_others(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    common = library("probelib.engine").common
    monkeypatch.setenv("ASSAY_OTHERS", "")
    alone = common("vllm")
    monkeypatch.setenv("ASSAY_OTHERS", "3.0 GiB in use")

    assert alone | {"kv_cache_memory_bytes": 1 << 30} == common("vllm")
    assert "kv_cache_memory_bytes" not in alone
    assert "kv_cache_memory_bytes" not in common("sglang")


@pytest.mark.parametrize(
    ("outcome", "beside", "judged"),
    [
        ("degraded", "", Outcome.DEGRADED),
        ("degraded", "3.0 GiB in use", Outcome.INCONCLUSIVE),
        ("works", "3.0 GiB in use", Outcome.WORKS),
        ("wrong", "3.0 GiB in use", Outcome.WRONG),
    ],
)
def test_what_was_only_slow_is_left_open_beside_others(outcome: str, beside: str, judged: Outcome) -> None:
    document = {"outcome": outcome, "reason": "graphs takes 2.00 x the time of doing without"}
    ended = ProbeEnded(feature="x", file="x.py", exit_code=0, others=beside, document=document)
    result = probes.judge(ended, timeout=5)

    assert judged is result.outcome
    open_ = judged is Outcome.INCONCLUSIVE
    assert open_ is (result.reason == f"{SHARED_GPU} (3.0 GiB in use): graphs takes 2.00 x the time of doing without")
    assert open_ is not probes.conclusive(result)


def test_a_committed_record_that_says_so_is_read_so_and_its_bytes_stay(root: Path) -> None:
    (path,) = (root / "docs/records/sm_90").glob("*-probe-772052242324d698.json")
    raw = path.read_bytes()
    record = parse(raw)

    assert isinstance(record, ProbeRecord)
    assert shared_gpu(record)
    assert b'"degraded"' in raw
    found = record.features["hierarchical-cache"]
    assert (Outcome.INCONCLUSIVE, f"{SHARED_GPU}: time to first token takes 2.20 x the time of doing without") == (
        found.outcome,
        found.reason,
    )
    assert Outcome.WORKS is record.features["flashinfer"].outcome
    assert record == parse(dump(record)), "what is read again stays the same"


def test_a_record_without_that_note_is_read_as_it_is(root: Path) -> None:
    (path,) = (root / "docs/records/sm_90").glob("*-probe-e04e9ef40be46cc1.json")
    record = parse(path.read_bytes())

    assert isinstance(record, ProbeRecord)
    assert Outcome.DEGRADED is record.features["hierarchical-cache"].outcome

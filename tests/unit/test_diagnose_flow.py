"""A run's failures: which they are, what their logs say, beside which cell that works."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from assay.adapters.files.records import FileStore
from assay.cli import main
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.pipeline.diagnose import contrast_of_versions, diagnose_run, failures

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
GPU = (Device(name="RTX 5090", capability="12.0", memory_bytes=1),)
SYMBOL = b"ImportError: common_ops.abi3.so: undefined symbol: _ZNK3c106SymInt6sym_neERKS0_\n"


def build(cell: str, status: BuildStatus, *, log: str | None = None, reason: str = "", run: str = "r") -> BuildRecord:
    return BuildRecord(created=WHEN, run=run, cell=cell, status=status, log=log, reason=reason)


def probe(cell: str, outcome: Outcome, torch: str, *, log: str | None = None, cause: str | None = None) -> ProbeRecord:
    return ProbeRecord(
        created=WHEN + timedelta(seconds=1), run="r", cell=cell, suite_digest="s", executor="docker", devices=GPU,
        packages={"torch": torch, "sgl-kernel": "0.3.9.post2"},
        features={"sampling": FeatureResult(outcome=outcome, reason="it broke", log=log, cause=cause)},
    )  # fmt: skip


def audit(cell: str, verdict: Verdict, *summary: str) -> AuditRecord:
    return AuditRecord(created=WHEN, run="r", cell=cell, subject="wheels", verdict=verdict, summary=summary)


def logs(**found: bytes) -> object:
    def read(path: str) -> BinaryIO | None:
        return io.BytesIO(found[path]) if path in found else None

    return read


def diagnosed(records: list[AnyRecord], **found: bytes) -> list[tuple[str, str, str | None]]:
    findings = diagnose_run(records, "r", open_log=logs(**found), points={})  # type: ignore[arg-type]
    return [
        (f.subject.cell, f.subject.what, f.report.diagnoses[0].cause if f.report.diagnoses else None) for f in findings
    ]


def test_only_failures_of_the_run_are_looked_at() -> None:
    records: list[AnyRecord] = [
        build("a", BuildStatus.FAILED, log="a", run="another"),
        build("b", BuildStatus.BUILT),
        build("c", BuildStatus.ABORTED),
        audit("d", Verdict.WARN, "x"),
        probe("e", Outcome.WORKS, "2.8.0"),
        probe("f", Outcome.NOT_RUN, "2.8.0"),
        ServeRecord(created=WHEN, run="r", cell="g", engine="vllm", executor="local", status=ServeStatus.OK),
    ]

    assert failures(records, "r") == []


def test_every_kind_of_failure_ends_in_a_cause() -> None:
    records: list[AnyRecord] = [
        build("a", BuildStatus.FAILED, log="a"),
        audit("b", Verdict.FAIL, "L1 sgl-kernel 0.3.9.post2: _mscclpp.so need libnuma.so.1, and nothing brings it"),
        build("b", BuildStatus.REFUSED, reason="the audit refuses it"),
        probe("c", Outcome.BROKEN, "2.9.1", log="c"),
        ServeRecord(
            created=WHEN, run="r", cell="d", engine="vllm", executor="local", status=ServeStatus.CRASHED, log="d"
        ),
    ]  # fmt: skip

    assert diagnosed(
        records,
        a=b"nvcc fatal   : Unsupported gpu architecture 'compute_120a'\n",
        c=SYMBOL,
        d=b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    ) == [
        ("a", "build", "arch-nvcc-unsupported"),
        ("b", "audit", "abi-libnuma-missing"),
        ("c", "sampling", "abi-torch-generic"),
        ("d", "serve", "h-oom"),
    ]


def test_without_a_log_the_record_itself_is_read_and_its_cause_believed() -> None:
    lost = build("a", BuildStatus.FAILED, log="gone", reason="[Errno 28] No space left on device")
    named = probe("b", Outcome.WRONG, "2.8.0", cause="q-not-close")
    nothing = build("c", BuildStatus.FAILED, reason="exit 1")
    wrong = probe("d", Outcome.WRONG, "2.8.0")

    assert diagnosed([lost, named, nothing, wrong]) == [
        ("a", "build", "b-no-space"),
        ("b", "sampling", "q-not-close"),
        ("c", "build", "unknown"),
        ("d", "sampling", "probe-wrong"),
    ]


def test_the_nearest_cell_that_works_shows_the_difference_that_matters() -> None:
    records: list[AnyRecord] = [
        probe("bad", Outcome.BROKEN, "2.9.1", log="bad"),
        probe("good", Outcome.WORKS, "2.8.0"),
    ]
    [found] = diagnose_run(records, "r", open_log=logs(bad=SYMBOL), points={})  # type: ignore[arg-type]

    assert found.contrast is not None
    assert found.contrast.works == "good"
    assert [(d.name, d.here, d.there) for d in found.contrast.differences] == [("torch", "2.9.1", "2.8.0")]


def test_a_cell_that_no_longer_works_is_not_an_example() -> None:
    late = probe("good", Outcome.BROKEN, "2.8.0").model_copy(update={"created": WHEN + timedelta(days=1)})
    records: list[AnyRecord] = [
        probe("bad", Outcome.BROKEN, "2.9.1", log="bad"),
        probe("good", Outcome.WORKS, "2.8.0"),
        late,
    ]
    findings = diagnose_run(records, "r", open_log=logs(bad=SYMBOL), points={})  # type: ignore[arg-type]

    assert findings[0].contrast is None


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def project(tmp_path: Path) -> Path:
    store = FileStore(tmp_path / "build_logs")
    (tmp_path / "build_logs" / "r").mkdir(parents=True)
    (tmp_path / "build_logs" / "r" / "a.log").write_bytes(SYMBOL)
    store.append(build("a", BuildStatus.FAILED, log="r/a.log"))
    return tmp_path


def test_a_file_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(SYMBOL)

    assert main(["diagnose", str(log)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("abi-torch-generic  [abi]")
    assert "line 1: ImportError" in out
    assert "source  https://" in out


def test_an_unknown_failure_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "x.log"
    log.write_text("frob.BentError: [bold]the frob is bent[/]\n")

    assert main(["diagnose", str(log), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert [d["cause"] for d in document["diagnoses"]] == ["unknown"]
    assert main(["diagnose", str(log)]) == 1
    assert "[bold]the frob is bent[/]" in capsys.readouterr().out


def test_a_harmless_file_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "x.log"
    log.write_text("all is well\n")

    assert main(["diagnose", str(log)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["r", "latest"])
def test_a_run_is_diagnosed(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["diagnose", name, "--project", str(project), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert document["run"] == "r"
    assert [f["report"]["diagnoses"][0]["cause"] for f in document["failures"]] == ["abi-torch-generic"]


def test_a_log_outside_the_store_is_not_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "secret.log").write_bytes(b"CUDA out of memory. Tried to allocate\n")
    FileStore(project / "build_logs").append(build("b", BuildStatus.FAILED, log="../secret.log", run="s"))

    assert main(["diagnose", "s", "--project", str(project)]) == 1
    assert "h-oom" not in capsys.readouterr().out


def test_a_name_that_is_nothing_is_a_usage_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "nosuch", "--project", str(project)]) == 2
    assert "neither a file nor a run" in capsys.readouterr().err


def test_the_known_failures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--known", "--format", "json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]

    assert len(entries) > 100
    assert {"id", "class", "cause", "fix", "sources"} <= set(entries[0])


def test_an_image_without_the_engine_that_a_log_names_is_not_a_comparison() -> None:
    works = probe("plain", Outcome.WORKS, "2.11.0")
    serves = works.model_copy(update={"cell": "serves", "packages": {"torch": "2.14.0", "vllm": "0.33.0"}})

    assert contrast_of_versions([works], {"torch": "2.13.0", "vllm": "0.33.0"}) is None

    found = contrast_of_versions([works, serves], {"torch": "2.13.0", "vllm": "0.33.0"})

    assert found is not None
    assert ("serves", "serves works; take over from it torch: 2.13.0 -> 2.14.0") == (found.works, found.suggestion)

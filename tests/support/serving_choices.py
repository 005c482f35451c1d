"""Images to choose from, and what is predicted of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from assay.adapters.files.serving import load_server_flags
from assay.evidence.record import AuditRecord, Device
from assay.foundation.outcome import Outcome, Verdict
from assay.serving.choice import Option

ENGINES = load_server_flags(Path(__file__).parents[2] / "knowledge" / "server_flags.yaml").engines
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
CARD = Device(name="RTX 5090", capability="12.0", memory_bytes=32 << 30)


def option(cell: str, version: str = "0.33.0", *, cuda: str = "13.0", digest: str | None = None) -> Option:
    return Option(
        cell=cell, reference=f"assay/{cell}", engine=ENGINES["vllm"], version=version, digest=digest, cuda=cuda
    )


def predicted(cell: str, **features: str) -> AuditRecord:
    found = {name.replace("_", "-"): Outcome(word) for name, word in features.items()}
    return AuditRecord(
        created=NOON, run="r", cell=cell, subject="wheels", verdict=Verdict.OK, predictions={"sm_120": found}
    )

"""Claims stay claims: read with source and date, put beside predictions and measurements, never instead of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from assay.errors import ConfigError
from assay.evidence import claims
from assay.evidence import suite as probes
from assay.evidence.claims import Claim, ClaimLine
from assay.evidence.record import AuditRecord, Device, FeatureResult, ProbeRecord
from assay.foundation.outcome import Outcome, Verdict

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LEDGERS = sorted((Path(__file__).parents[2] / "images").glob("*/claims.yaml"))


def claim(outcome: str, *, date: str = "2025-09-16", versions: str = "", target: str = "sm_120") -> Claim:
    return Claim(
        feature="cuda-graphs", outcome=Outcome(outcome), target=target, engine="sglang", versions=versions, says="it",
        source="a document", date=date,
    )  # fmt: skip


def probed(outcome: Outcome, capability: str) -> ProbeRecord:
    return ProbeRecord(
        created=NOW, run="r", cell="c", suite_digest="sha256:s", executor="docker", packages={},
        devices=(Device(name="card", capability=capability, memory_bytes=1),),
        features={"cuda-graphs": FeatureResult(outcome=outcome)},
    )  # fmt: skip


def audited(outcome: Outcome) -> AuditRecord:
    return AuditRecord(
        created=NOW,
        run="r",
        cell="c",
        subject="wheels",
        verdict=Verdict.OK,
        predictions={"sm_120": {"cuda-graphs": outcome}},
    )


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_ledgers_name_features_that_have_probes(path: Path, root: Path) -> None:
    folder = root / "probes"
    known = probes.declarations({str(p.relative_to(folder)): p.read_text() for p in folder.glob("features/*.py")})

    found = claims.read(path.read_text(), file=str(path))

    assert found
    assert {item.feature for item in found} <= set(known)


def test_a_wrong_ledger_tells_every_place() -> None:
    line = "  - {feature: a, outcome: splendid, target: sm_120, says: x, source: y, date: 2025-13-01}"
    text = f"version: 1\nclaims:\n{line}\n"

    with pytest.raises(ConfigError) as caught:
        claims.read(text, file="claims.yaml")

    assert 2 == len(caught.value.problems)


@pytest.mark.parametrize(
    ("versions", "version", "expected"),
    [("", "0.5.2", True), ("<=0.5.2", "0.5.2", True), ("<=0.5.2", "0.5.23", False), ("<=0.5.2", "nightly", False)],
)
def test_a_claim_speaks_of_the_versions_it_names(versions: str, version: str, expected: bool) -> None:
    one = claim("broken", versions=versions)

    assert expected is claims.applies(one, target="sm_120", engine="sglang", version=version)
    assert not claims.applies(one, target="sm_90", engine="sglang", version=version)


def test_a_measurement_on_another_architecture_measures_nothing_here() -> None:
    (line,) = claims.compare(
        target="sm_120", engine="sglang", version="0.5.2", claims=[claim("broken")], audit=None,
        probe=probed(Outcome.WORKS, "9.0"),
    )  # fmt: skip

    assert line.measured is None
    assert "not measured" == claims.rows([line])[0][3]


@pytest.mark.parametrize(
    ("said", "predicted", "measured", "flag"),
    [
        (["broken"], None, Outcome.WORKS, "works against the claim"),
        (["works"], None, Outcome.BROKEN, "fails against the claim"),
        (["broken"], None, Outcome.WRONG, ""),
        (["works"], Outcome.WORKS, Outcome.WORKS, ""),
        ([], Outcome.WORKS, Outcome.BROKEN, "fails against the prediction"),
        ([], Outcome.BROKEN, Outcome.WORKS, "works against the prediction"),
        (["works"], Outcome.BROKEN, Outcome.INCONCLUSIVE, ""),
        (["works", "broken"], None, None, "claims differ"),
    ],
)
def test_differences_are_flagged(
    said: list[str], predicted: Outcome | None, measured: Outcome | None, flag: str
) -> None:
    found = claims.compare(
        target="sm_120", engine="sglang", version="0.5.2", claims=[claim(word) for word in said],
        audit=audited(predicted) if predicted else None, probe=probed(measured, "12.0") if measured else None,
    )  # fmt: skip

    assert [flag] == [line.flag for line in found]


def test_the_newest_claim_counts() -> None:
    line = ClaimLine(
        feature="cuda-graphs",
        claims=(claim("broken", date="2025-09-16"), claim("works", date="2025-10-20")),
        measured=FeatureResult(outcome=Outcome.WORKS),
    )

    assert "" == line.flag

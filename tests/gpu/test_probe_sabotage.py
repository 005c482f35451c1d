"""On a GPU: every probe that works here turns wrong when its result is disturbed, and says what kills it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay import probes
from assay.model.outcome import Outcome
from assay.probes import Declaration, HarnessResult

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

PROBES = Path(__file__).parents[2] / "probes"
SUITE = probes.declarations({str(p.relative_to(PROBES)): p.read_text() for p in PROBES.glob("features/*.py")})
NUMERIC = sorted(name for name, item in SUITE.items() if item.gpus == 1)
GOOD = (Outcome.WORKS, Outcome.DEGRADED)


def harness(folder: Path, chosen: list[Declaration], sabotage: dict[str, str]) -> dict[str, Outcome]:
    folder.mkdir()
    job = probes.job(chosen, work=str(folder / "work"), cache=os.environ.get("ASSAY_TEST_CACHE", ""), sabotage=sabotage)
    (folder / "job.json").write_text(json.dumps(job))
    python = os.environ.get("ASSAY_TEST_PYTHON", sys.executable)
    subprocess.run([python, PROBES / "harness.py", folder / "job.json", folder / "result.json"], check=True)
    result = HarnessResult.model_validate_json((folder / "result.json").read_bytes())
    return {name: item.outcome for name, item in probes.judge_all(result, chosen).items()}


@pytest.mark.parametrize("kind", ["perturb", "nan"])
@pytest.mark.parametrize("feature", NUMERIC)
def test_a_disturbed_result_is_wrong(tmp_path: Path, feature: str, kind: str) -> None:
    chosen = probes.order(SUITE, [feature])
    plain = harness(tmp_path / "plain", chosen, {})[feature]
    if plain not in GOOD:
        pytest.skip(f"{feature} is {plain} here: nothing to disturb")

    disturbed = harness(tmp_path / "disturbed", chosen, {feature: kind})[feature]

    assert Outcome.WRONG is disturbed


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("stale-input", Outcome.WRONG),
        ("slow", Outcome.DEGRADED),
        ("cuda-out-of-memory", Outcome.INCONCLUSIVE),
        ("segfault", Outcome.BROKEN),
    ],
)
def test_cuda_graphs_broken_in_its_own_ways(tmp_path: Path, kind: str, outcome: Outcome) -> None:
    found = harness(tmp_path / "run", probes.order(SUITE, ["cuda-graphs"]), {"cuda-graphs": kind})

    assert outcome is found["cuda-graphs"]
    assert Outcome.WORKS is found["torch-device"]


def test_a_missing_library_is_found(tmp_path: Path) -> None:
    chosen = probes.order(SUITE, ["numa", "abi-import"])

    found = harness(tmp_path / "run", chosen, {"numa": "missing-library", "abi-import": "missing-library"})

    assert {"numa": Outcome.BROKEN, "abi-import": Outcome.BROKEN} == found

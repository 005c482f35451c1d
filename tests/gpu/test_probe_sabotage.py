"""On a GPU: every probe that works here turns wrong when its result is disturbed, and says what kills it.

    pytest --gpu tests/gpu/test_probe_sabotage.py [-k perturb]

ASSAY_TEST_PYTHON   the Python whose packages are probed (default: the one that runs pytest)
ASSAY_TEST_CACHE    a folder for what is compiled at run time, kept for the next run
ASSAY_TEST_RECORD   a record of that very Python on this machine: says what works, so that it is not probed once more
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from assay.evidence import suite as probes
from assay.evidence.record import ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.outcome import Outcome

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(7200)]

PROBES = Path(__file__).parents[2] / "probes"
SUITE = probes.declarations({str(p.relative_to(PROBES)): p.read_text() for p in PROBES.glob("features/*.py")})
NUMERIC = sorted(name for name, item in SUITE.items() if item.gpus == 1)
NEEDED = {name for item in SUITE.values() for name in item.requires}
GOOD = (Outcome.WORKS, Outcome.DEGRADED)


def harness(folder: Path, chosen: list[Declaration], sabotage: dict[str, str]) -> dict[str, Outcome]:
    folder.mkdir()
    job = probes.job(chosen, work=str(folder / "work"), cache=os.environ.get("ASSAY_TEST_CACHE", ""), sabotage=sabotage)
    (folder / "job.json").write_text(json.dumps(job))
    python = os.environ.get("ASSAY_TEST_PYTHON", sys.executable)
    subprocess.run([python, PROBES / "harness.py", folder / "job.json", folder / "result.json"], check=True)
    result = HarnessResult.model_validate_json((folder / "result.json").read_bytes())
    return {name: item.outcome for name, item in probes.judge_all(result, chosen).items()}


class Runs:
    """Few runs of the harness for many tests: all that nothing else rests on is disturbed at once."""

    def __init__(self, folder: Path, features: frozenset[str]) -> None:
        self._folder = folder
        self._features = features
        # Bound to this object, so that each run happens once for a session.
        self.plain = cache(self._plain)
        self.disturbed = cache(self._disturbed)

    def _plain(self) -> dict[str, Outcome]:
        if path := os.environ.get("ASSAY_TEST_RECORD"):
            record = ProbeRecord.model_validate_json(Path(path).read_bytes())
            return {name: found.outcome for name, found in record.features.items()}
        return harness(self._folder / "plain", probes.order(SUITE, sorted(self._features)), {})

    def _disturbed(self, kind: str) -> dict[str, Outcome]:
        works = sorted(name for name in self._features if self.plain().get(name) in GOOD)
        leaves = [name for name in works if name not in NEEDED]
        found = {}
        if leaves:
            ran = harness(self._folder / kind, probes.order(SUITE, leaves), dict.fromkeys(leaves, kind))
            found.update({name: ran[name] for name in leaves})
        for name in works:
            # A prerequisite that is disturbed takes all that rests on it along: each by itself.
            if name in NEEDED:
                folder = self._folder / f"{kind}-{name}"
                found[name] = harness(folder, probes.order(SUITE, [name]), {name: kind})[name]
        return found


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    wanted = {
        str(item.callspec.params["feature"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "feature" in item.callspec.params
    }
    return Runs(tmp_path_factory.mktemp("runs"), frozenset(wanted & set(NUMERIC)))


@pytest.mark.parametrize("kind", ["perturb", "nan"])
@pytest.mark.parametrize("feature", NUMERIC)
def test_a_disturbed_result_is_wrong(runs: Runs, feature: str, kind: str) -> None:
    plain = runs.plain().get(feature)
    if plain not in GOOD:
        pytest.skip(f"{feature} is {plain} here: nothing to disturb")

    assert Outcome.WRONG is runs.disturbed(kind)[feature]


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

"""What the audit predicts against what probes measured: every record of docs/records, feature by feature.

python bench/predictions.py [FOLDER]

An image of a cell is compared with the audit of that cell in docs/records/audits. Of any other environment, the wheels
of the record's package versions are audited, read from the package index (gigabytes, once); its base is taken to have
libnuma and the compilers, as the machines of the records had.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from assay.evidence.record import ProbeRecord, parse
from assay.foundation.outcome import Outcome

ENGINES = ("vllm", "sglang", "sglang-kernel", "sgl-kernel", "flashinfer-python", "triton", "nvidia-nccl-cu12",
           "nvidia-nccl-cu13")  # fmt: skip
BASE = ("--base", "debian12", "--package", "libnuma1", "--package", "gcc", "--package", "cuda-toolkit")


def audited(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return (cell, target) -> what the newest audit of its lock predicts."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted(folder.rglob("*-audit-*.json")):
        record = json.loads(path.read_text())
        for target, features in record["predictions"].items():
            found[record["cell"], target] = dict(features)
    return found


def predicted(packages: dict[str, str], target: str) -> dict[str, str] | None:
    words = [f"{name}=={packages[name]}" for name in ENGINES if name in packages]
    if not words:
        words, torch = [f"torch=={packages['torch'].partition('+')[0]}"], []
    else:
        torch = ["--torch", packages["torch"].partition("+")[0]]
    done = subprocess.run(
        [sys.executable, "-m", "assay", "audit", *words, *torch, "--target", target, *BASE, "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    document = json.loads(done.stdout) if done.stdout else {}
    if "reports" not in document:
        # A wheel for another Python, or one that is gone: nothing is compared, and that is said.
        print(f"left out: {packages}: {document.get('error') or done.stderr.strip() or 'no answer'}", flush=True)
        return None
    (report,) = document["reports"]
    return {item["feature"]: item["outcome"] for item in report["predictions"]}


def main() -> int:
    folder = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1] / "docs" / "records")
    known = audited(folder)
    measured: dict[tuple[str, str, str], dict[str, str]] = {}
    for path in sorted(folder.rglob("*-probe-*.json")):
        record = parse(path.read_bytes())
        assert isinstance(record, ProbeRecord)
        target = record.devices[0].target
        packages = {name: version for name, version in record.packages.items() if name in {*ENGINES, "torch"}}
        # A later record of the same versions is what counts, as in the report.
        cell = record.cell if (record.cell, target) in known else ""
        measured.setdefault((cell, "" if cell else json.dumps(packages, sort_keys=True), target), {}).update(
            {name: str(it.outcome) for name, it in record.features.items() if it.outcome is not Outcome.NOT_RUN}
        )
    counts: Counter[tuple[str, str]] = Counter()
    for (cell, packages, target), outcomes in measured.items():
        told = known[cell, target] if cell else predicted(json.loads(packages), target)
        if told is None:
            continue
        for feature, outcome in sorted(outcomes.items()):
            if outcome == Outcome.INCONCLUSIVE:
                print(f"left out: {target} {cell or packages}: {feature} is {outcome}", flush=True)
                continue
            guess = told.get(feature, "not predicted")
            counts[outcome, guess] += 1
            if guess != outcome:
                print(f"{target} {cell or packages}: {feature} measured {outcome}, predicted {guess}", flush=True)
    for (outcome, guess), count in counts.most_common():
        print(f"{count:4} measured {outcome:13} predicted {guess}")
    same = sum(count for (outcome, guess), count in counts.items() if outcome == guess)
    unsaid = sum(count for (_, guess), count in counts.items() if guess == "not predicted")
    print(f"{same} of {counts.total()} as measured, {unsaid} not predicted")
    return 0 if counts else 1


if __name__ == "__main__":
    raise SystemExit(main())

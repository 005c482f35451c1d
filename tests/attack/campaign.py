"""The campaign: `python tests/attack/campaign.py [SECONDS] [--only NAME,...] [--seed N] [--again NAME:SEED:CASE]`.

Each case is one hostile input for one reader, one answer of a bad server,
one broken environment or one kill. It runs in
a child process with bounded memory and time; the child goes on to the next case,
and a new one is started where it died.
Prints what was tried and survived, and the worst memory and time of a case. Exit code 1: something did not survive.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from attack_table import ATTACKS, Attack  # noqa: E402 - found through the line above

GRACE: Final = 20.0
"""Seconds beyond its deadline after which a case is taken to hang where no signal of Python's reaches it."""
BATCH: Final = 100
"""Cases of one process."""
FEWEST: Final = 20
"""Cases of each attack at least, however short the time: the good inputs and the crafted bombs are the first ones."""


@dataclass
class Outcome:
    """What became of the cases of one attack."""

    tried: int = 0
    refused: int = 0
    worst_kb: int = 0
    worst_seconds: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, document: dict[str, Any]) -> None:
        """Take in what a child counted."""
        self.tried += document["tried"]
        self.refused += document["refused"]
        self.worst_kb = max(self.worst_kb, document["worst_kb"])
        self.worst_seconds = max(self.worst_seconds, document["worst_seconds"])
        self.failures += document["failures"]


def batch(attack: Attack, seed: int, first: int, last: int, *, seconds: float) -> tuple[dict[str, Any], int]:
    """Run cases in a child; return its counts, and the number of the case to go on with."""
    with tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work").mkdir()
        job = {
            "attack": attack.name, "seed": seed, "first": first, "last": last, "seconds": seconds,
            "folder": str(folder / "work"),
            "progress": str(folder / "progress"), "result": str(folder / "result.json"),
        }  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path[:3]),
            "TMPDIR": str(folder),
            "PYTHONHASHSEED": "0",
        }
        process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "attack_child.py", json.dumps(job)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        at, changed, said = -1, time.monotonic(), ""
        while process.poll() is None:
            time.sleep(0.02)
            now = _progress(folder / "progress")
            if now != at:
                at, changed = now, time.monotonic()
            if time.monotonic() - changed > attack.deadline + GRACE + (60 if at < 0 else 0):
                process.kill()
                said = "hangs in a call that no signal ends"
        words = process.communicate()[1].strip().splitlines()
        if process.returncode == 0:
            document = json.loads((folder / "result.json").read_text())
            return document, max(document["next"], first + 1)
    found = said or f"the process ended with {process.returncode}: {' '.join(words[-1:])[:200]}"
    lost = {"tried": 1, "refused": 0, "worst_kb": 0, "worst_seconds": 0.0, "failures": [{"case": at, "found": found}]}
    return lost, max(at, first) + 1


def _progress(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return -1


def attacked(attack: Attack, seed: int, seconds: float) -> Outcome:
    """Run an attack for some time."""
    outcome = Outcome()
    until = time.monotonic() + seconds
    at = 0
    size = 10 if attack.isolated else BATCH
    least = 5 if attack.isolated else FEWEST
    while time.monotonic() < until or at < least:
        left = max(until - time.monotonic(), 10.0 if at < least else 1.0)
        last = at + size if time.monotonic() < until else least
        document, at = batch(attack, seed, at, max(last, at + 1), seconds=left)
        outcome.add(document)
    for failure in outcome.failures:
        failure["again"] = f"{attack.name}:{seed}:{failure['case']}"
    return outcome


def _table(outcomes: dict[str, Outcome]) -> str:
    lines = [f"{'attack':22} {'tried':>7} {'survived':>9} {'refused':>8} {'worst MB':>9} {'worst s':>8}"]
    whole = Outcome()
    for name, one in [*outcomes.items(), ("all", whole)]:
        lines.append(
            f"{name:22} {one.tried:7} {one.tried - len(one.failures):9} {one.refused:8} {one.worst_kb / 1000:9.0f} "
            f"{one.worst_seconds:8.2f}"
        )
        whole.add(vars(one)) if one is not whole else None
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", metavar="NAME:SEED:CASE", default="")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.again:
        name, seed, case = options.again.split(":")
        chosen = next(one for one in ATTACKS if one.name == name)
        document, _ = batch(chosen, int(seed), int(case), int(case) + 1, seconds=60.0)
        print(json.dumps(document, indent=1))
        return 1 if document["failures"] else 0
    names = [name for name in options.only.split(",") if name]
    table = [one for one in ATTACKS if not names or one.name in names]
    share = options.seconds * options.jobs / sum(one.share for one in table)
    with ThreadPoolExecutor(options.jobs) as pool:
        # The long ones first, so that none of them runs alone in the end.
        order = sorted(table, key=lambda one: -one.share)
        futures = {one.name: pool.submit(attacked, one, options.seed, one.share * share) for one in order}
        outcomes = {one.name: futures[one.name].result() for one in table}
    if options.json:
        print(json.dumps({name: vars(one) for name, one in outcomes.items()}, indent=1))
    else:
        print(_table(outcomes))
        for name, one in outcomes.items():
            for failure in one.failures[:10]:
                print(f"FAILED {name}: {failure['found']}\n  again: nox -s attack -- --again {failure['again']}")
            if len(one.failures) > 10:
                print(f"  and {len(one.failures) - 10} more of {name}")
    return 1 if any(one.failures for one in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

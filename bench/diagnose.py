"""What the diagnosis costs, and how often it is right.

python bench/diagnose.py speed [MB]     100 MB of five kinds of log: seconds and peak memory; the demand is 5 s, 200 MB
python bench/diagnose.py accuracy       right, wrong and unknown on both halves of tests/data/field
python bench/diagnose.py calibrate      write knowledge/failures/calibration.json from the same
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from assay.diagnose import DiagnosisReport, FailureKind, default_library, examine
from assay.diagnose.calibration import Calibration, Counts
from assay.diagnose.corpus import Case, CaseVerdict, cases, judged
from assay.diagnose.library import folder

WORDS = [
    "Building",
    "CUDA",
    "object",
    "csrc",
    "kernel",
    "flash",
    "attention",
    "sm_120",
    "torch",
    "vllm",
    "sglang",
    "flashinfer",
    "error",
    "warning",
    "failed",
    "loading",
    "Requirement",
    "already",
    "satisfied",
    "INFO",
    "DEBUG",
    "tokens",
    "batch",
    "cache",
    "memory",
    "GiB",
    "ptxas",
    "info",
    "registers",
    "symbol",
    "cannot",
    "open",
]
CORPUS = Path(__file__).parents[1] / "tests" / "data" / "field"
NOISE = Path(__file__).parents[1] / "tests" / "data" / "diagnose" / "noise"


def ordinary(rng: random.Random, size: int) -> bytes:
    lines = [f"{i} INFO {' '.join(rng.choices(WORDS, k=rng.randint(6, 18)))}" for i in range(20_000)]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def near_misses(_: random.Random, size: int) -> bytes:
    """Every line holds an anchor and nothing matches."""
    lines = [near for entry in default_library().entries.values() for near in entry.near_misses]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def failures(_: random.Random, size: int) -> bytes:
    """Every line is a failure."""
    lines = [example for entry in default_library().entries.values() for example in entry.examples]
    block = ("\n".join(lines) + "\n").encode()
    return (block * (size // len(block) + 1))[:size]


def colours(rng: random.Random, size: int) -> bytes:
    return b"".join(b"\x1b[32m" + line + b"\x1b[0m\r\n" for line in ordinary(rng, size * 9 // 10).split(b"\n"))[:size]


def one_line(rng: random.Random, size: int) -> bytes:
    """No newline at all, as a progress bar or a dumped tensor makes it."""
    return ordinary(rng, size).replace(b"\n", b" ")


KINDS = {f.__name__: f for f in (ordinary, near_misses, failures, colours, one_line)}


def measure(path: str, queue: multiprocessing.Queue[tuple[float, float, float, int]]) -> None:
    default_library()
    before, cpu = time.perf_counter(), time.process_time()
    with Path(path).open("rb") as log:
        report = examine(log)
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    # VmHWM begins anew with each program; ru_maxrss is inherited from the parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    queue.put((seconds, cpu, int(peak.split()[1]) / 1024, len(report.diagnoses)))


def speed(megabytes: int) -> None:
    context = multiprocessing.get_context("spawn")
    print(
        f"{'log':<12} {'MB':>5} {'seconds':>8} {'CPU s':>7} {'MB/s':>7} {'of 5 s':>7} "
        f"{'peak MB':>8} {'of 200':>7} causes"
    )
    for name, make in KINDS.items():
        with tempfile.NamedTemporaryFile(suffix=".log") as file:
            file.write(make(random.Random(1), megabytes * 1_000_000))
            file.flush()
            queue: multiprocessing.Queue[tuple[float, float, float, int]] = context.Queue()
            process = context.Process(target=measure, args=(file.name, queue))
            process.start()
            seconds, cpu, peak, causes = queue.get(timeout=300)
            process.join()
        share = seconds / 5 * 100 / megabytes
        print(
            f"{name:<12} {megabytes:>5} {seconds:>8.2f} {cpu:>7.2f} {megabytes / seconds:>7.0f} {share:>7.2f} "
            f"{peak:>8.0f} {peak / 200:>7.2f} {causes}"
        )


Answer = tuple[Case, DiagnosisReport, CaseVerdict]


def answers(*halves: str) -> list[Answer]:
    found = []
    for case in cases(CORPUS, *halves):
        report = examine(case.log.read_bytes())
        found.append((case, report, judged(report, case.label)))
    return found


def band(report: DiagnosisReport) -> str:
    if not report.diagnoses or not report.diagnoses[0].known:
        return "none given"
    confidence = report.diagnoses[0].confidence
    return next(f"{low:.1f} and more" for low in (0.9, 0.8, 0.7, 0.6, 0.0) if confidence >= low)


def accuracy(*, show: str) -> None:
    row = "{:<28} {:>5} {:>6} {:>6} {:>13} {:>8}"
    for half in ("seen", "unseen"):
        found = answers(half)
        print(f"== {half}: {len(found)} logs of {len({s for c, _, _ in found for s in c.label.source})} threads")
        print(row.format("", "logs", "right", "wrong", "may be, wrong", "unknown"))
        groups: dict[str, list[Answer]] = {"all": found}
        for answer in found:
            groups.setdefault(f"family {answer[0].family}", []).append(answer)
        for answer in sorted(found, key=lambda answer: band(answer[1]), reverse=True):
            groups.setdefault(f"confidence {band(answer[1])}", []).append(answer)
        for name, group in groups.items():
            counts = Counter(str(verdict) for _, _, verdict in group)
            print(row.format(name, len(group), *(counts[str(verdict)] for verdict in CaseVerdict)))
        for case, report, verdict in found:
            if show in {verdict, "all"}:
                told = [f"{d.cause} {d.confidence:.2f}" for d in report.diagnoses]
                wanted = case.label.cause or (case.label.cause_class, *map("|".join, case.label.fix_words))
                print(f"{verdict:<8} {half}/{case.family}/{case.name}: {', '.join(told) or '-'}; true: {wanted}")
        print()


def _side(verdict: CaseVerdict) -> str:
    return "right" if verdict is CaseVerdict.RIGHT else "wrong"


def calibrate() -> None:
    """Count for each entry how often it was the first answer, and write what `assay diagnose` prints as confidence."""
    counts: dict[str, Counter[str]] = {}
    for _, report, verdict in answers("seen", "unseen"):
        if report.diagnoses and report.diagnoses[0].known:
            counts.setdefault(report.diagnoses[0].cause, Counter())[_side(verdict)] += 1
    for path in sorted(NOISE.glob("*.log")):
        for diagnosis in examine(path.read_bytes()).diagnoses:
            counts.setdefault(diagnosis.cause, Counter())["wrong"] += 1
    kinds: dict[FailureKind, Counter[str]] = {kind: Counter() for kind in FailureKind}
    for name, count in counts.items():
        # The log that an entry was written from proves nothing of it.
        kinds[default_library().entries[name].kind].update(right=max(0, count["right"] - 1), wrong=count["wrong"])
    assumed = Calibration().priors
    priors = {
        # What was assumed before anything was measured weighs as much as ten logs.
        kind: round((kinds[kind]["right"] + 10 * assumed[kind]) / (kinds[kind].total() + 10), 3)
        for kind in FailureKind
        if kind is not FailureKind.WRAPPER
    }
    measured = Calibration(
        priors=assumed | priors,
        entries={name: Counts(right=c["right"], wrong=c["wrong"]) for name, c in sorted(counts.items())},
    )
    path = folder() / "calibration.json"
    path.write_text(measured.model_dump_json(indent=1) + "\n")
    print(f"{path}: {len(measured.entries)} entries, priors {priors}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what")
    kinds.add_parser("speed").add_argument("megabytes", type=int, nargs="?", default=100)
    kinds.add_parser("accuracy").add_argument("--show", choices=[*map(str, CaseVerdict), "all"], default="")
    kinds.add_parser("calibrate")
    given = parser.parse_args()
    match given.what:
        case "accuracy":
            accuracy(show=given.show)
        case "calibrate":
            calibrate()
        case _:
            speed(getattr(given, "megabytes", 100))


if __name__ == "__main__":
    main()

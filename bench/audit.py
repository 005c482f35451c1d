"""What the audit costs, in one run: bytes and seconds of a verdict, a full read of torch, 200 cells, and the usual way.

python bench/audit.py [abi] [scan] [matrix] [locked] [install]   (default: abi matrix; scan, install fetch gigabytes)
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.index.uv import uv_program
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.installation import Base, Installation
from assay.audit.promised import promised
from assay.cli.audit_composition import make_auditor
from assay.cli.common import load
from assay.matrix.lock import Lock
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_many import audit_many
from assay.pipeline.read_wheel import Depth, read_wheel
from assay.pipeline.wheel_choice import choose_wheel
from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource
from assay.wheels.facts import WheelFacts
from assay.wheels.member import MemberReader

PYTHON = "3.11"
TORCH = ("2.8.0", "2.9.1", "2.11.0", "2.13.0")
EXTENSIONS = ("sgl-kernel==0.3.9.post2", "vllm==0.11.0", "sglang-kernel==0.4.10", "vllm==0.33.0")
KNOWLEDGE = load_knowledge()


class Counting:
    """A source that keeps what it opened, to be asked for its bytes."""

    def __init__(self) -> None:
        self._real = WebWheels()
        self.last: ByteSource | None = None

    def open(self, file: IndexFile):
        self.last = self._real.open(file)
        return self.last


class Paced:
    """Wheels over a link of 1 Gbit/s."""

    def open(self, file: IndexFile):
        source = WebWheels().open(file)
        real = source.stream

        def stream(offset: int = 0):
            start, done = time.perf_counter(), 0
            for chunk in real(offset):
                done += len(chunk)
                time.sleep(max(0.0, start + done / 125e6 - time.perf_counter()))
                yield chunk

        source.stream = stream
        return source


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def installation(extension: WheelFacts, torch: WheelFacts) -> Installation:
    wheels = (extension, torch)
    sonames = promised(wheels, KNOWLEDGE) | {"libnuma.so.1"}
    base = Base(name="slim", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=sonames)
    return Installation(wheels=wheels, python=PYTHON, base=base, complete=False)


def abi() -> None:
    """One extension wheel against the table of torch's exports: demanded below 1 % of its bytes and 3 s."""
    print("wheel                          MiB      fetched   share  requests  seconds  verdicts on", *TORCH)
    index = SimpleIndex()
    for word in EXTENSIONS:
        seconds, file = timed(lambda word=word: choose_wheel(word, PYTHON, index))
        source = Counting()
        took, facts = timed(lambda file=file, source=source: read_wheel(file, source, depth=Depth.SYMBOLS))
        opened = source.last
        verdicts = []
        for version in TORCH:
            torch = FactsCache().get(choose_wheel(f"torch=={version}", PYTHON, index).sha256 or "") or empty(version)
            spent, report = timed(lambda facts=facts, torch=torch: audit(installation(facts, torch), KNOWLEDGE).report)
            took += spent / len(TORCH)
            verdicts.append(str(report.verdict))
        print(
            f"{word:28} {opened.size >> 20:6} {opened.fetched:12} {opened.fetched / opened.size:7.2%} "
            f"{opened.requests:9} {took:8.2f}  {' '.join(verdicts)}   (index page {seconds:.2f} s)"
        )


def empty(version: str) -> WheelFacts:
    """A torch that was not read: its libraries by name, judged by the table."""
    names = ("_C.so", "lib/libtorch_global_deps.so", "lib/libtorch.so", "lib/libtorch_cpu.so", "lib/libtorch_cuda.so",
             "lib/libtorch_python.so", "lib/libc10.so", "lib/libc10_cuda.so")  # fmt: skip
    libraries = [{"path": f"torch/{name}", "size": 1, "scope": "listed"} for name in names]
    return WheelFacts.model_validate(
        {"name": "torch", "version": version, "filename": "", "sha256": "", "libraries": libraries}
    )


def scan() -> None:
    """A full read of torch: demanded bound by the network, parsing below 10 % of the time, and 300 MB of memory.

    Fetching, unpacking and parsing each have a thread, so the share of parsing is told in two ways: what it adds to
    the time (a read with parsing left out beside a whole one) and what CPU it takes, in percent of the time.
    """
    print("torch      MiB   network alone   without parsing   full read   parsing adds   its CPU   peak MB   "
          "at 1 Gbit/s: network alone   full read")  # fmt: skip
    index = SimpleIndex()
    spent = 0.0
    real_feed, real_finish = MemberReader.feed, MemberReader.finish

    def feed(self, chunk):
        nonlocal spent
        start = time.thread_time()
        real_feed(self, chunk)
        spent += time.thread_time() - start

    def finish(self, reread=None):
        nonlocal spent
        start = time.thread_time()
        value = real_finish(self, reread)
        spent += time.thread_time() - start
        return value

    for version in TORCH[:2]:
        file = choose_wheel(f"torch=={version}", PYTHON, index)
        with WebWheels().open(file) as source:
            alone, size = timed(lambda source=source: sum(len(chunk) for chunk in source.stream()))
        MemberReader.feed, MemberReader.finish = (lambda *_: None), (lambda *_: None)  # type: ignore[method-assign]
        bare, _ = timed(lambda file=file: read_wheel(file, WebWheels()))
        MemberReader.feed, MemberReader.finish = feed, finish  # type: ignore[method-assign]
        spent = 0.0
        took, facts = timed(lambda file=file: read_wheel(file, WebWheels()))
        FactsCache().put(facts)
        share = spent
        paced, _ = timed(lambda file=file: read_wheel(file, Paced()))
        spent = share
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"{version:8} {size >> 20:5} {alone:13.1f} s {bare:15.1f} s {took:9.1f} s {1 - bare / took:13.1%} "
              f"{spent / took:9.1%} {peak:9} {size / 125e6:27.1f} s {paced:9.1f} s", flush=True)  # fmt: skip


def matrix() -> None:
    """200 cells over known facts: demanded below 10 s, facts read from disk included."""
    cache = FactsCache()
    started = time.perf_counter()
    torches = [found for found in cache.named("torch") if found.complete]
    extensions = [found for name in ("sgl-kernel", "vllm", "sglang-kernel") for found in cache.named(name)]
    if not torches or not extensions:
        print("matrix: no facts are kept; assay facts read torch==2.8.0 sgl-kernel==0.3.9.post2")
        return
    loaded = time.perf_counter() - started
    targets = [TargetGpu(name="sm_120", capability=120), TargetGpu(name="sm_90", capability=90)]
    cells = [(extension, torch) for torch in torches for extension in extensions]
    cells = (cells * (200 // len(cells) + 1))[:200]
    verdicts: dict[str, int] = {}
    for extension, torch in cells:
        report = audit(installation(extension, torch), KNOWLEDGE, targets=targets).report
        verdicts[str(report.verdict)] = verdicts.get(str(report.verdict), 0) + 1
    total = time.perf_counter() - started
    print(f"200 cells ({len(torches)} torch, {len(extensions)} extensions, 2 targets): {total:.2f} s, of it facts from "
          f"disk {loaded:.2f} s; {verdicts}")  # fmt: skip


class Released:
    """A folder with the facts of locked wheels, and of wheels that are like others but for their sha256."""

    def __init__(self, folder: Path, locks: Iterable[Lock], origin: str) -> None:
        self._known = FactsCache()
        self._made = FactsCache(folder)
        self._origin = origin
        self.facts: dict[str, WheelFacts] = {}
        for wheel in {wheel.sha256: wheel for lock in locks for wheel in lock.wheels}.values():
            found = self._known.whole(wheel.sha256)
            if found is not None:
                self.facts[wheel.sha256] = found
                self._put(found)

    def _put(self, facts: WheelFacts) -> None:
        # Wherever the facts were read from: here they are those of the index that the locks name.
        self._made.put(facts if facts.complete else facts.model_copy(update={"origin": self._origin}))

    def another(self, lock: Lock, number: int, *, native: bool) -> Lock:
        """Return a lock with another release of one wheel, with libraries or without, of nobody else's."""
        able = [
            wheel
            for wheel in lock.wheels
            if wheel.sha256 in self.facts
            and bool(self.facts[wheel.sha256].libraries) == native
            and not wheel.name.startswith(("torch", "triton", "nvidia-"))
        ]
        wheel = able[number % len(able)]
        sha256 = hashlib.sha256(f"{wheel.sha256} {number}".encode()).hexdigest()
        self._put(self.facts[wheel.sha256].model_copy(update={"sha256": sha256}))
        wheels = (item.model_copy(update={"sha256": sha256}) if item is wheel else item for item in lock.wheels)
        return lock.model_copy(update={"wheels": tuple(wheels)})


def locked() -> None:
    """200 cells over known facts, as `assay audit` judges them: never seen before, and the same again.

    No two are the same: each has another release of one of its wheels, with libraries or without. Demanded on two quiet
    cores: below 10 s, and below 1 s again.
    """
    files, plan = load(Path(__file__).parents[1])
    matrix = plan.project.matrix
    cells = [(cell, lock) for cell in plan.cells if cell.kind != "external" and (lock := files.lock(cell)) is not None]
    for native in (False, True):
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as name:
            origin = min(SimpleIndex(matrix.indexes).origins())
            made = Released(Path(name), (lock for _, lock in cells), origin)
            known = [(cell, lock) for cell, lock in cells if any(item.sha256 in made.facts for item in lock.wheels)]
            several = (known * (200 // len(known) + 1))[:200]
            asked = [(cell, made.another(lock, at, native=native)) for at, (cell, lock) in enumerate(several)]
            make = partial(make_auditor, matrix.indexes, root=files.root, facts=Path(name))

            def judge(cores: int, make: Callable[[], Auditor] = make, asked: Any = asked) -> list[Any]:
                return list(audit_many(make(), asked, matrix, make=make, cores=cores))

            took = []
            for cores in (1, 2):
                shutil.rmtree(Path(name) / ".verdicts", ignore_errors=True)
                took += [timed(lambda cores=cores: judge(cores)), timed(lambda cores=cores: judge(cores))]
            said = [[report for _, report in found] for _, found in took]
            print(f"200 cells that differ in a wheel with{'' if native else 'out'} libraries: 1 process "
                  f"{took[0][0]:.2f} s, again {took[1][0]:.2f} s; 2 processes {took[2][0]:.2f} s, again "
                  f"{took[3][0]:.2f} s; reports alike: {_alike(said)}", flush=True)  # fmt: skip


def _alike(said: list[list[Any]]) -> bool:
    bare = [[one.model_copy(update={"seconds": 0.0, "fetched_bytes": 0}) for one in reports] for reports in said]
    return all(reports == bare[0] for reports in bare)


def install() -> None:
    """The usual way: install both wheels into a fresh environment and import; demanded 20 times slower than us."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "env"
        uv = uv_program()

        def usual() -> int:
            subprocess.run([uv, "venv", "-q", "--python", PYTHON, place], check=True)
            subprocess.run(
                [uv, "pip", "install", "-q", "--no-cache", "--python", place / "bin" / "python",
                 "torch==2.9.1", "sgl-kernel==0.3.9.post2"], check=True,
            )  # fmt: skip
            return subprocess.run(
                [place / "bin" / "python", "-c", "import torch, sgl_kernel"], check=False, capture_output=True
            ).returncode

        took, code = timed(usual)
    cache = FactsCache()

    def ours() -> str:
        index = SimpleIndex()
        files = [choose_wheel(word, PYTHON, index) for word in ("sgl-kernel==0.3.9.post2", "torch==2.9.1")]
        extension, torch = (cache.get(file.sha256 or "") for file in files)
        assert extension is not None
        assert torch is not None
        return str(audit(installation(extension, torch), KNOWLEDGE).report.verdict)

    spent, verdict = timed(ours)
    print(f"install and import: {took:.1f} s (exit {code}); audit with known facts: {spent:.2f} s ({verdict}); "
          f"{took / spent:.0f} times faster")  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:] or ["abi", "matrix"]:
        {"abi": abi, "scan": scan, "matrix": matrix, "locked": locked, "install": install}[name]()

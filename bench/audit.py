"""What the audit costs, in one run: bytes and seconds of a verdict, a full read of torch, 200 cells, and the usual way.

python bench/audit.py [abi] [scan] [matrix] [locked] [install]   (default: abi matrix; scan, install fetch gigabytes)
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.host.demangle import demangle
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.index.uv import uv_program
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.linker import Base, Installation
from assay.audit.promised import promised
from assay.cli.auditing import collect_seldom, make_auditor
from assay.cli.common import load
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.pipeline.audit import Auditor
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
    """200 cells over known facts: demanded below 2 s, facts read from disk included."""
    collect_seldom()
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
    """Known facts, and those of wheels that are like others but for their sha256: other releases of them."""

    def __init__(self) -> None:
        self._cache = FactsCache()
        self._more: dict[str, WheelFacts] = {}
        self._origins = SimpleIndex().origins()

    def get(self, sha256: str, *, origins: Container[str] = ()) -> WheelFacts | None:
        return self._more.get(sha256) or self._cache.get(sha256, origins=origins)

    def put(self, facts: WheelFacts) -> None:
        self._cache.put(facts)

    def named(self, name: str, *, origins: Container[str] = ()) -> Iterable[WheelFacts]:
        return self._cache.named(name, origins=origins)

    def another(self, lock: Lock, number: int, *, native: bool) -> Lock:
        """Return a lock with another release of one wheel, with libraries or without, of nobody else's."""
        known = {
            wheel.sha256: facts
            for wheel in lock.wheels
            if (facts := self._cache.get(wheel.sha256, origins=self._origins)) is not None
        }
        able = [
            wheel
            for wheel in lock.wheels
            if wheel.sha256 in known
            and bool(known[wheel.sha256].libraries) == native
            and not wheel.name.startswith(("torch", "triton", "nvidia-"))
        ]
        if not able:
            return lock
        wheel = able[number % len(able)]
        sha256 = hashlib.sha256(f"{wheel.sha256} {number}".encode()).hexdigest()
        self._more[sha256] = known[wheel.sha256].model_copy(deep=True, update={"sha256": sha256})
        wheels = (item.model_copy(update={"sha256": sha256}) if item is wheel else item for item in lock.wheels)
        return lock.model_copy(update={"wheels": tuple(wheels)})


def locked() -> None:
    """The locked cells of this project, with all their wheels, over known facts: once, and until there are 200.

    Then 200 of which no two are the same: each but the first has another release of one of its wheels, which nobody has
    judged before.
    """
    files, plan = load(Path(__file__).parents[1])
    matrix = plan.project.matrix
    auditor = make_auditor(matrix.indexes, root=files.root)
    cells = [(cell, lock) for cell in plan.cells if cell.kind != "external" and (lock := files.lock(cell)) is not None]
    for cell, lock in cells:
        auditor.cell(cell, lock, matrix)  # what is not known yet is read

    def judge(asked: Sequence[tuple[Cell, Lock]], released: Released) -> None:
        fresh = Auditor(
            index=SimpleIndex(), wheels=WebWheels(), facts=released, knowledge=auditor.knowledge, demangle=demangle
        )
        ahead = fresh.read_ahead(lock for _, lock in asked)
        for cell, lock in asked:
            fresh.cell(cell, lock, matrix, ahead=ahead)

    def differing(native: bool) -> tuple[list[tuple[Cell, Lock]], Released]:
        # What is kept of wheels that are like others must not be theirs: the facts that are judged are read anew.
        made, found = Released(), list[tuple[Cell, Lock]]()
        for number in range(200):
            cell, lock = cells[number % len(cells)]
            found.append((cell, made.another(lock, number, native=native) if number >= len(cells) else lock))
        made._cache = FactsCache()
        return found, made

    wheels = [len(lock.wheels) for _, lock in cells]
    once, _ = timed(lambda: judge(cells, Released()))
    many, _ = timed(lambda: judge((cells * 23)[:200], Released()))
    made = [differing(kind) for kind in (False, True)]
    pure, native = (timed(lambda asked=asked, released=released: judge(asked, released))[0] for asked, released in made)
    print(f"{len(cells)} locked cells of {min(wheels)} to {max(wheels)} wheels, with facts from disk: {once:.2f} s; "
          f"the same until there are 200: {many:.2f} s; 200 that differ in a wheel without libraries: {pure:.2f} s, "
          f"in one with libraries: {native:.2f} s")  # fmt: skip


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

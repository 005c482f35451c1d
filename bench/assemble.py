"""Assembled images: from wheels to a registry or the engine, against the BuildKit path; bytes, disk, shared layers.

    python bench/assemble.py registry|shared|changed|audit|engine [--layers FOLDER] [--scratch FOLDER] [SELECT...]

  registry  the cells into an empty registry on loopback, no engine: from empty caches, then with layers known
  shared    of each two cells the second after the first into one registry: the share of its bytes that is uploaded
  changed   the first cell with one light wheel changed, and with nothing changed, into the registry that has it
  audit     the image's audit from its known layers, against reading all of it
  engine    the cells into the engine, assembled from empty caches and built by BuildKit from empty caches
            (--prune: every build cache is PRUNED; without it only the assembled half is run)

SELECT: cells, by default the starter group. `registry` and `engine` download some 9 GB and need 25 GB of disk, `engine`
with --prune 60 GB. --layers names a folder of layers that are known; it gets what is missing, and `registry` leaves it
alone. Bytes are what all interfaces but loopback and the engine's own bridges received.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

from registry_tools import FaultyProxy, real_registry  # noqa: E402
from starter import CHANGED, LIGHT, copy_project, prune, received  # noqa: E402

from assay.adapters.files.project import ProjectFiles  # noqa: E402
from assay.adapters.layers.store import FolderStore  # noqa: E402
from assay.cli.audit_composition import make_auditor  # noqa: E402
from assay.matrix.cell import Cell  # noqa: E402
from assay.matrix.lockfile import dump  # noqa: E402
from assay.matrix.plan import make  # noqa: E402
from assay.pipeline.assembly.destinations import image_info  # noqa: E402
from assay.pipeline.audit_image import audit_image  # noqa: E402
from assay.pipeline.bases import gpu_targets  # noqa: E402
from assay.ports.engine import ImageFile, ImageInfo  # noqa: E402

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent"}


class Bench:
    """One part of the benchmark: its cells, folders and rows."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.files = ProjectFiles(ROOT)
        self.plan = make(self.files.load())
        self.cells = [cell for word in chosen.select or ["starter"] for cell in self.plan.select([word])]
        self.known = chosen.layers.absolute() if chosen.layers else None
        self.prune = chosen.prune
        if chosen.scratch is not None:
            Path(chosen.scratch).mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="assay-bench-", dir=chosen.scratch))

    def store(self, name: str) -> Path:
        """Return a folder of layers with what is known, as links: what is made in it stays out of --layers."""
        if self.known is None:
            sys.exit("this part needs --layers: a folder of layers that `assay assemble --layers` filled")
        folder = self.scratch / name
        subprocess.run(["cp", "-al", str(self.known), str(folder)], check=True)
        return folder

    def assay(self, *words: str, layers: Path, cwd: Path = ROOT, **more: str) -> Any:
        """Run assay; return what it prints as JSON."""
        cache = {"ASSAY_LAYERS": str(layers), "ASSAY_CACHE": str(self.scratch / "cache")}
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **cache, **more}
        # An installed program has its bytecode at hand, also where a shell keeps Python from writing any.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-m", "assay", *words, "--format", "json"],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"assay {' '.join(words)}: {done.stderr[-3000:]}")
        return json.loads(done.stdout)

    def assemble(self, cells: list[Cell], *words: str, layers: Path, **more: Any) -> list[Mapping[str, Any]]:
        """Assemble cells; return what is said of each image."""
        said = self.assay("assemble", *(cell.id for cell in cells), *words, layers=layers, **more)
        return list(said["images"])


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a step took."""

    wall: float
    cpu: float
    """Of this process and of those it started; a registry beside it is not counted."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(wall=self.wall + other.wall, cpu=self.cpu + other.cpu)


def row(name: str, spent: Spent, *more: str) -> None:
    """Print a line of the result."""
    words = "".join(f", {word}" for word in more)
    print(f"{name:58} {spent.wall:7.1f} s, {spent.cpu:6.1f} s of CPU{words}", flush=True)


@contextmanager
def peak(folder: Path) -> Iterator[Callable[[], int]]:
    """Yield what returns the most bytes of the disk that were used more than at the beginning."""
    before = shutil.disk_usage(folder).used
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.5):
            most = max(most, shutil.disk_usage(folder).used - before)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield lambda: most
    finally:
        ended.set()


def timed(work: Callable[[], Any]) -> tuple[Spent, Any]:
    """Return what some work took, and its result."""
    begun, used = time.monotonic(), _cpu()
    result = work()
    return Spent(wall=time.monotonic() - begun, cpu=_cpu() - used), result


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def registry(bench: Bench) -> None:
    """Into an empty registry without an engine."""
    if bench.known is not None:
        known = bench.store("known")
        with real_registry(bench.scratch / "r1") as host:
            to = ("--push", f"{host}/bench/images")
            seconds, images = timed(lambda: bench.assemble(bench.cells, *to, layers=known, **NO_ENGINE))
            size = sum(image["bytes"] for image in images)
            row(f"{len(images)} cells, all layers known", seconds, f"{size / 1e9:.2f} GB packed")
        shutil.rmtree(bench.scratch / "r1")
        shutil.rmtree(known)
    layers = bench.scratch / "layers"
    with real_registry(bench.scratch / "r2") as host, peak(bench.scratch) as most:
        ids = [cell.id for cell in bench.cells]
        build = ["build", *ids, "--push", f"{host}/bench/images", "--force"]
        came = received()
        seconds, said = timed(lambda: bench.assay(*build, layers=layers, **NO_ENGINE))
        got, wheels = (received() - came) / 1e9, sum(wheel_sizes(bench).values()) / 1e9
        row(f"{len(ids)} cells from empty caches, base and audit included", seconds, f"{got:.2f} GB in")
        print(f"{got / wheels:.2f} x the wheels' bytes ({wheels:.2f} GB)")
        sizes = bench.assemble(bench.cells, layers=layers, **NO_ENGINE)
        size = sum(image["bytes"] for image in sizes)
        print(f"disk at the peak, registry included: {most() / 1e9:.1f} GB, {most() / size:.2f} x the packed images")
        assert all(record["status"] == "built" for record in said["records"])


def wheel_sizes(bench: Bench) -> dict[str, int]:
    """Return sha256 -> bytes of the wheels of all cells."""
    locks = [lock for cell in bench.cells if (lock := bench.files.lock(cell)) is not None]
    return {wheel.sha256: wheel.size or 0 for lock in locks for wheel in lock.wheels}


def shared(bench: Bench) -> None:
    """The second cell of each pair where the first is: the same repository, then another of that registry."""
    layers = bench.store("shared")
    for number, (first, second) in enumerate(zip(bench.cells[::2], bench.cells[1::2], strict=False)):
        print(f"{first.id}, then\n{second.id}")
        with real_registry(bench.scratch / f"r{number}") as host, FaultyProxy(upstream=host) as proxy:
            for repository in ("images", "others"):
                bench.assemble([first], "--push", f"{proxy.host}/bench/images", layers=layers, **NO_ENGINE)
                proxy.reset()
                to = f"{proxy.host}/bench/{repository}"
                push = partial(bench.assemble, [second], "--push", to, layers=layers, **NO_ENGINE)
                seconds, (image,) = timed(push)
                share = f"{proxy.bytes_up / 1e9:.2f} of {image['bytes'] / 1e9:.2f} GB uploaded"
                row(f"  into {repository}", seconds, f"{share}: {100 * proxy.bytes_up / image['bytes']:.1f} %")


def changed(bench: Bench) -> None:
    """One light wheel changed, and nothing changed."""
    layers, cell = bench.store("changed"), bench.cells[0]
    lock = bench.files.lock(cell)
    assert lock is not None
    other = bench.scratch / "project"
    copy_project(ROOT, other)
    wheels = tuple(CHANGED if wheel.name == LIGHT else wheel for wheel in lock.wheels)
    path = other / "images" / cell.image / "cells" / cell.id / "lock.txt"
    with real_registry(bench.scratch / "r") as host:
        to = ("--push", f"{host}/bench/images")
        bench.assemble([cell], *to, layers=layers, **NO_ENGINE)
        for number in range(3):
            seconds, (image,) = timed(lambda: bench.assemble([cell], *to, layers=layers, **NO_ENGINE))
            row(f"nothing changed ({number + 1})", seconds, f"{image['new_layers']} layers made")
        path.write_text(dump(lock.model_copy(update={"wheels": wheels})))
        seconds, (image,) = timed(lambda: bench.assemble([cell], *to, layers=layers, cwd=other, **NO_ENGINE))
        row(f"{LIGHT} changed, from lock to registry", seconds, f"{image['new_layers']} layers made")


class Stored:
    """An image whose layers are in a store, as an engine would hold it."""

    def __init__(self, store: FolderStore, digest: str, name: str) -> None:
        self._store = store
        found = store.image(digest)
        assert found is not None
        self._manifest, config = found
        self._info = image_info(self._manifest, config, name)
        self.reads = 0

    def image(self, reference: str) -> ImageInfo:
        return replace(self._info, reference=reference)

    @contextmanager
    def image_files(self, reference: str) -> Iterator[Iterator[ImageFile]]:  # noqa: ARG002 - it has one image
        self.reads += 1
        yield self._every()

    def _every(self) -> Iterator[ImageFile]:
        for layer in self._manifest.layers:
            with self._store.files(layer.digest) as files:
                yield from files


def audit(bench: Bench) -> None:
    """The audit of the image, twice from its layers (what is not known yet is read the first time), once by reading."""
    layers = bench.store("audit")
    store = FolderStore(layers)
    for cell in bench.cells:
        (image,) = bench.assemble([cell], layers=layers, **NO_ENGINE)
        engine: Any = Stored(store, str(image["digest"]), cell.id)
        gpus, lock = gpu_targets(bench.plan.project.matrix, cell.targets), bench.files.lock(cell)
        reports = []
        for name, known in (("first audit", store), ("known layers", store), ("all of it read", None)):
            auditor = make_auditor(bench.plan.project.matrix.indexes, root=ROOT)
            asked = partial(audit_image, engine, cell.id, auditor, targets=gpus, name=cell.id, lock=lock, layers=known)
            spent, report = timed(asked)
            row(f"{cell.image}: {name}", spent, f"the image was read {engine.reads} times")
            reports.append(report.model_copy(update={"seconds": 0.0}))
        print(f"{cell.image}: the reports are {'the same' if reports[1] == reports[2] else 'NOT THE SAME'}", flush=True)


def engine(bench: Bench) -> None:
    """Into the engine: assembled, then built."""
    tags = [cell.local_reference for cell in bench.cells]
    ids = [cell.id for cell in bench.cells]
    subprocess.run(["docker", "rmi", "--force", *tags], capture_output=True, check=False)
    steps = [("assembled", "assemble")]
    if bench.prune:
        steps.append(("built by BuildKit", "buildkit"))
    for name, builder in steps:
        if bench.prune:
            prune(tags)
        layers = bench.scratch / f"layers-{builder}"
        with peak(bench.scratch) as most:
            came = received()
            words = ["build", *ids, "--builder", builder, "--force"]
            seconds, _ = timed(lambda words=words, layers=layers: bench.assay(*words, layers=layers))
            got = received() - came
        row(f"{len(ids)} cells {name}", seconds, f"{got / 1e9:.2f} GB in", f"{most() / 1e9:.1f} GB of disk at the peak")
        shutil.rmtree(bench.scratch / "cache", ignore_errors=True)
        shutil.rmtree(layers, ignore_errors=True)
    if not bench.prune:
        print("not run: the BuildKit half (--prune)")


PARTS = {"registry": registry, "shared": shared, "changed": changed, "audit": audit, "engine": engine}


def main() -> None:
    """Run one part."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("part", choices=PARTS)
    options.add_argument("--layers", type=Path)
    options.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--prune", action="store_true")
    options.add_argument("select", nargs="*")
    bench = Bench(chosen := options.parse_intermixed_args())
    try:
        PARTS[chosen.part](bench)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        print(__doc__)

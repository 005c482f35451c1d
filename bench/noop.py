"""Nothing to do over 200 cells: `assay build` against `docker buildx bake`, which finds the same by asking BuildKit.

    python bench/noop.py [CELLS]

Builds 200 tiny images once (with bake, whose labels assay trusts), then times both over the same images, alternating.
Needs an engine; removes what it built.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from project_tools import Project, lock_text  # noqa: E402
from tiny_image import TINY, write_tiny  # noqa: E402

from assay.adapters.docker.engine import DockerEngine  # noqa: E402
from assay.errors import EngineError  # noqa: E402

ROUNDS = 3
OURS, CPU, ENGINE, BAKE = "assay build", "  its CPU time", "  the engine alone answers in", "docker buildx bake"
PORTIONS = (40, 20, 10)
"""Targets of one bake: of all 200 at once an engine of Docker 26 loses track, and a busy one of 40 too."""


class Failed(Exception):
    """A command failed."""


def timed(*argv: str | Path, cwd: Path) -> float:
    """Run a command; return its seconds, or raise Failed."""
    # An installed program has its byte code at hand, also where a shell keeps Python from writing any.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, argv[:4]))} ... failed:\n{done.stderr[-1500:]}")
    return time.perf_counter() - begun


def baked(folder: Path, targets: list[str], portion: int) -> float:
    """Bake targets in portions; return the seconds, or raise Failed."""
    bake = ["docker", "buildx", "bake", "--provenance=false", "--file", "docker-bake.json"]
    return sum(timed(*bake, *targets[start : start + portion], cwd=folder) for start in range(0, len(targets), portion))


def measured(
    folder: Path, ours: list[str], targets: list[str], ask: Callable[[], float]
) -> tuple[int, dict[str, list[float]]]:
    """Time both and the engine's answers, alternating, with the largest portion that the engine bears."""
    for portion in PORTIONS:
        times: dict[str, list[float]] = {OURS: [], CPU: [], ENGINE: [], BAKE: []}
        try:
            for _ in range(ROUNDS):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                times[OURS].append(timed(*ours, cwd=folder))
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times[CPU].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                times[ENGINE].append(ask())
                times[BAKE].append(baked(folder / "images", targets, portion))
        except Failed as error:
            print(f"{portion} at once: {str(error).splitlines()[-1]}", file=sys.stderr)
            continue
        return portion, times
    sys.exit("bake fails however few it is given")


def table(count: int, portion: int, times: dict[str, list[float]]) -> None:
    """Print what was measured."""
    print(f"{'nothing to do over ' + str(count) + ' cells':36} {'median':>8} {'min':>8} {'max':>8}")
    for name, seconds in times.items():
        print(f"{name:36} {statistics.median(seconds):7.2f}s {min(seconds):7.2f}s {max(seconds):7.2f}s")
    print(f"{'  bake in portions of':36} {portion:8}")
    own = statistics.median(one - other for one, other in zip(times[OURS], times[ENGINE], strict=True))
    print(f"{'assay beside the engine':36} {own:7.2f}s")
    ratio = statistics.median(times[BAKE]) / statistics.median(times[OURS])
    print(f"{'bake takes':36} {ratio:7.1f} x", flush=True)


def main() -> None:
    """Print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    flavours = [f"{number}.0" for number in range(1, count + 1)]
    engine = DockerEngine()
    with tempfile.TemporaryDirectory() as folder:
        if engine.image(TINY) is None:
            engine.load(write_tiny(Path(folder)))
        project = Project(Path(folder) / "project", name="noop")
        values = ", ".join(flavours)
        for name in ("matrix.yaml", "images/noop/image.yaml"):
            project.change(name, "[1.0, 2.0, 3.0]", f"[{values}]")
        for flavour in flavours:
            cell = project.cell(flavour)
            project.write(f"images/noop/cells/{cell}/lock.txt", lock_text(cell))
        rendered = project.run("render")
        assert rendered.returncode == 0, rendered.stderr
        targets = [f"noop-f{number}_0" for number in range(1, count + 1)]
        ours = [sys.executable, "-m", "assay", "build", "noop"]
        try:
            print(f"building {count} tiny images ...", file=sys.stderr)
            first = 0.0
            for _ in range(5):
                try:
                    first += baked(project.root / "images", targets, PORTIONS[-1])
                    break
                except Failed as error:
                    print(f"again, after: {str(error).splitlines()[-1]}", file=sys.stderr)
            print(f"... {first:.0f} s", file=sys.stderr)
            assert f"{count} cached" in project.run("build", "noop").stderr

            def ask() -> float:
                begun = time.perf_counter()
                engine.labels(project.reference(flavour) for flavour in flavours)
                return time.perf_counter() - begun

            table(count, *measured(project.root, ours, targets, ask))
        finally:
            for flavour in flavours:
                # An engine that is slow to remove takes nothing from the figures.
                with suppress(EngineError):
                    engine.remove_image(project.reference(flavour), force=True)


if __name__ == "__main__":
    main()

"""Nothing to do over 200 cells: `assay build` against `docker buildx bake`, which finds the same by asking BuildKit.

    python bench/noop.py [CELLS]

Builds 200 tiny images once (with bake, whose labels assay trusts), then times both over the same images, alternating.
Needs an engine; removes what it built.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from project_tools import Project, lock_text  # noqa: E402
from tiny_image import TINY, write_tiny  # noqa: E402

from assay.adapters.docker_engine import DockerEngine  # noqa: E402

ROUNDS = 3
AT_ONCE = 40


def timed(*argv: str | Path, cwd: Path) -> float:
    """Run a command that must succeed; return its seconds."""
    # An installed program has its byte code at hand, also where a shell keeps Python from writing any.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, argv[:4]))} ... failed:\n{done.stderr[-1500:]}")
    return time.perf_counter() - begun


def baked(folder: Path, targets: list[str]) -> float:
    """Bake targets; return the seconds. Of more than some dozens at once the engine loses track and fails them all."""
    bake = ["docker", "buildx", "bake", "--provenance=false", "--file", "docker-bake.json"]
    return sum(timed(*bake, *targets[start : start + AT_ONCE], cwd=folder) for start in range(0, len(targets), AT_ONCE))


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
            first = baked(project.root / "images", targets)
            print(f"... {first:.0f} s", file=sys.stderr)
            begun = time.perf_counter()
            engine.labels(project.reference(flavour) for flavour in flavours)
            round_trip = time.perf_counter() - begun
            timed(*ours, cwd=project.root)
            times: dict[str, list[float]] = {"assay build": [], "docker buildx bake": []}
            for _ in range(ROUNDS):
                times["assay build"].append(timed(*ours, cwd=project.root))
                times["docker buildx bake"].append(baked(project.root / "images", targets))
            assert "200 cached" in project.run("build", "noop").stderr or count != 200
        finally:
            for flavour in flavours:
                engine.remove_image(project.reference(flavour), force=True)
    print(f"{'nothing to do over ' + str(count) + ' cells':36} {'median':>8} {'min':>8} {'max':>8}")
    for name, seconds in times.items():
        print(f"{name:36} {statistics.median(seconds):7.2f}s {min(seconds):7.2f}s {max(seconds):7.2f}s")
    print(f"{'  of which the engine answers in':36} {round_trip:7.2f}s")
    ratio = statistics.median(times["docker buildx bake"]) / statistics.median(times["assay build"])
    print(f"{'bake takes':36} {ratio:7.1f} x")


if __name__ == "__main__":
    main()

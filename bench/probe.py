"""What the harness costs: many probes in one container against one container start for each of them.

Needs a container engine and an image with Python (argument; default: the project's own base). No GPU is used: the
probes do nothing, so that all that is timed is overhead. Prints ratios of one run.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from uuid import uuid4

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.probe_executor import ProbeExecutor
from assay.adapters.executors.probe_suite import ProbeSuites, digest_of_suite, load_suite
from assay.errors import UsageError
from assay.evidence import suite as probes
from assay.ports.jobs import ProbeJob

PROGRAM = """
FEATURE = "{name}"
REQUIRES = ()
TIMEOUT = 30
GPUS = 0
WARM = False


def run(probe):
    probe.equal("nothing", 1, 1)
"""
COUNT = 20
REPEATS = 3


def main(argv: list[str]) -> None:
    engine = DockerEngine()
    image = argv[1] if len(argv) > 1 else _base(engine)
    programs = {f"features/p{index}.py": PROGRAM.format(name=f"p{index}") for index in range(COUNT)}
    suite = {
        **{path: data for path, data in load_suite(Path.cwd()).items() if not path.startswith("features/")},
        **{path: text.encode() for path, text in programs.items()},
    }
    chosen = list(probes.declarations(programs).values())
    executor = ProbeExecutor(DockerTaskHost(engine), ProbeSuites(suite))
    place, digest = executor.place(image), digest_of_suite(suite)

    def run(which: list[probes.Declaration]) -> tuple[float, float]:
        """Return (wall seconds, seconds of the probes' own processes)."""
        features = tuple(item.feature for item in which)
        job = ProbeJob(place=place, run=f"bench-{uuid4().hex[:8]}", suite=digest, features=features, warm=False)
        began = time.monotonic()
        ran = executor.run(job)
        wall = time.monotonic() - began
        result = ran.harness
        assert result is not None, ran.message
        assert len(result.probes) == len(which), ran.message
        return wall, sum(item.seconds for item in result.probes.values())

    run(chosen[:1])
    together = [(wall - own) / COUNT for wall, own in (run(chosen) for _ in range(REPEATS))]
    alone = [wall - own for wall, own in (run([item]) for _ in range(REPEATS) for item in chosen[:5])]
    one, many = statistics.median(alone), statistics.median(together)
    print(f"{'overhead per probe':40} {'seconds':>9}")
    print(f"{f'{COUNT} probes in one container':40} {many:9.3f}")
    print(f"{'a container for each probe':40} {one:9.3f}")
    print(f"{'ratio (at least 3 wanted)':40} {one / many:9.1f}")


def _base(engine: DockerEngine) -> str:
    for image in engine.images():
        for tag in image.tags:
            if tag.startswith("assay/base-"):
                return tag
    raise UsageError("no base image on this engine", hint="`assay build` makes one, or name an image with Python")


if __name__ == "__main__":
    main(sys.argv)

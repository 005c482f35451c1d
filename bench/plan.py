"""Plan and render of synthetic matrices of 100, 1 000 and 10 000 cells: is the time linear, and how long is it?

    python bench/plan.py [CELLS...]

Each cell has a lock of 150 wheels, 14 of them heavy, as the starter cells have. Prints seconds, and how the time of a
cell compares with that of the smallest matrix.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from assay.matrix import loading as matrix
from assay.matrix import lockfile, plan, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel

ROOT = Path(__file__).parents[1]
TEMPLATES = {path.name: path.read_text() for path in (ROOT / "templates").iterdir() if path.suffix in {".j2", ".txt"}}


def texts(cells: int) -> tuple[str, str]:
    """Return a matrix.yaml and an image.yaml whose product has this many cells, most of them in one image."""
    side = round(cells**0.5)
    torch = ", ".join(f"2.{n}" for n in range(side))
    kernel = ", ".join(f"0.{n}" for n in range(cells // side))
    return (
        f"""
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases: {{slim: {{kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36}}}}
indexes: {{pypi: {{}}}}
axes:
  cuda: {{label: cu, compact: true, values: [12.8]}}
  torch: {{label: torch, values: [{torch}]}}
  kernel: {{label: k, values: [{kernel}]}}
requires: [{{when: {{target: sm_120}}, need: {{cuda: ">=12.8"}}, reason: the compiler knows it from there on}}]
""",
        f"""
description: synthetic
engine: none
targets: [sm_120]
id: [cuda, torch, kernel]
defaults: {{base: slim}}
axes: {{cuda: [12.8], torch: [{torch}], kernel: [{kernel}]}}
requirements: ["torch{{{{ torch.pin }}}}", "kernel{{{{ kernel.pin }}}}"]
""",
    )


WHEELS = [
    LockedWheel(
        name=f"wheel-{n}",
        version=f"1.{n}",
        filename=f"wheel_{n}-1.{n}-py3-none-any.whl",
        sha256=hashlib.sha256(str(n).encode()).hexdigest(),
        size=(900 - n * 50) * 1_000_000 if n < 14 else 100_000 + n,
    )
    for n in range(149)
]


def lock_of(cell: Cell, number: int) -> Lock:
    """Return a lock that no other cell has."""
    own = WHEELS[0].model_copy(update={"name": "own", "version": f"1.{number}", "size": 1000})
    return Lock(
        cell=cell.id,
        python="3.11",
        platform="x86_64-manylinux_2_36",
        requirements=lockfile.wanted(cell),
        base="slim",
        wheels=(*WHEELS, own),
    )


def main() -> None:
    """Print a table."""
    sizes = [int(word) for word in sys.argv[1:]] or [100, 1_000, 10_000]
    print(f"{'cells':>7} {'load':>7} {'plan':>7} {'render':>7} {'all':>7}  us/cell  against the smallest")
    first: float | None = None
    for size in sizes:
        matrix_text, image_text = texts(size)
        begun = time.perf_counter()
        project = matrix.load(matrix_text, {"synthetic": image_text})
        loaded = time.perf_counter()
        made = plan.make(project)
        planned = time.perf_counter()
        locks = [lock_of(cell, number) for number, cell in enumerate(made.cells)]
        locked = time.perf_counter()
        base = project.matrix.bases["slim"]
        keys = set()
        for cell, lock in zip(made.cells, locks, strict=True):
            text = render.dockerfile(cell, lock, base, indexes=project.matrix.indexes, templates=TEMPLATES)
            keys.add(render.content_key(text))
        rendered = time.perf_counter()
        assert len(keys) == len(made.cells)
        whole = rendered - begun - (locked - planned)
        each = whole / len(made.cells)
        first = first or each
        times = f"{loaded - begun:6.2f}s {planned - loaded:6.2f}s {rendered - locked:6.2f}s {whole:6.2f}s"
        print(f"{len(made.cells):7d} {times} {each * 1e6:8.0f} {each / first:10.2f} x")


if __name__ == "__main__":
    main()

"""Real cells, assembled and built by BuildKit: the same files, bytes, modes, configuration and imports?

    python bench/twins.py --run [--layers FOLDER] [--build] [--imports] [SELECT...]

For each cell (by default the starter group) the image that BuildKit built is compared with the one that is assembled:
every file below the folders that images are made of, apart from the written list in docs/how-to/assemble.md, and the
configuration. The built image is the one that the engine holds; --build builds it with BuildKit, if it holds none that
was built. --imports also imports each top-level module in both. Needs the engine, 12 GB of its disk for an image of
10 GB, and some minutes a cell, so it does nothing without --run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from image_twins import config, differences, exported, imports  # noqa: E402

from assay.adapters.docker.engine import DockerEngine  # noqa: E402
from assay.adapters.files.project import ProjectFiles  # noqa: E402
from assay.matrix.cell import Cell  # noqa: E402
from assay.matrix.plan import make  # noqa: E402

TWIN = "assay/twin"
SHOWN = 20


def is_built(engine: DockerEngine, reference: str) -> bool:
    """Return whether the engine holds an image that a build made: an assembled one is dated 1980."""
    info = engine.image(reference)
    return info is not None and not info.created.startswith("1980-")


def assay(*words: str) -> None:
    """Run assay."""
    done = subprocess.run([sys.executable, "-m", "assay", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"assay {' '.join(words)} failed")


def compared(cell: Cell, engine: DockerEngine, layers: list[str], *, build: bool, importing: bool) -> bool | None:
    """Compare a cell's two images; None where the engine holds no built one."""
    built, twin = cell.local_reference, f"{TWIN}:{cell.local_reference.rpartition(':')[2]}"
    if not is_built(engine, built):
        if not build:
            print(f"{cell.id}: the engine holds no image that BuildKit built; --build builds it")
            return None
        assay("build", cell.id, "--builder", "buildkit", "--force", "--no-audit")
    # The assembled image gets the cell's name too; the built one keeps another meanwhile.
    engine.tag(built, f"{twin}-built")
    try:
        begun = time.monotonic()
        assay("assemble", cell.id, "--load", *layers)
        engine.tag(built, twin)
        engine.tag(f"{twin}-built", built)
        ours, theirs = exported(twin), exported(built)
        found = differences(ours, theirs)
        if config(twin) != config(built):
            found.append(f"configuration: {config(twin)} {config(built)}")
        print(f"{cell.id}: {len(ours)} and {len(theirs)} files, {len(found)} unexpected differences", flush=True)
        if importing:
            one, other = imports(twin), imports(built)
            found += [f"import {name}: {one.get(name)} {how}" for name, how in other.items() if one.get(name) != how]
            count = sum(how == "yes" for how in other.values())
            print(
                f"  {count} of {len(other)} top-level modules can be imported, {'the same' if one == other else 'NOT'}"
            )
        print("".join(f"  {line}\n" for line in found[:SHOWN]) + f"  {time.monotonic() - begun:.0f} s", flush=True)
        return not found
    finally:
        for name in (twin, f"{twin}-built"):
            engine.remove_image(name)


def main() -> None:
    """Exit with 1 if any cell's images differ."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", action="store_true")
    options.add_argument("--layers")
    options.add_argument("--build", action="store_true")
    options.add_argument("--imports", action="store_true")
    options.add_argument("select", nargs="*")
    chosen = options.parse_args()
    if not chosen.run:
        print(__doc__)
        return
    plan, engine = make(ProjectFiles(ROOT).load()), DockerEngine()
    layers = ["--layers", chosen.layers] if chosen.layers else []
    results = [
        compared(cell, engine, layers, build=chosen.build, importing=chosen.imports)
        for cell in plan.select(chosen.select or ["starter"])
    ]
    sys.exit(0 if all(result is not False for result in results) and any(results) else 1)


if __name__ == "__main__":
    main()

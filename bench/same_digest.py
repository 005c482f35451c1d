"""Do two machines assemble the same image? Each cell twice: another user, umask, zone, temporary folder and Python.

    python bench/same_digest.py --run [--first FOLDER] [--scratch FOLDER] [--python PATH] [SELECT...]

The first of each pair is made as `assay assemble` is usually run, into the layers of --first (made there, if they are
not), the second from nothing: its base is bootstrapped again, then everything is made as user 4242 (as root; else the
same user), with umask 077, in another time zone, with another hash seed and locale, and with --python (by default
/usr/bin/python3.N, if there is one of another patch version). Every layer and the image have to have equal digests.

Without SELECT: every locked cell on a bootstrapped base of this machine's platform. It downloads each wheel twice and
needs 10 GB of disk for two cells, so it does nothing without --run; what the second of a pair made is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from assay.adapters.files.project import ProjectFiles
from assay.cli.composition import assembler_of, engine, layer_store
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.image_steps import image_steps
from assay.matrix.model import BootstrapBase
from assay.matrix.plan import Plan, make

ROOT = Path(__file__).parents[1]
USER = 4242
STRANGE = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "4242", "PYTHONDONTWRITEBYTECODE": "1"}


def cells_of(plan: Plan, files: ProjectFiles, select: list[str]) -> list[Cell]:
    """Return the cells that can be assembled here."""
    machine = f"linux/{'arm64' if platform.machine() == 'aarch64' else 'amd64'}"
    bases = plan.project.matrix.bases
    return [
        cell
        for cell in (plan.select(select) if select else plan.cells)
        if isinstance(bases[cell.base], BootstrapBase)
        and files.lock(cell) is not None
        and str(cell.platform) == machine
    ]


def make_bases(folder: Path, select: list[str]) -> None:
    """Bootstrap what the cells stand on."""
    files = ProjectFiles(ROOT)
    plan = make(files.load())
    matrix = plan.project.matrix
    bases = assembler_of(matrix, layer_store(folder), engine(), ROOT).bases
    for cell in cells_of(plan, files, select):
        lock = files.lock(cell)
        assert lock is not None
        text = render.dockerfile(
            cell, lock, matrix.bases[cell.base], indexes=matrix.indexes, templates=files.templates()
        )
        steps = image_steps(text)
        bases.open(steps, lambda line: print(line, file=sys.stderr))


def assembled(cell: Cell, layers: Path, python: list[str], **more: str) -> dict[str, object]:
    """Assemble a cell in a process of its own."""
    begun = time.monotonic()
    command = [*python, "-m", "assay", "assemble", cell.id, "--layers", str(layers), "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{cell.id}: {done.stderr[-3000:]}")
    (image,) = json.loads(done.stdout)["images"]
    return {**image, "seconds": time.monotonic() - begun}


def other_python() -> str:
    """Return another Python of the same minor version, or this one."""
    own = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return own if Path(own).exists() else sys.executable


def main() -> None:
    """Print a line for each cell; exit with 1 if any differs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", action="store_true")
    options.add_argument("--make-bases", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--first", type=Path, help="Layers of the first of each pair; used again, if there.")
    options.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="Where the second is made.")
    options.add_argument("--python", default=other_python(), help="What makes the second of each pair.")
    options.add_argument("select", nargs="*")
    chosen = options.parse_args()
    if chosen.make_bases:
        make_bases(chosen.make_bases, chosen.select)
        return
    if not chosen.run:
        print(__doc__)
        return
    files = ProjectFiles(ROOT)
    plan = make(files.load())
    cells = cells_of(plan, files, chosen.select)
    first = (chosen.first or Path(tempfile.mkdtemp(prefix="assay-first-", dir=chosen.scratch))).absolute()
    other = Path(tempfile.mkdtemp(prefix="assay-second-", dir=chosen.scratch)).absolute()
    other.chmod(0o755)
    second, scratch, home = (other / name for name in ("layers", "tmp", "home"))
    for folder in (second, scratch, home):
        folder.mkdir()
    # What this Python has installed, for the other one.
    paths = os.pathsep.join([str(ROOT / "src"), sysconfig.get_path("purelib")])
    more = {**STRANGE, "TMPDIR": str(scratch), "HOME": str(home), "ASSAY_CACHE": str(home), "PYTHONPATH": paths}
    shell = ["sh", "-c", 'umask 077; exec "$@"', "sh"]
    same = True
    try:
        subprocess.run(
            [*shell, sys.executable, __file__, "--make-bases", str(second), *(cell.id for cell in cells)],
            env={**os.environ, **more}, check=True,
        )  # fmt: skip
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{USER}:{USER}", str(other)], check=True)
            shell += ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        version = subprocess.run([chosen.python, "--version"], capture_output=True, text=True, check=True).stdout
        print(
            f"first: Python {platform.python_version()}; second: {version.strip()}, another user, umask, zone, folder"
        )
        for cell in cells:
            one = assembled(cell, first, [sys.executable])
            two = assembled(cell, second, [*shell, chosen.python], **more)
            layers = [one["layers"], two["layers"]]
            equal = sum(ours == theirs for ours, theirs in zip(*layers, strict=False))
            agree = one["digest"] == two["digest"] and layers[0] == layers[1]
            same = same and agree
            print(
                f"{cell.id}: {equal} of {len(layers[0])} layers and {'the' if agree else 'NOT the'} image are the same"
                f" ({one['digest']}), {float(str(two['bytes'])) / 1e9:.2f} GB, {two['new_layers']} layers made in"
                f" {two['seconds']:.0f} s",
                flush=True,
            )
    finally:
        shutil.rmtree(other)
        if chosen.first is None:
            shutil.rmtree(first)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()

"""The starter cells against plain Dockerfiles of the kind everybody writes: wall time, bytes downloaded, disk.

    python bench/starter.py --run [--first-only] [--assay-only | --plain-only]

From empty build caches (they are PRUNED, twice), over the same base:

  plain   for each image: apt-get install libnuma..., pip install torch, pip install sglang, pip install sgl-kernel,
          pinned to the same versions; then the first again with one light wheel changed
  assay   `assay build` of the two starter cells, then of a third that changes the same light wheel

Needs an engine that runs nothing else, 60 GB of disk, 15 GB of downloads and about half an hour (--first-only: the
SGLang cell alone, 35 GB); so it does nothing without --run. Bytes are what all interfaces but loopback and the engine's
own bridges received.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.files.project import ProjectFiles
from assay.adapters.host import settings as site
from assay.matrix import render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.lockfile import dump
from assay.matrix.plan import make

ROOT = Path(__file__).parents[1]
PLAIN = ("bench/plain:0", "bench/plain:1")
LIGHT = "tqdm"
CHANGED = LockedWheel(
    name=LIGHT,
    version="4.67.0",
    filename="tqdm-4.67.0-py3-none-any.whl",
    sha256="0cd8af9d56911acab92182e88d763100d4788bdf421d251616040cc4d44863be",
    size=78590,
)


def received() -> int:
    """Return the bytes that came from outside so far."""
    total = 0
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        if not name.strip().startswith(("lo", "docker", "veth", "br-")):
            total += int(rest.split()[0])
    return total


class Meter:
    """Measures one step."""

    def __init__(self, engine: DockerEngine) -> None:
        self.root = Path(engine.info().root_dir)
        self.rows: list[tuple[str, float, int, int]] = []

    def used(self) -> int:
        return shutil.disk_usage(self.root).used

    def run(
        self, name: str, *commands: list[str], stdin: list[str] | None = None, cwd: Path = ROOT, **more: str
    ) -> None:
        begun, bytes_before, disk_before = time.monotonic(), received(), self.used()
        for position, command in enumerate(commands):
            text = stdin[position] if stdin else None
            done = subprocess.run(
                command, cwd=cwd, env={**os.environ, **more}, input=text, text=True, capture_output=True, check=False
            )
            if done.returncode != 0:
                sys.exit(f"{name}: {command} failed\n{done.stderr[-3000:]}")
        row = (name, time.monotonic() - begun, received() - bytes_before, self.used() - disk_before)
        self.rows.append(row)
        print(f"{row[0]:34} {row[1]:7.0f} s {row[2] / 1e9:7.2f} GB in {row[3] / 1e9:7.1f} GB on disk", flush=True)


def prune(tags: list[str]) -> None:
    """Remove images and every build cache."""
    subprocess.run(["docker", "rmi", "--force", *tags], capture_output=True, check=False)
    subprocess.run(["docker", "buildx", "prune", "--all", "--force"], capture_output=True, check=True)


def copy_project(source: Path, target: Path) -> None:
    """Copy a checkout without what was made in it: tools that were fetched may be links that lead nowhere."""
    left_out = (".git", ".venv", ".nox", ".whl", ".assay", "build_logs", "__pycache__")
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*left_out))


def plain(base: str, cell: Cell, lock: Lock) -> str:
    """Return the Dockerfile of somebody in a hurry, with the versions of the lock pinned so that both do the same."""
    pins = " ".join(f"'{wheel.name}=={wheel.version}'" for wheel in lock.wheels if wheel.name != "torch")
    torch = lock.wheel("torch")
    assert torch is not None
    secrets = "--mount=type=secret,id=ca-bundle"
    trust = "if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi; "
    apt = " ".join(cell.system_packages)
    lines = [f"FROM {base}"]
    if apt:
        lines.append(f"RUN apt-get update && apt-get install -y {apt} && rm -rf /var/lib/apt/lists/*")
    lines += ["RUN python3 -m venv /opt/venv", "ENV PATH=/opt/venv/bin:$PATH"]
    lines.append(f"RUN {secrets} {trust}pip install --no-cache-dir torch=={torch.version}")
    lines.append(f"RUN {secrets} {trust}pip install --no-cache-dir {pins}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print a table and the ratios."""
    if "--run" not in sys.argv:
        sys.exit(__doc__)
    engine = DockerEngine()
    files = ProjectFiles(ROOT)
    plan = make(files.load())
    cells = plan.select(["starter"])[: 1 if "--first-only" in sys.argv else 2]
    locks = {cell.id: files.lock(cell) for cell in cells}
    meter = Meter(engine)
    tags = [cell.local_reference for cell in cells]
    secrets = [
        word for name, path in site.secrets(os.environ).items() for word in ("--secret", f"id={name},src={path}")
    ]
    first, first_lock = cells[0], locks[cells[0].id]
    assert first_lock is not None
    changed = first_lock.model_copy(
        update={"wheels": tuple(CHANGED if wheel.name == LIGHT else wheel for wheel in first_lock.wheels)}
    )
    base = render.base_reference("slim", plan.project.matrix.bases["slim"], None)
    if "--assay-only" not in sys.argv:
        prune([*tags, *PLAIN])
        texts = [plain(base, cell, lock) for cell in cells if (lock := locks[cell.id]) is not None]
        commands = [
            ["docker", "buildx", "build", "--provenance=false", *secrets, "--tag", tag, "-"]
            for tag, _ in zip(PLAIN, texts, strict=False)
        ]
        meter.run("plain: from nothing", *commands, stdin=texts)
        meter.run("plain: one light wheel changed", commands[0], stdin=[plain(base, first, changed)])
    assay = [sys.executable, "-m", "assay", "build", "--no-audit"]
    if "--plain-only" not in sys.argv:
        prune([*tags, *PLAIN])
        with tempfile.TemporaryDirectory() as folder:
            # Layers of assembled images that are known would be used.
            empty = {"ASSAY_LAYERS": f"{folder}/layers"}
            meter.run("assay: from nothing", [*assay, *(cell.id for cell in cells)], **empty)
            other = Path(folder) / "project"
            copy_project(ROOT, other)
            path = other / "images" / first.image / "cells" / first.id / "lock.txt"
            path.write_text(dump(changed))
            meter.run("assay: one light wheel changed", [*assay, first.id], cwd=other, **empty)
    print(json.dumps([dict(zip(("step", "seconds", "bytes", "disk"), row, strict=True)) for row in meter.rows]))
    if len(meter.rows) == 4:
        print(f"from nothing:      plain takes {meter.rows[0][1] / meter.rows[2][1]:.1f} x the time")
        print(f"one light wheel:   plain takes {meter.rows[1][1] / meter.rows[3][1]:.1f} x the time")


if __name__ == "__main__":
    main()

"""A project on disk whose images build in a second: a tiny base, no wheels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schema_tools import answers
from tiny_image import TINY

MATRIX = f"""\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  tiny: {{kind: registry, image: "{TINY}", python: 3.11, glibc: 2.36}}
indexes: {{pypi: {{}}}}
axes:
  flavour: {{label: f, values: [1.0, 2.0, 3.0]}}
groups: {{first: [flavour=1.0]}}
default_group: first
"""

IMAGE = """\
description: builds in a second
engine: none
targets: [sm_120]
id: [flavour]
defaults: {base: tiny}
axes: {flavour: [1.0, 2.0, 3.0]}
template: tiny
system_packages: []
env: {FLAVOUR: vanilla}
"""

TEMPLATE = """\
FROM {{ base.reference }}
RUN echo {{ cell.value('flavour') | sh }} > /flavour
{% for name, value in cell.env.items() %}ENV {{ name }}={{ value | env }}
{% endfor %}LABEL dev.assay.lock={{ labels['dev.assay.lock'] | env }}
"""


def lock_text(cell: str) -> str:
    """Return a lock of no wheels."""
    return "\n".join(
        [
            "# assay lock, format 1. Made by `assay lock`; change the recipe, not this file.",
            f"# cell: {cell}",
            "# python: 3.11",
            "# platform: x86_64-manylinux_2_36",
            "# base: tiny",
            "",
        ]
    )


class Project:
    """The project and the command line in it."""

    def __init__(self, root: Path, *, name: str = "sundae") -> None:
        self.root = root
        self.name = name
        self.write("matrix.yaml", MATRIX)
        self.write(f"images/{name}/image.yaml", IMAGE)
        self.write("templates/tiny.Dockerfile.j2", TEMPLATE)
        self.write("templates/tools.txt", "uv==0.0.0\n")
        for flavour in ("1.0", "2.0", "3.0"):
            cell = self.cell(flavour)
            self.write(f"images/{name}/cells/{cell}/lock.txt", lock_text(cell))

    def cell(self, flavour: str) -> str:
        return f"{self.name}-f{flavour}"

    def reference(self, flavour: str) -> str:
        return f"assay/{self.name}:{self.cell(flavour)}"

    def write(self, relative: str, text: str) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def change(self, relative: str, old: str, new: str) -> None:
        path = self.root / relative
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "assay", *argv],
            cwd=self.root,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv, env=env)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def json(self, *argv: str, env: Mapping[str, str] | None = None) -> tuple[int, Any]:
        done = self.run(*argv, "--format", "json", env=env)
        assert done.stdout, done.stderr
        document = json.loads(done.stdout)
        answers(document, *argv)
        return done.returncode, document

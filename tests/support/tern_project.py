"""A project with an image of the third engine, and that engine installed beside assay."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from local_index import LocalIndex, served
from project_tools import Project
from python_image import PREFIX, write_python_image

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
TERN_IMAGE = "assay/test-tern:1"
CELL = "small-tern1.2.0"
MATRIX = """\
targets:
  sm_120: {name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}
bases:
  tiny: {kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36}
indexes: {pypi: {}}
axes:
  tern: {label: tern, values: [1.2.0]}
"""
IMAGE = """\
description: a server of another engine
engine: tern
targets: [sm_120]
id: [tern]
defaults: {base: tiny}
axes: {tern: [1.2.0]}
template: tiny
requirements: ["tern-serve{{ tern.pin }}"]
"""
MODEL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 1000,
         "max_position_embeddings": 4096}  # fmt: skip


@contextmanager
def tern_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Make a project with an image of the engine, beside an installed distribution that brings it."""
    about = tmp_path / "site" / "tern_serve-1.2.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tern-serve\nVersion: 1.2.0\n")
    (about / "entry_points.txt").write_text("[assay.engines]\ntern = tern:ENGINE\n")
    paths = [ROOT / "src", SUPPORT, SUPPORT / "tern", about.parent]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    found = Project(tmp_path / "project", name="small")
    for lock in found.root.glob("images/small/cells/*/lock.txt"):
        lock.unlink()
        lock.parent.rmdir()
    found.write("matrix.yaml", MATRIX)
    found.write("images/small/image.yaml", IMAGE)
    found.write("model/config.json", json.dumps(MODEL))
    index = LocalIndex(tmp_path / "index")
    index.add("tern-serve", "1.2.0")
    with served(index) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        monkeypatch.setenv("UV_NO_CACHE", "1")
        yield found


def write_tern_image(folder: Path) -> Path:
    """Write the archive of an image with the engine's server."""
    packages = f"{PREFIX}/site-packages"
    files: Mapping[str, bytes] = {
        f"{packages}/tern_server.py": (SUPPORT / "tern" / "tern_server.py").read_bytes(),
        f"{packages}/openai_server.py": (SUPPORT / "openai_server.py").read_bytes(),
        f"{packages}/tern_serve-1.2.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: tern-serve\nVersion: 1.2.0\n"
        ),
    }
    return write_python_image(folder, TERN_IMAGE, files)

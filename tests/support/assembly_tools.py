"""A small project that `assay assemble` makes an image of: wheels on loopback, and a base of this machine's Python.

The base is not a distribution: its one layer holds a few files, and its Python is the one that runs the tests, through
links. So an image is assembled in a second, without debootstrap, an engine or root.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zstandard
from schema_tools import answers

from assay.adapters.docker.bootstrap import LABEL_FACTS
from assay.adapters.files.project import ProjectFiles
from assay.adapters.layers.store import FolderStore
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.matrix import render
from assay.matrix.image_steps import image_steps
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.lockfile import dump
from assay.matrix.model import BootstrapBase
from assay.matrix.plan import make
from assay.wheels.layer import MEDIA_TYPE, file_entry, write_layer

ROOT: Final = Path(__file__).parents[2]
CELL: Final = "plain-v1"
MINOR: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
MATRIX: Final = """\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  slim: {{kind: bootstrap, distribution: debian, suite: bookworm, python: {python}, glibc: 2.36, packages: [python3]}}
indexes:
  local: {{url: "{index}"}}
axes:
  variant: {{label: v, values: [1]}}
"""
RECIPE: Final = """\
description: wheels of a test
engine: none
targets: [sm_120]
id: [variant]
defaults: {base: slim}
axes: {variant: [1]}
requirements: [demo]
entrypoint: [python, -c]
command: ["print(1)"]
"""
ACCOUNTS: Final = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": b"root:x:0:\n",
    "etc/shadow": b"root:*:1::::::\n",
    "etc/gshadow": b"root:*::\n",
    "etc/skel/.profile": b"",
}


@dataclass(kw_only=True)
class AssemblyProject:
    """A project in a folder, with one cell, whose lock is written by hand."""

    root: Path
    index: str
    """Address of a simple index."""
    wheels: Mapping[str, bytes]
    """File name -> what the lock says its bytes are."""
    layers: Path = field(init=False)

    def __post_init__(self) -> None:
        self.layers = self.root / "layers"
        recipe = self.root / "images" / "plain" / "image.yaml"
        recipe.parent.mkdir(parents=True)
        (self.root / "templates").symlink_to(ROOT / "templates")
        (self.root / "matrix.yaml").write_text(MATRIX.format(python=MINOR, index=self.index))
        recipe.write_text(RECIPE)
        self.lock(self.wheels)
        self.base(self.layers)

    def lock(self, wheels: Mapping[str, bytes]) -> None:
        """Write the lock anew."""
        locked = [
            LockedWheel(
                name=name.split("-")[0].replace("_", "-").lower(),
                version=name.split("-")[1],
                filename=name,
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                index="local",
            )
            for name, data in wheels.items()
        ]
        lock = Lock(
            cell=CELL,
            python=MINOR,
            platform="x86_64-manylinux_2_36",
            requirements=("demo",),
            base="slim",
            wheels=tuple(locked),
        )
        path = self.root / "images" / "plain" / "cells" / CELL / "lock.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump(lock))

    def base(self, layers: Path) -> None:
        """Put the base into a folder of layers, as debootstrap would have made it."""
        files = ProjectFiles(self.root)
        plan = make(files.load())
        (cell,) = plan.select([CELL])
        lock = files.lock(cell)
        base = plan.project.matrix.bases["slim"]
        assert lock is not None
        assert isinstance(base, BootstrapBase)
        text = render.dockerfile(cell, lock, base, indexes=plan.project.matrix.indexes, templates=files.templates())
        packages = (*base.packages, *image_steps(text).final.packages)
        wanted = base.model_copy(update={"packages": tuple(dict.fromkeys(packages))})
        store = FolderStore(layers)
        folder = layers / "bases" / render.base_reference("slim", wanted, None).rpartition(":")[2]
        entries = [file_entry(name, data) for name, data in ACCOUNTS.items()]
        layer = store.make(sha256_of(b"base"), lambda out: write_layer(entries, out))
        config = {
            "architecture": "arm64" if platform.machine() == "aarch64" else "amd64",
            "config": {
                "Cmd": ["/bin/bash"],
                "Labels": {LABEL_FACTS: json.dumps({"python": platform.python_version()})},
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
        manifest = {"layers": [{"mediaType": MEDIA_TYPE, "digest": layer.digest, "size": layer.size}]}
        _python(folder / "root")
        for name, data in ACCOUNTS.items():
            path = folder / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (folder / "image.json").write_text(json.dumps({"manifest": manifest, "config": config}))
        (folder / ".complete").touch()

    def command(self, *words: str) -> list[str]:
        """Return a command line of `assay assemble`."""
        return [sys.executable, "-m", "assay", "assemble", *words]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment that it runs in."""
        home = {"HOME": str(self.root), "ASSAY_CACHE": str(self.root / "cache"), "ASSAY_LAYERS": str(self.layers)}
        return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "DOCKER_CONFIG": str(self.root), **home, **more}

    def assemble(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `assay assemble` to its end."""
        return subprocess.run(
            self.command(*words), cwd=self.root, env=self.environment(**more), text=True, capture_output=True,
            check=False,
        )  # fmt: skip

    def digest(self, *words: str, **more: str) -> dict[str, Any]:
        """Assemble and return the document of the one image."""
        done = self.assemble(*words, "--format", "json", **more)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        answers(document, "assemble")
        (image,) = document["images"]
        return dict(image)

    def check_store(self) -> int:
        """Check that every blob of the store has the bytes of its name, and every entry of the catalogue its blob.

        Returns the blobs' count.
        """
        blobs = sorted((self.layers / "blobs" / "sha256").iterdir())
        for blob in blobs:
            data = blob.read_bytes()
            assert hashlib.sha256(data).hexdigest() == blob.name
        for entry in (self.layers / "catalogue").glob("*.json"):
            said = json.loads(entry.read_bytes())
            blob = self.layers / "blobs" / "sha256" / said["digest"].removeprefix("sha256:")
            assert blob.is_file()
            assert blob.stat().st_size == said["size"]
        return len(blobs)

    def leftovers(self) -> list[str]:
        """Return the names of half-written files in the store."""
        return sorted(path.name for path in self.layers.iterdir() if path.is_file() and path.name != ".lock")


def _python(root: Path) -> None:
    """Make of links a file system that this Python can run from."""
    machine = platform.machine()
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "lib").mkdir()
    loader = root / Platform.of(machine).loader
    loader.parent.mkdir(parents=True, exist_ok=True)
    loader.symlink_to(Path("/") / Platform.of(machine).loader)
    (root / "usr" / "bin" / f"python{MINOR}").symlink_to(Path(sys.executable).resolve())
    (root / "usr" / "lib" / f"python{MINOR}").symlink_to(sysconfig.get_path("stdlib"))
    libraries = root / "usr" / "lib" / f"{machine}-linux-gnu"
    libraries.mkdir()
    for folder in (Path(f"/usr/lib/{machine}-linux-gnu"), Path(sys.base_prefix) / "lib"):
        for library in folder.glob("*.so*") if folder.is_dir() else ():
            with contextlib.suppress(FileExistsError):
                (libraries / library.name).symlink_to(library)


def _plain(blob: bytes) -> bytes:
    if blob.startswith(b"\x1f\x8b"):
        return gzip.decompress(blob)
    return zstandard.ZstdDecompressor().decompressobj().decompress(blob)


def contents(blob: bytes) -> dict[str, bytes]:
    """Return the files of a layer, packed by zstd or gzip."""
    with tarfile.open(fileobj=io.BytesIO(_plain(blob))) as tar:
        return {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar if member.isfile()}


def image_files(layout: Path) -> dict[str, bytes]:
    """Return the files of the one image in an OCI layout, and check all of its blobs."""
    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = index["manifests"]
    manifest = json.loads(blob_of(layout, entry["digest"]))
    config = json.loads(blob_of(layout, manifest["config"]["digest"]))
    found: dict[str, bytes] = {}
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = blob_of(layout, layer["digest"])
        assert len(data) == layer["size"]
        assert sha256_of(_plain(data)) == diff_id
        found |= contents(data)
    return found


def blob_of(layout: Path, digest: str) -> bytes:
    """Return a blob of a layout; its bytes have its digest."""
    data = (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    assert sha256_of(data) == digest
    return data


def simple_index(files: Mapping[str, bytes], *, announced: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return path -> bytes of a simple index.

    Args:
        files: name -> what the server sends.
        announced: what the index says of them, where that is something else.
    """
    said = {**files, **(announced or {})}
    by_project: dict[str, list[str]] = {}
    for name in files:
        by_project.setdefault(name.split("-")[0].replace("_", "-").lower(), []).append(name)
    pages = {f"/files/{name}": data for name, data in files.items()}
    for project, names in by_project.items():
        links: Sequence[str] = [
            f'<a href="/files/{name}#sha256={hashlib.sha256(said[name]).hexdigest()}">{name}</a>' for name in names
        ]
        pages[f"/simple/{project}/"] = "\n".join(["<!DOCTYPE html><html><body>", *links, "</body></html>"]).encode()
    return pages

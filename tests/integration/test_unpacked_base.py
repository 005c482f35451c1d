"""Bases of another platform are made of the distribution's packages, without running a program of that platform."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from assembly_tools import image_files

from assay.adapters.docker.bootstrap import LABEL_FACTS
from assay.adapters.layers.unpacked import UnpackedBases
from assay.errors import ToolError
from assay.foundation.platforms import Platform
from assay.matrix.model import BootstrapBase

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt and Debian's archive"),
]
RECIPE = BootstrapBase(
    kind="bootstrap",
    distribution="debian",
    suite="bookworm",
    python="3.11",
    glibc="2.36",
    packages=("ca-certificates", "python3"),
)
ROOT = Path(__file__).parents[2]
MATRIX = """\
targets:
  sm_121: {name: x, compute_capability: 12.1, memory_gib: 121, shared_memory_per_block: 101376, cuda: ">=12.9",
           driver: ">=575", arch_list: 12.1, platforms: [linux/arm64]}
bases:
  slim: {kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36, packages: [python3]}
indexes: {pypi: {}}
axes:
  variant: {label: v, values: [1]}
"""
RECIPE_OF_IMAGE = """\
description: a wheel of Python and one with a C extension
engine: none
targets: [sm_121]
id: [variant]
defaults: {base: slim}
axes: {variant: [1]}
requirements: [markdown-it-py, pyyaml]
entrypoint: [python, -c]
command: ["import yaml; print(yaml.__with_libyaml__)"]
"""


def _made(folder: Path) -> tuple[dict[str, object], dict[str, tarfile.TarInfo], bytes]:
    """Return the configuration of a base, its files, and its manifest."""
    folder.mkdir()
    UnpackedBases().write(RECIPE, "assay/test-base:arm64", folder / "base.tar", lambda _: None, Platform.ARM64)
    with tarfile.open(folder / "base.tar") as outer:
        outer.extractall(folder, filter="data")
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    raw = (folder / "blobs/sha256" / entry["digest"][7:]).read_bytes()
    manifest = json.loads(raw)
    config = json.loads((folder / "blobs/sha256" / manifest["config"]["digest"][7:]).read_bytes())
    with tarfile.open(folder / "blobs/sha256" / manifest["layers"][0]["digest"][7:]) as layer:
        return config | {"entry": entry}, {member.name: member for member in layer}, raw


def test_an_arm64_base_is_the_same_each_time_and_says_what_it_is(tmp_path: Path) -> None:
    config, files, raw = _made(tmp_path / "one")
    facts = json.loads(config["config"]["Labels"][LABEL_FACTS])  # type: ignore[index]

    assert raw == _made(tmp_path / "two")[2]
    assert "arm64" == config["architecture"]
    assert {"architecture": "arm64", "os": "linux"} == config["entry"]["platform"]  # type: ignore[index]
    assert facts["python"].startswith("3.11.")
    assert "2.36" == facts["glibc"] == facts["symbols"]["GLIBC"]
    assert "usr/lib/aarch64-linux-gnu/libc.so.6" in files
    assert "usr/lib" == files["lib"].linkname
    assert files["etc/ssl/certs/ca-certificates.crt"].size > 100_000
    assert {"etc/passwd", "etc/shadow", "etc/nsswitch.conf", "usr/bin/python3", "usr/bin/which"} <= set(files)
    assert (0, 0o4755) == (files["usr/bin/su"].uid, files["usr/bin/su"].mode)


def test_a_base_that_is_not_what_its_recipe_says_is_refused(tmp_path: Path) -> None:
    other = RECIPE.model_copy(update={"python": "3.13"})

    with pytest.raises(ToolError, match=r"came out with python 3\.11\.2, its recipe says 3\.13"):
        UnpackedBases().write(other, "assay/test-base:x", tmp_path / "base.tar", lambda _: None, Platform.ARM64)


@pytest.mark.index
@pytest.mark.skipif(os.uname().machine == "aarch64", reason="needs a machine of another platform")
def test_an_image_for_arm64_is_locked_audited_and_assembled_on_this_machine(tmp_path: Path) -> None:
    recipe = tmp_path / "images" / "plain" / "image.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE_OF_IMAGE)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    caches = {"ASSAY_CACHE": str(tmp_path / "cache"), "ASSAY_LAYERS": str(tmp_path / "layers")}
    environment = {**os.environ, **caches, "PYTHONPATH": str(ROOT / "src"), "DOCKER_HOST": "unix:///nonexistent"}

    def assay(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "assay", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)

    locked = assay("lock")
    built = assay("build", "--output", "oci:out")
    assert (0, 0) == (locked.returncode, built.returncode), locked.stderr + built.stderr

    files = image_files(tmp_path / "out")
    site = "opt/venv/lib/python3.11/site-packages"
    extension = files[f"{site}/yaml/_yaml.cpython-311-aarch64-linux-gnu.so"]
    assert b"\x7fELF" == extension[:4]
    assert 183 == int.from_bytes(extension[18:20], "little")  # EM_AARCH64 of elf.h
    assert f"{site}/markdown_it/__pycache__/main.cpython-311.pyc" in files
    (entry,) = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    assert "arm64" == entry["platform"]["architecture"]

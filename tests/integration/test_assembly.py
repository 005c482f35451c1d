"""An assembled image and one that BuildKit built from the same Dockerfile: the same files, bytes and configuration."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from assay.adapters.docker.engine import DockerEngine

# Two bases are bootstrapped.
pytestmark = [pytest.mark.engine, pytest.mark.index, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
CELL: Final = "plain-v1"
IMAGE: Final = f"assay/plain:{CELL}"
MATRIX: Final = """\
targets:
  sm_120: {name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}
bases:
  slim: {kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36,
         packages: [ca-certificates, python3, python3-venv]}
indexes: {pypi: {}}
axes:
  variant: {label: v, values: [1]}
"""
RECIPE: Final = """\
description: a few wheels of each kind
engine: none
targets: [sm_120]
id: [variant]
defaults: {base: slim}
axes: {variant: [1]}
# Plain Python with a script, a C extension, and one with files of data below the prefix.
requirements: [markdown-it-py, pyyaml, pygments]
env: {QUOTED: 'a "b" $c \\ d'}
entrypoint: [python, -c]
command: ["import yaml; print(yaml.__with_libyaml__)"]
"""

ONLY_BUILT: Final = re.compile(
    r"opt/venv/(?:\.gitignore|\.lock|CACHEDIR\.TAG|bin/(?:activate|deactivate|pydoc).*)"
    r"|.*\.dist-info/REQUESTED|etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-"
)
"""What a build leaves beside: scripts that activate an environment, the installer's own notes, copies by useradd."""
OTHER_BYTES: Final = re.compile(
    r".*\.pyc|.*\.dist-info/(?:INSTALLER|RECORD)|opt/venv/pyvenv\.cfg|opt/venv/bin/(?:markdown-it|pygmentize)|etc/shadow"
)
"""Bytecode, who installed it, the scripts of entry points, and the day on which an account was made."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "images" / "plain").mkdir(parents=True)
    shutil.copytree(ROOT / "templates", root / "templates")
    (root / "matrix.yaml").write_text(MATRIX)
    (root / "images" / "plain" / "image.yaml").write_text(RECIPE)
    assay(root, "lock")
    return root


def assay(root: Path, *words: str, layers: str = "layers", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ASSAY_LAYERS": str(root / layers), **more}
    done = subprocess.run(
        [sys.executable, "-m", "assay", *words], cwd=root, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def both(project: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what is in the assembled image and in the built one."""
    engine = DockerEngine()
    engine.remove_image(IMAGE, force=True)
    assay(project, "build", "--no-audit", "--builder", "assemble")
    assembled = contents(IMAGE)
    engine.remove_image(IMAGE, force=True)
    assay(project, "build", "--no-audit", "--builder", "buildkit")
    built = contents(IMAGE)
    yield assembled, built
    engine.remove_image(IMAGE, force=True)


def contents(image: str) -> dict[str, Any]:
    made = subprocess.run(["docker", "create", image], check=True, text=True, capture_output=True).stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", made], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                files = {member.name.rstrip("/"): entry(tar, member) for member in tar}
    finally:
        subprocess.run(["docker", "rm", "--volumes", made], check=True, capture_output=True)
    said = subprocess.run(["docker", "image", "inspect", image], check=True, text=True, capture_output=True).stdout
    ran = subprocess.run(["docker", "run", "--rm", image], check=True, text=True, capture_output=True).stdout
    return {"files": files, "config": json.loads(said)[0]["Config"], "ran": ran}


def entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[object, ...]:
    file = tar.extractfile(member) if member.isfile() else None
    content = hashlib.sha256(file.read()).hexdigest() if file is not None else member.linkname
    return member.type, oct(member.mode), member.uid, member.gid, content


def test_the_files_are_the_same_but_for_a_written_list(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (image["files"] for image in both)
    ours = {name for name in assembled if name.startswith(("opt", "etc", "home", "usr"))}
    theirs = {name for name in built if name.startswith(("opt", "etc", "home", "usr"))}
    differ = [name for name in ours & theirs if assembled[name] != built[name]]

    assert ours - theirs == set()
    assert [name for name in sorted(theirs - ours) if not ONLY_BUILT.fullmatch(name)] == []
    assert [name for name in differ if not OTHER_BYTES.fullmatch(name)] == []
    assert all(assembled[name][:4] == built[name][:4] for name in differ)
    assert any(name.endswith(".so") for name in ours & theirs)


def test_every_source_has_bytecode_in_both(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = ({name for name in image["files"] if name.endswith(".pyc")} for image in both)

    assert assembled == built
    assert len(assembled) > 100


def test_the_configuration_is_the_same(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (dict(image["config"]) for image in both)
    for config in (assembled, built):
        # BuildKit's own mark for a command that is no shell's; Docker reads it on Windows alone.
        config.pop("ArgsEscaped", None)
        config["Labels"] = {k: v for k, v in config["Labels"].items() if k != "dev.assay.content-key"}

    assert {k: v for k, v in assembled.items() if v} == {k: v for k, v in built.items() if v}


def test_both_run(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert [image["ran"] for image in both] == ["True\n", "True\n"]


def test_another_user_with_other_settings_makes_the_same_digest(project: Path, tmp_path: Path) -> None:
    assay(project, "assemble")
    shutil.copytree(project / "layers" / "bases", project / "other" / "bases", symlinks=True)
    blobs = project / "other" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for image in (project / "layers" / "bases").glob("*/image.json"):
        for layer in json.loads(image.read_text())["manifest"]["layers"]:
            name = layer["digest"].removeprefix("sha256:")
            shutil.copyfile(project / "layers" / "blobs" / "sha256" / name, blobs / name)
    strange: Mapping[str, str] = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "77", "TMPDIR": str(tmp_path)}
    first = json.loads(assay(project, "assemble", "--format", "json").stdout)
    before = os.umask(0o077)
    try:
        second = json.loads(assay(project, "assemble", "--format", "json", layers="other", **strange).stdout)
    finally:
        os.umask(before)

    assert first["images"][0]["new_layers"] == 0
    assert second["images"][0]["new_layers"] > 0
    assert first["images"][0]["digest"] == second["images"][0]["digest"]

"""Bases of another platform are made of the distribution's packages, without running a program of that platform."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

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

"""A base bootstrapped from the distribution's packages, really."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from base_image import RECIPE, Bootstrapped

from assay.adapters.docker.bootstrap import DebootstrapBases, _root
from assay.adapters.docker.engine import DockerEngine
from assay.errors import ToolError
from assay.ports.engine import ContainerSpec, run

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
]


@pytest.fixture(scope="module")
def engine() -> DockerEngine:
    return DockerEngine()


def test_two_runs_make_it_once(bootstrapped: Bootstrapped) -> None:
    base, found, scratch = bootstrapped

    assert [False, True] == sorted(one.built for one in found)
    assert {base.digest} == {one.digest for one in found}
    assert [] == list(scratch.glob("assay-base-*"))


def test_reader_describes_its_content(bootstrapped: Bootstrapped, engine: DockerEngine) -> None:
    base = bootstrapped.base
    spec = ContainerSpec(image=base.reference, run="bootstrap-test", command=("/usr/bin/python3", "-VV"))
    result = run(engine, spec, timeout=60)

    assert base.python.startswith("3.11.")
    assert f"Python {base.python}" in result.logs.text
    assert "2.36" == base.glibc == base.symbols["GLIBC"]
    assert {"GLIBC", "GLIBCXX", "CXXABI"} == set(base.symbols)
    assert "python3" in base.packages
    assert base.packages["libc6"].startswith("2.36-")


def test_nothing_of_this_machine_is_in_it(bootstrapped: Bootstrapped, engine: DockerEngine) -> None:
    sizes: dict[str, int] = {}
    sources = b""
    with engine.image_files(bootstrapped.base.reference) as entries:
        for entry in entries:
            sizes[entry.path] = entry.size
            if entry.path == "/etc/apt/sources.list":
                sources = entry.open().read()

    assert 0 == sizes["/etc/machine-id"]
    assert 0 == sizes.get("/etc/resolv.conf", 0)
    assert 0 == sizes.get("/etc/hostname", 0)
    assert [] == [path for path in sizes if path.endswith(".deb") or path.startswith(("/var/log/b", "/var/log/d"))]
    assert [] == [path for path in sizes if path.startswith("/var/lib/apt/lists/") and sizes[path]]
    assert 3 == sources.count(b"bookworm")
    assert b"-security bookworm-security main" in sources


def test_base_that_differs_from_the_lock_is_refused(
    bootstrapped: Bootstrapped, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pretend(*arguments: object) -> int:
        (tmp_path / "made").mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(DebootstrapBases, "_bootstrap", pretend)
    facts = {"python": bootstrapped.base.python, "glibc": bootstrapped.base.glibc, "symbols": {}, "packages": {}}
    monkeypatch.setattr("assay.adapters.docker.bootstrap._facts", lambda target: facts)
    other = RECIPE.model_copy(update={"python": "3.13"})

    with pytest.raises(ToolError, match=r"python 3\.11\.[0-9]+, its recipe says 3\.13"):
        DebootstrapBases(engine, scratch=tmp_path).ensure(other, "assay/test-base:refused")
    assert engine.image("assay/test-base:refused") is None


def test_the_umask_of_who_makes_a_base_is_not_in_it() -> None:
    """Debian's packages and debootstrap leave the modes of some folders to it; others must get the same base."""
    before = os.umask(0o077)
    try:
        said = subprocess.run([*_root("x"), "sh", "-c", "umask"], check=True, capture_output=True, text=True).stdout
    finally:
        os.umask(before)

    assert int(said, 8) == 0o022


def test_a_mirror_that_does_not_answer_is_reported(engine: DockerEngine, tmp_path: Path) -> None:
    bases = DebootstrapBases(engine, mirror="http://127.0.0.1:9/debian", scratch=tmp_path)

    with pytest.raises(ToolError, match="debootstrap of bookworm failed") as raised:
        bases.ensure(RECIPE, "assay/test-base:nowhere")
    assert raised.value.hint is not None
    assert "ASSAY_DEBIAN_MIRROR" in raised.value.hint
    assert [] == list(tmp_path.glob("assay-base-*"))

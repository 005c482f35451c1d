"""`assay bisect` from the command line with a real index, resolver, engine and probe, over nights nobody named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from local_index import LocalIndex, served
from python_image import PREFIX, write_python_image
from schema_tools import answers

from assay.adapters.docker.bootstrap import LABEL_FACTS
from assay.adapters.docker.engine import DockerEngine
from assay.matrix.model import BootstrapBase
from assay.matrix.render import base_reference

# Some twenty builds and probes: minutes on an engine that has other work.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MATRIX = f"""\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  small: {{kind: bootstrap, distribution: debian, suite: NAME, python: {PYTHON}, glibc: 2.36}}
indexes: {{pypi: {{}}, nights: {{url: "INDEX", nightly: true, keeps_days: 60}}}}
axes:
  torch:
    label: torch
    values:
      - {{id: nightly, spec: ">=2.15.0.dev0", index: nights, date: latest}}
      - {{id: working, spec: ">=2.15.0.dev0", index: nights, date: 2026-10-01}}
"""
IMAGE = """\
description: builds in a second
engine: none
targets: [sm_120]
id: [torch]
defaults: {base: small}
axes: {torch: [working, nightly]}
template: tiny
requirements: ["torch{{ torch.pin }}"]
"""
TEMPLATE = f"""\
FROM {{{{ base.reference }}}}
{{% for wheel in lock.wheels -%}}
RUN ["/usr/bin/python3", "-m", "zipfile", "-e", "/wheels/{{{{ wheel.filename }}}}", "/{PREFIX}/site-packages"]
{{% endfor -%}}
LABEL dev.assay.lock={{{{ labels['dev.assay.lock'] | env }}}}
"""
NIGHTS = [day for day in range(1, 31) if day not in {8, 9}]
"""Of October; two nights had no build."""
BROKEN_FROM = 20


def fill(index: LocalIndex) -> None:
    """List the nights; from one on the import fails."""
    library = next(Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("_bisect.*.so")).read_bytes()
    works = b"class cuda:\n    is_initialized = staticmethod(lambda: False)\n"
    fails = b"raise ImportError('undefined symbol: _ZN3c105ErrorC2E')\n"
    for day in NIGHTS:
        says = fails if day >= BROKEN_FROM else works
        version = f"2.15.0.dev202610{day:02d}"
        index.add("torch", version, files={"torch/__init__.py": says, "torch/_C.so": library})


class World:
    """A project, its index, and the base in which the wheels lie."""

    def __init__(self, root: Path, address: str, suite: str) -> None:
        self.root = root
        self.name = f"t{uuid4().hex[:8]}"
        folder = root / "images" / self.name
        folder.mkdir(parents=True)
        (root / "templates").mkdir()
        (root / "matrix.yaml").write_text(MATRIX.replace("INDEX", address).replace("NAME", suite))
        (folder / "image.yaml").write_text(IMAGE)
        (root / "templates" / "tiny.Dockerfile.j2").write_text(TEMPLATE)
        (root / "templates" / "tools.txt").write_text("uv==0.0.0\n")
        self.env = {**os.environ, "COLUMNS": "200", "UV_DEFAULT_INDEX": address, "UV_NO_CACHE": "1"}
        self.env["ASSAY_FACTS"] = str(root / "facts")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "assay", *argv], cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv)
        out, err = process.communicate(timeout=900)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def bisect(self, feature: str) -> tuple[str, ...]:
        return (
            "bisect", "--feature", feature, "--good", f"{self.name}-torchworking", "--bad", f"{self.name}-torchnightly",
        )  # fmt: skip

    def state(self) -> dict[str, dict[str, str]]:
        for path in self.root.glob("build_logs/bisect/*/state.json"):
            state: dict[str, dict[str, str]] = json.loads(path.read_text())
            return state
        return {"trials": {}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    engine = DockerEngine()
    index = LocalIndex(tmp_path / "index")
    fill(index)
    wheels = {f"wheels/{path.name}": path.read_bytes() for paths in index.files.values() for path in paths}
    # A wheel that the base does not hold cannot be installed: its cell does not build.
    wheels = {path: data for path, data in wheels.items() if not re.search(r"202610(?:16|2[6-9]|30)-", path)}
    suite = f"s{''.join(chr(97 + int(digit, 16)) for digit in uuid4().hex[:10])}"
    base = BootstrapBase(kind="bootstrap", distribution="debian", suite=suite, python=PYTHON, glibc="2.36")
    reference = base_reference("small", base, None)
    facts = {"python": PYTHON, "glibc": "2.36", "symbols": {}, "packages": {}}
    engine.load(write_python_image(tmp_path, reference, wheels, labels={LABEL_FACTS: json.dumps(facts)}))
    with served(index) as address:
        made = World(tmp_path / "project", address, suite)
        yield made
    for image in engine.images():
        for tag in image.tags:
            if tag.startswith((f"assay/{made.name}:", reference)):
                engine.remove_image(tag, force=True)


def test_a_feature_that_a_night_broke_is_found_over_an_interruption_and_a_night_that_does_not_build(
    world: World,
) -> None:
    assert world.run("lock").returncode == 0
    process = world.start(*world.bisect("abi-import"))
    until = time.monotonic() + 120
    while not world.state()["trials"] and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, first = process.communicate(timeout=120)
    before = world.state()
    done = world.run(*world.bisect("abi-import"))
    after = world.state()

    assert process.returncode == 130, first
    assert len(before["trials"]) >= 1
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"first bad: torch n20261020 ({world.name}-torchn20261020)",
        f"last good: torch n20261019 ({world.name}-torchn20261019)",
    ]
    assert "28 versions, 26 of them not in matrix.yaml" in done.stderr
    assert "the index has no build of 2 nightlies between: 2026-10-08, 2026-10-09" in done.stderr
    assert after["trials"]["n20261016"] == "skip"
    assert set(before["trials"].items()) <= set(after["trials"].items())
    told = re.search(r"what changed: assay (diff .*)", done.stderr)
    assert told is not None
    compared = json.loads(world.run(*told[1].split(), "--format", "json").stdout)["changes"]
    assert {"version of torch", "abi-import on no GPU"} <= {change["what"] for change in compared}
    # The answer is kept, and nothing is tested again.
    assert world.run(*world.bisect("abi-import")).stdout == done.stdout
    assert world.state() == after
    # Nothing was written beside the project's own files.
    assert sorted(path.name for path in world.root.glob("images/*/cells/*")) == [
        f"{world.name}-torchnightly",
        f"{world.name}-torchworking",
    ]


def test_a_build_that_a_night_broke_is_found(world: World) -> None:
    world.run("lock")
    done = world.run(*world.bisect("build"), "--format", "json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    answers(document, "bisect")
    answer = document["answer"]
    assert (answer["last_good"], answer["first_bad"]) == ("n20261015", "n20261016")

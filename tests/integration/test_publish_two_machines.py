"""The whole way with the programs themselves: built and staged here, probed elsewhere, published, verified, taken back.

The machine with the card is a second checkout with a registry of its own under another address. Its card is a library
that answers what probes ask a driver (tests/fixtures/card): the device is pretended, everything else is as it will be.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from project_tools import MATRIX, Project
from python_image import PREFIX, write_python_image
from registry_tools import copy_image, real_registry

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import connect
from assay.evidence.reference import Repository
from assay.evidence.statements import ArtifactKind

pytestmark = [pytest.mark.engine, pytest.mark.registry]

BASE = "assay/test-card:1"
CARD = Path(__file__).parents[1] / "fixtures" / "card" / "libcuda.so.1"
RULES = """
policy:
  repositories: {{staging: "{host}/staging/{{image}}", release: "{host}/release/{{image}}"}}
  levels:
    verified:
      max_age_days: 1
      audit: warn
      images:
        {image}: {{sm_90: {{works: [small-sum]}}, sm_120: {{works: [small-sum]}}}}
"""
RECIPE = """\
description: a small Python
engine: none
targets: [sm_120]
id: [flavour]
defaults: {base: tiny}
axes: {flavour: [1.0]}
template: tiny
"""
TEMPLATE = """\
FROM {{ base.reference }}
{% for name, value in labels.items() %}LABEL {{ name }}={{ value | env }}
{% endfor %}"""
SMALL_SUM = '''\
"""A sum, by adding and by the formula: needs no card and no package."""

FEATURE = "small-sum"
REQUIRES = ()
TIMEOUT = 30
GPUS = 0
WARM = False


def run(probe):
    import random

    n = random.randrange(1000, 2000)
    probe.equal("sum", sum(range(n + 1)), n * (n + 1) // 2)
'''


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    made = DockerEngine()
    packages = f"{PREFIX}/site-packages"
    more = {
        "usr/lib/x86_64-linux-gnu/libcuda.so.1": CARD.read_bytes(),
        "usr/lib/libcuda.so.1": CARD.read_bytes(),
        f"{packages}/small/__init__.py": b"",
        f"{packages}/small-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        f"{packages}/small-1.0.dist-info/RECORD": b"small/__init__.py,,\nsmall-1.0.dist-info/METADATA,,\n",
    }
    made.load(write_python_image(tmp_path_factory.mktemp("card"), BASE, more))
    yield made
    made.remove_image(BASE, force=True)


@pytest.fixture
def home(tmp_path: Path, engine: DockerEngine, root: Path) -> Iterator[Project]:
    made = Project(tmp_path / "home", name=f"t{uuid4().hex[:8]}")
    made.write(f"images/{made.name}/image.yaml", RECIPE)
    made.write("templates/tiny.Dockerfile.j2", TEMPLATE)
    shutil.copytree(root / "probes", made.root / "probes", ignore=shutil.ignore_patterns("__pycache__"))
    made.write("probes/features/small_sum.py", SMALL_SUM)
    yield made
    engine.remove_image(made.reference("1.0"), force=True)


def matrix(image: str, host: str) -> str:
    nine = MATRIX.replace(
        "bases:",
        "  sm_90: {name: y, compute_capability: 9.0, memory_gib: 80, shared_memory_per_block: 232448,\n"
        '          cuda: ">=11.8", driver: ">=525", arch_list: 9.0+PTX}\nbases:',
    )
    assert BASE not in nine
    return nine.replace("assay/test-tiny:1", BASE).replace("[1.0, 2.0, 3.0]", "[1.0]") + RULES.format(
        host=host, image=image
    )


def staged_digest(home: Project, staging: Repository) -> str:
    """Build, push to staging, be refused because a record is missing; return the digest to probe."""
    built, _ = home.json("build", home.cell("1.0"))
    early = home.run("publish", home.cell("1.0"))
    registry = connect(credentials=Anonymous())
    (key,) = registry.tags(staging)
    staged = registry.resolve(staging, key)

    assert (0, 6) == (built, early.returncode), early.stderr
    assert staged is not None
    assert f"I={staging.at(staged.digest)} " in early.stderr.replace(";", " ")
    return staged.digest


def probed(there: Project, engine: DockerEngine, reference: str) -> dict[str, Any]:
    """Probe what a registry has, on the machine with the card, and return the record."""
    try:
        engine.pull(reference)
        done = there.run("probe", reference, "--gpus", "0", "--feature", "small-sum", "--format", "json")
    finally:
        engine.remove_image(reference, force=True)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["records"]
    return dict(record)


@pytest.mark.timeout(900)
def test_built_here_probed_there_published_here(home: Project, engine: DockerEngine, tmp_path: Path) -> None:
    cell, image = home.cell("1.0"), home.name
    with real_registry(tmp_path / "own") as host, real_registry(tmp_path / "other") as elsewhere:
        home.write("matrix.yaml", matrix(image, host))
        staging, release = (Repository(host=host, path=f"{kind}/{image}") for kind in ("staging", "release"))
        digest = staged_digest(home, staging)

        # The machine with the card: the same commit, nothing of build_logs/, and no way to the registry here.
        there = copy.copy(home)
        there.root = tmp_path / "there"
        shutil.copytree(home.root, there.root, ignore=shutil.ignore_patterns("build_logs"))
        registry = connect(credentials=Anonymous())
        target = Repository(host=elsewhere, path="card/it")
        copy_image(registry, staging, digest, target)
        record = probed(there, engine, target.at(digest))

        # What it found out comes home, is judged, and becomes a name.
        (home.root / "docs" / "records").mkdir(parents=True)
        for path in (there.root / "build_logs" / "records").glob("*-probe-*.json"):
            shutil.copy(path, home.root / "docs" / "records")
        alias = release.tagged("sm90-verified")
        told = {
            "unaudited there": home.run("publish", cell, "--dry-run"),
            "audit": _audited(home, engine, staging.at(digest)),
            "dry": home.run("publish", cell, "--dry-run"),
            "wrong": home.run("publish", cell, "--target", "sm_120"),
        }
        assert registry.tags(release) == []
        told |= {
            "published": home.run("publish", cell),
            "verified": home.run("verify", alias, "--format", "json"),
            "offered": home.run("recommend", "--target", "sm_90", "--need", "small-sum", "--published"),
            "lacking": home.run("recommend", "--target", "sm_120", "--need", "small-sum", "--published"),
            "revoked": home.run("publish", "--revoke", alias, "--reason", "a rehearsal"),
            "after": home.run("verify", alias),
        }

    assert (cell, image, digest) == (record["cell"], record["image"], record["image_digest"])
    assert record["lock_digest"].startswith("sha256:")
    assert ["a card of the tests"] == [device["name"] for device in record["devices"]]
    assert {
        "unaudited there": 6,
        "audit": 0,
        "dry": 0,
        "wrong": 6,
        "published": 0,
        "verified": 0,
        "offered": 0,
        "lacking": 3,
        "revoked": 0,
        "after": 6,
    } == {name: done.returncode for name, done in told.items()}, {name: done.stderr for name, done in told.items()}
    assert "there is no audit of" in told["unaudited there"].stderr
    assert f"{alias}: not there, would be {digest[:19]}" in told["dry"].stderr
    assert "was measured on a card of the tests (sm_90), not on sm_120" in told["wrong"].stderr
    document = json.loads(told["verified"].stdout)
    assert digest == document["digest"]
    assert {str(kind) for kind in ArtifactKind if kind not in (ArtifactKind.REVOCATION, ArtifactKind.VOID)} == {
        one["kind"] for one in document["evidence"]
    }
    assert f"docker pull {release.at(digest)}" in told["offered"].stdout
    assert "revoked at" in told["after"].stderr


def _audited(home: Project, engine: DockerEngine, reference: str) -> subprocess.CompletedProcess[str]:
    try:
        engine.pull(reference)
        return home.run("audit", "--image", reference)
    finally:
        engine.remove_image(reference)

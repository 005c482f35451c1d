"""`assay build --on POOL` where the pool or its registry is wrong: clear words, and the right exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from project_tools import Project
from registry_tools import free_port, real_registry

POOLS = """\
registry: {registry}/team/{{image}}
pools:
  farm: {{kind: buildkit, endpoints: ["tcp://127.0.0.1:{port}"]}}
  box: {{kind: local}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.write("pools.yaml", POOLS.format(registry=f"127.0.0.1:{free_port()}", port=free_port()))
    return made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with real_registry(tmp_path / "registry") as host:
        yield host


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--on", "frm"), 2, "there is no pool 'frm' in pools.yaml; did you mean 'farm'?"),
        (("--on", "box"), 2, "box is of kind local, which does not build images try: name one that does: farm"),
        (("--on", "farm"), 5, "cannot be used: no registry answers at 127.0.0.1:"),
    ],
)
def test_a_pool_that_cannot_build_is_named(project: Project, words: tuple[str, ...], code: int, said: str) -> None:
    done = project.run("build", "--no-audit", *words)

    assert (code, True) == (done.returncode, said in " ".join(done.stderr.split())), done.stderr


def test_a_pools_file_without_a_registry_is_told_what_to_add(project: Project) -> None:
    path = project.root / "pools.yaml"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    done = project.run("build", "--no-audit", "--on", "farm")

    assert (2, True) == (done.returncode, "add `registry: HOST/PATH/{image}` to pools.yaml" in done.stderr)


@pytest.mark.registry
@pytest.mark.parametrize(
    ("words", "said"),
    [(("--push", "x.example/y"), "omit --push and --output"), (("--builder", "mine"), "omit --builder")],
)
def test_options_that_name_another_place_or_builder_are_refused(
    project: Project, registry: str, words: tuple[str, ...], said: str
) -> None:
    project.write("pools.yaml", POOLS.format(registry=registry, port=free_port()))
    done = project.run("build", "--no-audit", "--on", "farm", *words)

    assert (2, True) == (done.returncode, said in done.stderr), done.stderr


@pytest.mark.engine
@pytest.mark.registry
def test_builders_that_are_all_dead_end_the_run_with_4_and_record_nothing(project: Project, registry: str) -> None:
    project.write("pools.yaml", POOLS.format(registry=registry, port=free_port()))
    done = project.run("build", "--no-audit", "--on", "farm")

    assert 4 == done.returncode, done.stderr
    assert "no builder of farm answers: tcp://127.0.0.1:" in done.stderr
    assert "change `endpoints` in pools.yaml" in done.stderr
    assert not list(project.root.glob("build_logs/records/*"))

"""An assembled image and one that BuildKit built from the same Dockerfile: the same files, bytes and configuration."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from image_twins import config, differences, exported, imports
from registry_tools import real_registry

from assay.adapters.docker.engine import DockerEngine
from assay.adapters.registry.client import connect
from assay.evidence.reference import Repository
from assay.pipeline.assembly.assemble import BUILT_LABEL

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
         packages: [ca-certificates, python3, python3-venv, python3-dev, gcc, libc6-dev]}
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
template: fast
# Plain Python with a script, a C extension, one with files of data below the prefix, and a source archive.
requirements: [markdown-it-py, pyyaml, pygments, docopt]
env: {QUOTED: 'a "b" $c \\ d'}
entrypoint: [python, -c]
command: ["import docopt, fast, yaml; print(yaml.__with_libyaml__, fast.answer())"]
"""
TEMPLATE: Final = """\
{% extends 'server.Dockerfile.j2' %}
{%- import '_macros.j2' as shared -%}
{%- block stages %}
FROM python AS source-fast
COPY --link --from=tools /opt/tools /opt/tools
COPY --link --from=tools /opt/venv /opt/venv
RUN {{ shared.secrets }} <<'SCRIPT'
set -eu
. /opt/tools/site.sh
mkdir /src
cd /src
cat > fast.c <<'C'
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{ '{{' }}"answer", answer, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", "", -1, methods};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }
C
cat > setup.py <<'PY'
from setuptools import Extension, setup
setup(name="fast", version="1", ext_modules=[Extension("fast", ["fast.c"])])
PY
/opt/tools/bin/uv pip install --quiet --python /opt/venv/bin/python --require-hashes --requirements - <<'TOOLS'
{{ source_tools }}
TOOLS
ENDING
SCRIPT

{% endblock %}
{%- block layers %}
COPY --link --from=source-fast /out/ /opt/venv/
{%- endblock %}
"""
"""A stage that compiles, short of fetching its source; it ends as those of the shipped template do."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "images" / "plain").mkdir(parents=True)
    shutil.copytree(ROOT / "templates", root / "templates")
    shipped = (root / "templates" / "server.Dockerfile.j2").read_text()
    ending = shipped[shipped.index("export SOURCE_DATE_EPOCH") : shipped.index("SCRIPT\n{%- endfor %}")]
    (root / "templates" / "fast.Dockerfile.j2").write_text(TEMPLATE.replace("ENDING\n", ending))
    (root / "matrix.yaml").write_text(MATRIX)
    (root / "images" / "plain" / "image.yaml").write_text(RECIPE)
    assay(root, "lock")
    # The lock has an archive in which the installer of a build finds a source too.
    assert "docopt-0.6.2.tar.gz" in (root / "images" / "plain" / "cells" / CELL / "lock.txt").read_text()
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
    ran = subprocess.run(["docker", "run", "--rm", image], check=True, text=True, capture_output=True).stdout
    made = DockerEngine().image(image)
    assert made is not None
    built = {name: value for name, value in made.labels.items() if name.startswith(BUILT_LABEL)}
    return {
        "files": exported(image),
        "config": config(image),
        "built": built,
        "ran": ran,
        "imports": imports(image),
        "assembled": made.created.startswith("1980-"),
    }


def test_one_is_assembled_and_the_other_built(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert [image["assembled"] for image in both] == [True, False]


def test_the_files_are_the_same_but_for_a_written_list(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (image["files"] for image in both)

    assert differences(assembled, built) == []
    assert any(name.endswith(".so") for name in assembled)


def test_a_file_that_differs_is_reported(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (image["files"] for image in both)
    (library,) = (name for name in assembled if name.endswith("/_yaml.cpython-311-x86_64-linux-gnu.so"))
    changed = {library: assembled[library]._replace(content="0" * 64), "opt/more": assembled[library]}

    assert len(differences({**assembled, **changed}, built)) == 2
    assert len(differences(assembled, {**built, **changed})) == 2
    assert differences({**assembled, library: assembled[library]._replace(mode=0o600)}, built) != []


def test_every_source_has_bytecode_in_both(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = ({name for name in image["files"] if name.endswith(".pyc")} for image in both)

    assert assembled == built
    assert len(assembled) > 100


def test_the_configuration_is_the_same(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (image["config"] for image in both)

    assert assembled == built


def test_an_assembled_image_names_the_wheels_that_were_built_for_it(
    project: Path, both: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    assembled, built = (image["built"] for image in both)
    blobs = project / "layers" / "blobs" / "sha256"
    names = {label.removeprefix(BUILT_LABEL): digest.removeprefix("sha256:") for label, digest in assembled.items()}

    assert built == {}
    assert set(names) == {"docopt", "fast"}
    assert all(hashlib.sha256((blobs / digest).read_bytes()).hexdigest() == digest for digest in names.values())


def test_what_imports_in_one_imports_in_the_other(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assembled, built = (image["imports"] for image in both)

    assert assembled == built
    assert {name for name, how in assembled.items() if how == "yes"} >= {"yaml", "pygments", "docopt", "fast"}


def test_both_run(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert [image["ran"] for image in both] == ["True 42\n", "True 42\n"]


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


def without_engine(project: Path, *words: str) -> dict[str, Any]:
    """Run `nox -s build-matrix` where no engine answers; returns its document."""
    environment = {
        **os.environ,
        "ASSAY_LAYERS": str(project / "layers"),
        "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    }
    environment.pop("PYTHONPATH", None)
    nox = [sys.executable, "-m", "nox", "-f", str(ROOT / "noxfile.py"), "--envdir", str(project / "nox")]
    done = subprocess.run(
        [*nox, "-s", "build-matrix", "--", "--project", str(project), "--format", "json", *words],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # nox joins what a program says with what it prints.
    document: dict[str, Any] = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index("{\n"))[0]
    return document


@pytest.mark.registry
def test_the_session_needs_no_engine_for_a_registry_or_a_folder(project: Path, tmp_path: Path) -> None:
    assay(project, "assemble")
    with real_registry(tmp_path / "registry") as host:
        repository = Repository.parse(f"{host}/team/plain")
        pushed = without_engine(project, "--push", str(repository))
        manifest = connect().manifest(repository, CELL)
        again = without_engine(project, "--push", str(repository))
    folder = without_engine(project, "--output", f"oci:{tmp_path / 'images'}")
    (entry,) = json.loads((tmp_path / "images" / "index.json").read_text())["manifests"]

    assert manifest is not None
    assert [one["records"][0]["status"] for one in (pushed, again, folder)] == ["built", "cached", "built"]
    assert entry["digest"] == manifest.digest
    blobs = tmp_path / "images" / "blobs" / "sha256"
    assert all((blobs / layer.digest.removeprefix("sha256:")).stat().st_size == layer.size for layer in manifest.layers)


@pytest.mark.registry
@pytest.mark.usefixtures("both")
def test_a_registrys_base_with_packages_on_top_lies_below_the_same_layers(project: Path, tmp_path: Path) -> None:
    """The base in the registry is the one that a build made in the engine."""
    dockerfile = (project / "images" / "plain" / "cells" / CELL / "Dockerfile").read_text()
    base = dockerfile.partition("ARG BASE=")[2].partition("\n")[0]
    root = tmp_path / "project"
    shutil.copytree(project, root, symlinks=True, ignore=shutil.ignore_patterns("cells", "layers", "other", "nox"))
    with real_registry(tmp_path / "registry") as host:
        subprocess.run(["docker", "tag", base, f"{host}/base:1"], check=True)
        try:
            subprocess.run(["docker", "push", "--quiet", f"{host}/base:1"], check=True, capture_output=True)
        finally:
            DockerEngine().remove_image(f"{host}/base:1", force=True)
        start, end = MATRIX.index("  slim:"), MATRIX.index("indexes:")
        registry = f'  slim: {{kind: registry, image: "{host}/base:1", python: 3.11, glibc: 2.36}}\n'
        (root / "matrix.yaml").write_text(MATRIX[:start] + registry + MATRIX[end:])
        assay(root, "lock")
        assay(root, "build", "--no-audit", "--output", f"oci:{tmp_path / 'images'}")
    (entry,) = json.loads((tmp_path / "images" / "index.json").read_text())["manifests"]
    blob = tmp_path / "images" / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
    layers = [layer["digest"] for layer in json.loads(blob.read_text())["layers"]]
    digest = json.loads(assay(project, "assemble", "--format", "json").stdout)["images"][0]["digest"]
    image = project / "layers" / "images" / digest.removeprefix("sha256:")
    others = [layer["digest"] for layer in json.loads(image.read_text())["layers"]]

    # Two lie below: the base, and the packages that the template puts on it.
    assert len(layers) == len(others) + 1
    assert layers[2:] == others[1:]

"""Dockerfiles say exactly what the lock says, and nothing that was not meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from assay.errors import ConfigError
from assay.matrix import loading as matrix
from assay.matrix import lockfile, plan, render
from assay.matrix.cell import Cell
from assay.matrix.image_steps import image_steps
from assay.matrix.lock import SHELVES, Lock, LockedSource, LockedWheel
from assay.matrix.model import AxisValue, SourceTree


@pytest.fixture
def project(matrix_text: str, image_text: str) -> matrix.Project:
    return matrix.load(matrix_text, {"serving": image_text})


@pytest.fixture
def cell(project: matrix.Project) -> Cell:
    return plan.make(project).cells[0]


@pytest.fixture
def templates(root: Path) -> dict[str, str]:
    folder = root / "templates"
    return {path.name: path.read_text() for path in [*folder.glob("*.j2"), *folder.glob("*.txt")]}


def wheel(name: str, size: int, index: str = "pypi", version: str = "1.0") -> LockedWheel:
    return LockedWheel(
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256="b" * 64,
        size=size,
        index=index,
    )


def locked(cell: Cell, *, base_digest: str | None = None) -> Lock:
    return Lock(
        cell=cell.id,
        python="3.11",
        platform="x86_64-manylinux_2_36",
        requirements=lockfile.wanted(cell),
        base=cell.base,
        base_digest=base_digest,
        wheels=(
            wheel("tiny", 10),
            wheel("torch", 900_000_000, "nightly"),
            wheel("cudnn", 700_000_000),
            wheel("numpy", 17_000_000),
        ),
    )


def rendered(project: matrix.Project, cell: Cell, templates: dict[str, str], **changes: str) -> str:
    lock = locked(cell, **changes)
    base = project.matrix.bases[cell.base]
    return render.dockerfile(cell, lock, base, indexes=project.matrix.indexes, templates=templates)


def test_heavy_wheels_have_linked_layers_heaviest_first(
    project: matrix.Project, cell: Cell, templates: dict[str, str]
) -> None:
    text = rendered(project, cell, templates)
    copies = [line for line in text.splitlines() if line.startswith("COPY")]
    shelves = [layer.stage for layer in render.layers_of(locked(cell), {}) if not layer.heavy]

    assert copies == [
        "COPY --link --from=tools /opt/venv /opt/venv",
        "COPY --link --from=wheel-torch /out/ /opt/venv/",
        "COPY --link --from=wheel-cudnn /out/ /opt/venv/",
        *(f"COPY --link --from={stage} /out/ /opt/venv/" for stage in shelves),
    ]
    assert ["medium", "small"] == [stage.partition("-")[0] for stage in shelves]


def test_a_wheel_that_changes_touches_one_shelf(cell: Cell) -> None:
    wheels = [wheel(f"name{number}", 1000 * number) for number in range(200)]
    lock = locked(cell).model_copy(update={"wheels": tuple(wheels)})
    others = (*wheels[:77], wheel("name77", 5, version="2.0"), *wheels[78:150], *wheels[151:])
    changed = lock.model_copy(update={"wheels": others})
    before, after = ({layer.stage: layer.lines for layer in render.layers_of(one, {})} for one in (lock, changed))

    assert len(before) == SHELVES
    assert 2 >= sum(before[stage] != after[stage] for stage in before)
    names = [line.partition("==")[0] for lines in before.values() for line in lines.splitlines()]
    assert sorted(names) == sorted(item.name for item in wheels)


def test_every_wheel_is_installed_once_by_hash(project: matrix.Project, cell: Cell, templates: dict[str, str]) -> None:
    text = rendered(project, cell, templates)

    assert all(text.count(f"{name}==1.0 --hash=sha256:{'b' * 64}") == 1 for name in ("tiny", "torch", "cudnn", "numpy"))
    assert text.count("--require-hashes") == 2  # the installer, and what it installs
    assert text.count("--index https://nightly.example/whl/cu130") == 1


def test_values_are_quoted_for_their_place(project: matrix.Project, cell: Cell, templates: dict[str, str]) -> None:
    text = rendered(project, cell, templates)

    assert 'ENV GREETING="say \\"\\$HOME\\" \\\\ once"' in text


def test_the_site_comes_in_as_secrets_only(project: matrix.Project, cell: Cell, templates: dict[str, str]) -> None:
    text = rendered(project, cell, templates)
    final = text[text.index("AS image") :]

    assert "ENV SSL" not in text
    assert "COPY --from=tools /opt/tools" not in final
    assert "/run/secrets" not in final[final.index("useradd") :]


def test_a_registry_base_is_named_by_digest(project: matrix.Project, cell: Cell, templates: dict[str, str]) -> None:
    on_devel = cell.model_copy(update={"base": "devel", "python": "3.12"})
    text = rendered(project, on_devel, templates, base_digest="sha256:" + "c" * 64)

    assert f"ARG BASE=docker.io/nvidia/cuda:13.0.2-devel@sha256:{'c' * 64}\n" in text
    assert "apt-get" in text[: text.index("AS tools")]


def test_a_source_value_is_compiled_against_the_cell_for_its_targets(
    project: matrix.Project, cell: Cell, templates: dict[str, str]
) -> None:
    tree = SourceTree(git="https://github.com/x/y", ref="v1", subdirectory="sub", env={"A": "it's"})
    point = cell.point | {"kernel": AxisValue(id="src.1", version="1.0", source=tree)}
    on_devel = cell.model_copy(update={"base": "devel", "point": point})
    text = rendered(project, on_devel, templates, base_digest="sha256:" + "c" * 64)
    stage = text[text.index("FROM python AS source-kernel") : text.index("AS image")]

    assert "git fetch --quiet --depth 1 origin refs/tags/v1:refs/tags/v1\n" in stage
    assert "rev-parse" not in stage
    assert "cd /src/sub" in stage
    assert "uv pip install --quiet --python /opt/venv/bin/python --require-hashes --no-build --requirements -" in stage
    assert re.search(r"^setuptools==\S+ ", stage, re.MULTILINE)
    assert stage.count("--hash=sha256:") >= 8
    assert "export TORCH_CUDA_ARCH_LIST=12.0+PTX FLASHINFER_CUDA_ARCH_LIST=12.0f" in stage
    assert """export A='it'"'"'s'""" in stage
    assert stage.count("COPY --link --from=wheel-") == 2
    assert "COPY --link --from=source-kernel /out/ /opt/venv/" in text
    assert set(image_steps(text).sources) == {"source-kernel"}


@pytest.mark.parametrize(("more", "linked"), [((), False), ((("nvidia-cuda-nvrtc", "13.0.88"),), True)])
def test_a_program_finds_the_builtins_of_nvrtc_without_torch(
    project: matrix.Project,
    cell: Cell,
    templates: dict[str, str],
    more: tuple[tuple[str, str], ...],
    linked: bool,
) -> None:
    """vLLM's Humming kernels on an H200: "nvrtc: error: failed to open libnvrtc-builtins.so.13.0"."""
    compiler = [(name, "13.0.88") for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-runtime")]
    wheels = tuple(wheel(name, 10, version=version) for name, version in (*compiler, *more))
    lock = locked(cell).model_copy(update={"wheels": wheels})
    text = render.dockerfile(cell, lock, project.matrix.bases[cell.base], indexes={}, templates=templates)

    assert linked is ("builtins=libnvrtc-builtins.so.13.0\n" in text)
    assert "COPY --link --from=toolkit /out/ /\n" in text


def test_a_pinned_source_fails_where_its_tag_has_moved(
    project: matrix.Project, cell: Cell, templates: dict[str, str]
) -> None:
    pinned = SourceTree(git="https://github.com/x/y", ref="v1", commit="a" * 9)
    exact = SourceTree(git="https://github.com/x/y", ref="b" * 40)
    texts = [
        rendered(
            project,
            cell.model_copy(
                update={"base": "devel", "point": cell.point | {"kernel": AxisValue(id="s", version="1", source=tree)}}
            ),
            templates,
            base_digest="sha256:" + "c" * 64,
        )
        for tree in (pinned, exact)
    ]

    # True where nothing was cut off the front: the commit does not begin as pinned.
    assert f'if [ "${{found#{"a" * 9}}}" = "$found" ]; then' in texts[0]
    assert f"git fetch --quiet --depth 1 origin {'b' * 40}\n" in texts[1]


def test_the_commit_of_the_lock_is_the_one_that_the_build_checks(
    project: matrix.Project, cell: Cell, templates: dict[str, str]
) -> None:
    tree = SourceTree(git="https://github.com/x/y", ref="v1", commit="a" * 9)
    point = cell.point | {"kernel": AxisValue(id="s", version="1", source=tree)}
    lock = locked(cell).model_copy(update={"sources": {"kernel": LockedSource(ref="v1", commit="a" * 40)}})
    texts = [
        render.dockerfile(
            cell.model_copy(update={"point": point}),
            one,
            project.matrix.bases[cell.base],
            indexes=project.matrix.indexes,
            templates=templates,
        )
        for one in (lock, locked(cell))
    ]

    assert f'if [ "${{found#{"a" * 40}}}" = "$found" ]; then' in texts[0]
    # A wheel that is built alone is known by this text: another commit is another wheel.
    assert "a" * 40 in image_steps(texts[0]).sources["source-kernel"]
    assert f'and the lock pins {"a" * 40}: compare both, then run \\`assay lock --refresh\\`"' in texts[0]
    assert f'and the recipe pins {"a" * 9}: compare both, then change \\`commit\\` in matrix.yaml"' in texts[1]


@pytest.mark.parametrize("ref", ["main", "master", "HEAD", "refs/heads/x", "origin/x"])
def test_branch_is_refused_as_a_source(ref: str) -> None:
    with pytest.raises(ValidationError, match="is a branch, which moves"):
        SourceTree(git="https://github.com/x/y", ref=ref)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("FROM x\n{{ nope }}\n", "templates/server.Dockerfile.j2"),
        ("FROM x\n\n{% if %}\n", "templates/server.Dockerfile.j2:3:1"),
    ],
)
def test_a_wrong_template_says_where(
    project: matrix.Project, cell: Cell, templates: dict[str, str], template: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rendered(project, cell, templates | {"server.Dockerfile.j2": template})

    assert message in str(caught.value)


def test_content_key_changes_with_the_content(project: matrix.Project, cell: Cell, templates: dict[str, str]) -> None:
    text = rendered(project, cell, templates)
    other = rendered(project, cell.model_copy(update={"env": {"GREETING": "hi"}}), templates)

    assert render.content_key(text) == render.content_key(text)
    assert render.content_key(text) != render.content_key(other)


@pytest.mark.parametrize(
    ("arch_list", "expected"),
    [("12.0+PTX", "12.0f"), ("9.0;12.0+PTX", "9.0 12.0f"), ("12.0a", "12.0a"), ("10.0a+PTX;8.9", "10.0a 8.9")],
)
def test_flashinfer_arch_lists(arch_list: str, expected: str) -> None:
    assert expected == render.flashinfer_arch_list(arch_list)


def test_the_bake_file_names_every_cell_and_group(cell: Cell) -> None:
    document = json.loads(render.bake_file([(cell, "sha256:1")], {"starter": [cell.id], "none": ["other"]}))

    assert document["group"] == {"starter": {"targets": ["serving-cu128-torch2_8_0"]}}
    assert document["target"]["serving-cu128-torch2_8_0"]["context"] == f"serving/cells/{cell.id}"


def test_layers_that_were_copied_are_named_by_the_stage_they_come_from() -> None:
    text = (
        "FROM a AS wheel-torch\nCOPY --from=elsewhere /out/ /opt/venv/\n"
        "FROM b AS image\nCOPY --link --from=tools /opt/venv /opt/venv\n"
        "COPY --link --from=wheel-torch /out/ /opt/venv/\nCOPY --link --from=small-1 /out/ /opt/venv/\n"
    )
    made_by = ["debootstrap", "COPY /opt/venv /opt/venv # buildkit", "COPY /out/ /opt/venv/ # buildkit",
               "COPY /out/ /opt/venv/ # buildkit", "ENV A=1"]  # fmt: skip

    assert render.with_stages(text, made_by) == [
        "debootstrap",
        "COPY --from=tools /opt/venv /opt/venv",
        "COPY --from=wheel-torch /out/ /opt/venv/",
        "COPY --from=small-1 /out/ /opt/venv/",
        "ENV A=1",
    ]
    assert render.with_stages(text, made_by[:3])[2] == "COPY /out/ /opt/venv/ # buildkit"
    assert render.with_stages("", made_by) == made_by

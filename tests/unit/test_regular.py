"""Files that others may have put into a project or a model folder: read within bounds, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assay.adapters.files.model_files import ModelFiles
from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.regular import read_config, read_regular
from assay.adapters.files.serving import load_profiles
from assay.adapters.index.local import LocalFile
from assay.errors import ConfigError, PackageIndexError, StoreError, UsageError


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")

    with pytest.raises(StoreError, match="is not a regular file"):
        read_regular(tmp_path / "x")
    with pytest.raises(ConfigError, match="x: is not a regular file"):
        read_config(tmp_path / "x", name="x")
    with pytest.raises(PackageIndexError, match="is not a regular file"):
        LocalFile(tmp_path / "x")


def test_an_image_recipe_that_is_a_pipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "images" / "i").mkdir(parents=True)
    os.mkfifo(tmp_path / "images" / "i" / "image.yaml")

    with pytest.raises(ConfigError, match=r"images/i/image\.yaml: is not a regular file"):
        ProjectFiles(tmp_path).load()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "x: cannot be read: No such file or directory"),
        (b"a\nb\xff", "x:2:2: not UTF-8: byte 0xff"),
        (b"x" * (9 << 20), "x: has more than 8 MiB, and is not read"),
    ],
)
def test_a_text_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / "x").write_bytes(data)

    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "x", name="x")
    assert says in error.value.message


def test_a_profile_that_is_not_utf8_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff")

    with pytest.raises(ConfigError, match="not UTF-8"):
        load_profiles(tmp_path)


def test_a_model_folder_with_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")

    with pytest.raises(UsageError, match=r"has no config\.json"):
        ModelFiles(tmp_path / "models.yaml", offline=True).find(str(tmp_path))

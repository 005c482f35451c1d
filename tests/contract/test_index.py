"""What every package index answers: one suite for the fake and for a client of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_index import LocalIndex, served

from assay.adapters.index.fake import FakeIndex
from assay.adapters.index.simple import Addresses, SimpleIndex
from assay.errors import PackageIndexError
from assay.matrix.model import Index
from assay.ports.index import IndexFile, PackageIndex

WHEELS = (("one-name", "1.0"), ("one-name", "1.1"), ("other", "2.0+cu128"))


@pytest.fixture(params=["fake", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PackageIndex]:
    """Two indexes, `pypi` and `nightly`, and one called `dead` that does not answer."""
    stable, nightly = LocalIndex(tmp_path / "stable"), LocalIndex(tmp_path / "nightly")
    hashes = {f"{name}-{version}": stable.add(name, version) for name, version in WHEELS}
    hashes["one-name-9.0"] = nightly.add("one-name", "9.0")
    if request.param == "server":
        with served(stable) as first, served(nightly) as second:
            # Port 9 of loopback is closed.
            named = {"nightly": Index(url=second), "dead": Index(url="http://127.0.0.1:9/simple")}
            yield SimpleIndex(named, default=Addresses(simple=(first,)))
        return

    def file(name: str, version: str) -> IndexFile:
        filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        url = f"https://pypi.example/files/{filename.replace('+', '%2B')}"
        return IndexFile(project=name, filename=filename, url=url, sha256=hashes[f"{name}-{version}"])

    listed = [file(name, version) for name, version in WHEELS]
    yield FakeIndex({"pypi": listed, "nightly": [file("one-name", "9.0")], "dead": ()}, dead=["dead"])


def test_files_come_in_the_order_of_the_index_with_their_hashes(index: PackageIndex) -> None:
    files = index.files("one-name")

    assert ["one_name-1.0-py3-none-any.whl", "one_name-1.1-py3-none-any.whl"] == [file.filename for file in files]
    assert {"one-name"} == {file.project for file in files}
    assert all(file.sha256 and len(file.sha256) == 64 for file in files)
    assert not any(file.yanked for file in files)


@pytest.mark.parametrize("name", ["One_Name", "one.name", "ONE-NAME"])
def test_a_project_has_one_name_however_it_is_written(index: PackageIndex, name: str) -> None:
    assert index.files("one-name") == index.files(name)


def test_a_project_that_is_not_known_has_no_files(index: PackageIndex) -> None:
    assert () == index.files("nothing-of-the-kind")


def test_each_index_has_its_own_files(index: PackageIndex) -> None:
    assert ["one_name-9.0-py3-none-any.whl"] == [file.filename for file in index.files("one-name", index="nightly")]
    assert () == index.files("other", index="nightly")


def test_an_index_that_is_not_named_is_the_default(index: PackageIndex) -> None:
    assert [file.filename for file in index.files("other")] == [
        file.filename for file in index.files("other", index="unheard-of")
    ]


def test_a_local_version_is_part_of_the_name_and_of_the_address(index: PackageIndex) -> None:
    (file,) = index.files("other")

    assert "other-2.0+cu128-py3-none-any.whl" == file.filename
    assert file.url.endswith("other-2.0%2Bcu128-py3-none-any.whl")


def test_an_index_that_does_not_answer_is_an_error(index: PackageIndex) -> None:
    with pytest.raises(PackageIndexError) as told:
        index.files("one-name", index="dead")

    assert told.value.hint


def test_every_file_has_an_origin_of_its_index(index: PackageIndex) -> None:
    for name in ("pypi", "nightly"):
        files = index.files("one-name", index=name)
        assert {file.origin for file in files} <= index.origins(name)
        assert index.origins(name) <= index.origins()
    assert not index.origins("pypi") & index.origins("nightly")

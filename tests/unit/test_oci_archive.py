"""Archives of images: the same content is the same digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from assay.adapters.docker.oci_archive import ImageConfig, write_archive


def write(folder: Path, name: str, *, content: bytes = b"layer", created: int = 0) -> tuple[str, dict[str, bytes]]:
    layer = folder / f"{name}.layer"
    layer.write_bytes(content)
    digest = write_archive(folder / name, layer, "a/b:1", ImageConfig(created=created, labels={"x": "y"}))
    with tarfile.open(folder / name) as tar:
        files = {member.name: source.read() for member in tar if (source := tar.extractfile(member)) is not None}
    return digest, files


def test_same_content_same_digest_other_content_another(tmp_path: Path) -> None:
    first, second = write(tmp_path, "one"), write(tmp_path, "two")

    assert first == second
    assert first[0] != write(tmp_path, "three", content=b"other")[0]
    assert first[0] != write(tmp_path, "four", created=1)[0]


def test_every_digest_is_that_of_its_bytes_and_both_layouts_agree(tmp_path: Path) -> None:
    digest, files = write(tmp_path, "one")
    blobs = {name.rpartition("/")[2]: data for name, data in files.items() if name.startswith("blobs/")}
    manifest = json.loads(blobs[digest.removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    layer = blobs[manifest["layers"][0]["digest"].removeprefix("sha256:")]
    docker = json.loads(files["manifest.json"])[0]

    assert {name: hashlib.sha256(data).hexdigest() for name, data in blobs.items()} == {name: name for name in blobs}
    assert digest == json.loads(files["index.json"])["manifests"][0]["digest"]
    assert len(layer) == manifest["layers"][0]["size"]
    assert [f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"] == config["rootfs"]["diff_ids"]
    assert docker["Config"].rpartition("/")[2] == manifest["config"]["digest"].removeprefix("sha256:")
    assert ["a/b:1"] == docker["RepoTags"]
    assert b"layer" == gzip.GzipFile(fileobj=io.BytesIO(layer)).read()


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("b:1", "docker.io/library/b:1"),
        ("a/b:1", "docker.io/a/b:1"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("localhost:5000/b:1", "localhost:5000/b:1"),
    ],
)
def test_names_are_written_as_the_containerd_store_files_them(tmp_path: Path, reference: str, full: str) -> None:
    (tmp_path / "layer").write_bytes(b"")
    write_archive(tmp_path / "archive", tmp_path / "layer", reference, ImageConfig())
    with tarfile.open(tmp_path / "archive") as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        annotations = json.loads(index.read())["manifests"][0]["annotations"]

    assert full == annotations["io.containerd.image.name"]
    assert {"archive", "layer"} == {path.name for path in tmp_path.iterdir()}

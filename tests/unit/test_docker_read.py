"""What a Docker daemon answers, read without one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.docker.container import archive, exit_of
from assay.adapters.docker.engine import _split
from assay.adapters.docker.read import Reader, gpu_access, read_image
from assay.adapters.files.image_archive import image_files
from assay.errors import EngineError


@pytest.mark.parametrize(
    ("said", "local", "expected"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True, "runtime"),
        ({"Runtimes": {"runc": {}}}, True, None),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, False, "cdi"),
        (
            {"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/net=0"}], "CDISpecDirs": ["/etc/cdi"]},
            False,
            None,
        ),
        ({"CDISpecDirs": ["/etc/cdi"]}, False, "cdi"),
        ({"CDISpecDirs": ["/no/such/folder"]}, True, None),
        ({}, True, None),
    ],
)
def test_gpu_access(said: dict[str, Any], local: bool, expected: str | None) -> None:
    assert expected == gpu_access(said, local=local)


def test_gpu_access_reads_the_descriptions_of_a_local_engine(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/net"}')
    said = {"CDISpecDirs": [str(tmp_path)]}
    before = gpu_access(said, local=True)
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")

    assert before is None
    assert "cdi" == gpu_access(said, local=True)


FOUND = {
    "Id": "sha256:" + "1" * 64,
    "RepoTags": ["a/b:1"],
    "RepoDigests": ["a/b@sha256:" + "2" * 64],
    "Config": {"Env": ["A=b=c", "EMPTY="], "Cmd": ["x"], "Labels": None},
    "RootFS": {"Layers": ["sha256:l1", "sha256:l2"]},
    "Size": 5,
}


@pytest.mark.parametrize(
    ("store", "digest"), [("containerd", "sha256:" + "1" * 64), ("graphdriver", "sha256:" + "2" * 64)]
)
def test_the_digest_is_the_id_only_in_the_containerd_store(store: Any, digest: str) -> None:
    assert digest == read_image("a/b:1", FOUND, [], store).digest


def test_without_a_registry_the_old_store_knows_no_digest() -> None:
    assert read_image("a/b:1", {**FOUND, "RepoDigests": []}, [], "graphdriver").digest is None


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("card:5000/x@sha256:" + "3" * 64, "3"),
        ("card:5000/x:1", "4"),
        ("docker.io/library/python:3", "5"),
        ("sha256:" + "1" * 64, "3"),
        ("elsewhere/x:1", "3"),
    ],
)
def test_of_two_digests_that_of_the_reference_counts(reference: str, expected: str) -> None:
    names = ("home:5000/x", "card:5000/x", "python")
    known = [f"{name}@sha256:{digit * 64}" for name, digit in zip(names, "345", strict=True)]
    found = read_image(reference, {**FOUND, "RepoDigests": known}, [], "graphdriver")

    assert found.digest == "sha256:" + expected * 64


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        # Newest first, as the daemon gives it; a COPY of nothing makes a layer of no bytes.
        (
            [
                {"CreatedBy": "CMD [x]", "Size": 0},
                {"CreatedBy": "COPY a b # buildkit", "Size": 0},
                {"CreatedBy": "ENV A=b", "Size": 0},
                {"CreatedBy": "RUN make", "Size": 7},
            ],
            [(7, "RUN make"), (0, "COPY a b # buildkit")],
        ),
        (
            [{"CreatedBy": "strange", "Size": 0}, {"CreatedBy": "two", "Size": 2}, {"CreatedBy": "one", "Size": 1}],
            [(1, "one"), (2, "two")],
        ),
        ([{"CreatedBy": "one", "Size": 1}], [(None, ""), (None, "")]),
    ],
    ids=["instructions", "sizes", "hopeless"],
)
def test_layers_are_matched_with_history_or_not_at_all(history: Any, expected: list[tuple[int | None, str]]) -> None:
    layers = read_image("a", FOUND, history, "containerd").layers

    assert ["sha256:l1", "sha256:l2"] == [layer.diff_id for layer in layers]
    assert expected == [(layer.bytes, layer.made_by) for layer in layers]


def test_environment_values_may_hold_equal_signs() -> None:
    assert {"A": "b=c", "EMPTY": ""} == read_image("a", FOUND, [], "containerd").env


@pytest.mark.parametrize(
    ("state", "code", "signal", "seconds"),
    [
        (
            {"ExitCode": 0, "StartedAt": "2026-01-01T00:00:00.5Z", "FinishedAt": "2026-01-01T00:00:02.123456789Z"},
            0,
            None,
            1.623456,
        ),
        ({"ExitCode": 139, "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:01Z"}, 139, 11, 1.0),
        ({"ExitCode": 127, "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}, 127, None, 0.0),
        ({"ExitCode": 255, "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:00Z"}, 255, None, 0.0),
    ],
)
def test_how_a_container_ended(state: dict[str, Any], code: int, signal: int | None, seconds: float) -> None:
    end = exit_of({**state, "OOMKilled": False}, timed_out=False)

    assert (code, signal) == (end.code, end.signal)
    assert seconds == pytest.approx(end.seconds)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "."])
def test_files_stay_in_their_folder(name: str) -> None:
    with pytest.raises(EngineError, match="cannot be named"):
        archive({name: b""})


def test_an_archive_is_for_everybody_and_holds_its_folders() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive({"a/b/c": b"x", "a/d": b""}))) as tar:
        found = {member.name: oct(member.mode) for member in tar}

    assert {"a": "0o777", "a/b": "0o777", "a/b/c": "0o755", "a/d": "0o755"} == found


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def exported() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target, data in [
            ("usr/", tarfile.DIRTYPE, "", b""),
            ("./usr/.hidden", tarfile.REGTYPE, "", b"12345"),
            ("usr/hard", tarfile.LNKTYPE, "usr/.hidden", b""),
            ("usr/link", tarfile.SYMTYPE, "../x", b""),
            ("dev/null", tarfile.CHRTYPE, "", b""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("size", [1, 511, 1 << 20])
def test_an_export_is_read_however_it_is_cut(size: int) -> None:
    found = [
        (entry.path, entry.kind, entry.target, entry.open().read() if entry.kind == "file" else b"")
        for entry in image_files(Reader(iter(chunks(exported(), size)), "reading"), "reading")
    ]

    assert [
        ("/usr", "directory", "", b""),
        ("/usr/.hidden", "file", "", b"12345"),
        ("/usr/hard", "hardlink", "/usr/.hidden", b""),
        ("/usr/link", "symlink", "../x", b""),
        ("/dev/null", "other", "", b""),
    ] == found


def test_an_export_that_ends_early_is_an_error() -> None:
    cut = exported()[: 512 * 2 + 3]

    with pytest.raises(EngineError, match="damaged"):
        list(image_files(Reader(iter([cut]), "reading"), "reading"))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("a/b", ("a/b", "latest")),
        ("a/b:1", ("a/b", "1")),
        ("localhost:5000/a", ("localhost:5000/a", "latest")),
        ("localhost:5000/a:2", ("localhost:5000/a", "2")),
        ("a/b@sha256:00", ("a/b", "sha256:00")),
        ("localhost:5000/a:2@sha256:00", ("localhost:5000/a", "sha256:00")),
    ],
)
def test_references_are_split(reference: str, expected: tuple[str, str]) -> None:
    assert expected == _split(reference)

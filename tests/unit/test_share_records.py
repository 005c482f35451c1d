"""Records in a registry: what is pushed, what is taken, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assay.adapters.files.kept_records import KeptRecords
from assay.adapters.files.records import FileStore
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import RegistryError, StoreError
from assay.evidence.oci import EMPTY_BYTES, Descriptor, bundle
from assay.evidence.record import AuditRecord, BuildRecord, BuildStatus, file_name
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Verdict
from assay.pipeline.share_records import ARTIFACT, DOCUMENT, RECORD, pull_records, push_records

PLACE = Repository.parse("registry.test/team/records")
BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)


def build(number: int, **changes: object) -> BuildRecord:
    made = BuildRecord(created=BEGAN + timedelta(seconds=number), run="r", cell=f"c{number}", status=BuildStatus.BUILT)
    return made.model_copy(update=changes)


def push(registry: FakeRegistry, root: Path) -> tuple[int, int, int]:
    done = push_records(registry, PLACE, KeptRecords(root), FileStore(root / "build_logs"))
    return len(done.moved), done.known, len(done.refused)


def pull(registry: FakeRegistry, root: Path, cell: str | None = None) -> tuple[int, int, tuple[str, ...]]:
    done = pull_records(
        registry,
        PLACE,
        FileStore(root / "build_logs"),
        [one.name for one in KeptRecords(root)],
        wanted=lambda record: cell in (None, record.cell),
    )
    return len(done.moved), done.known, done.refused


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "build_logs" / "records").glob("*.json")}


def test_records_and_the_reports_they_name_arrive_byte_for_byte(tmp_path: Path) -> None:
    registry, mine = FakeRegistry(), FileStore(tmp_path / "one" / "build_logs")
    report = mine.put_document(b'{"findings": []}\n')
    for number in range(3):
        mine.append(build(number))
    mine.append(AuditRecord(created=BEGAN, run="r", cell="c", subject="wheels", verdict=Verdict.OK, report=report))

    assert (4, 0, 0) == push(registry, tmp_path / "one")
    assert (4, 0, ()) == pull(registry, tmp_path / "two")

    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert b'{"findings": []}\n' == FileStore(tmp_path / "two" / "build_logs").document(report)
    before = list(registry.calls)
    assert (0, 4, 0) == push(registry, tmp_path / "one")
    assert (0, 4, ()) == pull(registry, tmp_path / "two")
    assert {"tags"} == {method for method, _ in registry.calls[len(before) :]}, "a second time moves nothing"


def test_records_of_two_machines_meet(tmp_path: Path) -> None:
    registry = FakeRegistry()
    for name, numbers in (("one", (1, 2)), ("two", (2, 3))):
        for number in numbers:
            FileStore(tmp_path / name / "build_logs").append(build(number))

    assert (2, 0, 0) == push(registry, tmp_path / "one")
    assert (1, 1, 0) == push(registry, tmp_path / "two")
    assert (1, 2, ()) == pull(registry, tmp_path / "one")
    assert (1, 2, ()) == pull(registry, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_one_cell_is_taken_and_the_rest_left(tmp_path: Path) -> None:
    registry = FakeRegistry()
    for number in range(3):
        FileStore(tmp_path / "one" / "build_logs").append(build(number))
    push(registry, tmp_path / "one")

    assert (1, 0, ()) == pull(registry, tmp_path / "two", cell="c1")
    assert {file_name(build(1))} == set(files(tmp_path / "two"))


def test_an_edited_record_stays_here(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "build_logs")
    store.append(build(1))
    path = store.append(build(2))
    path.write_bytes(path.read_bytes().replace(b'"built"', b'"cached"'))

    assert (1, 0, 1) == push(FakeRegistry(), tmp_path)


def foreign(registry: FakeRegistry, tag: str, raw: bytes, artifact_type: str = ARTIFACT) -> None:
    registry.put_blob(PLACE, EMPTY_BYTES)
    layer = Descriptor(media_type=RECORD, digest=registry.put_blob(PLACE, raw), size=len(raw))
    registry.put_manifest(PLACE, tag, bundle(artifact_type=artifact_type, layers=[layer]))


def test_a_file_that_is_not_a_record_is_refused_and_the_rest_is_taken(tmp_path: Path) -> None:
    registry = FakeRegistry()
    FileStore(tmp_path / "one" / "build_logs").append(build(1))
    push(registry, tmp_path / "one")
    other = build(9).model_dump_json().encode()
    foreign(registry, "20261130T120000-build-0123456789abcdef", other)
    foreign(registry, f"20261130T120001-build-{sha256_of(b'nonsense')[7:23]}", b"nonsense")
    foreign(registry, f"20261130T120002-build-{sha256_of(other)[7:23]}", other, "application/vnd.other.v1")
    foreign(registry, "latest", other)

    moved, known, refused = pull(registry, tmp_path / "two")

    assert (1, 0) == (moved, known)
    assert set(files(tmp_path / "one")) == set(files(tmp_path / "two"))
    assert 3 == len(refused)
    assert "it is not named after its bytes" in refused[0]
    assert "is not JSON" in refused[1] or "not a record" in refused[1]
    assert "it is not a record" in refused[2]


def test_a_repository_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"there are no records in registry\.test/team/records"):
        pull(FakeRegistry(), tmp_path)


@pytest.mark.parametrize("name", ["../../x.json", "20261130T120000-build-0123456789abcdef.json", "x.json"])
def test_a_store_takes_no_bytes_under_another_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is not named after its bytes"):
        FileStore(tmp_path).take(name, build(1).model_dump_json().encode())
    assert [] == list(tmp_path.rglob("*.json"))


class CountedRegistry(FakeRegistry):
    """Counts the blobs that are asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def blob(self, repository: Repository, blob: Descriptor, **limits: int) -> bytes | None:
        self.asked.append(blob.digest)
        return super().blob(repository, blob, **limits)


def test_only_documents_that_a_record_names_are_read_and_each_once(tmp_path: Path) -> None:
    registry, mine = CountedRegistry(), FileStore(tmp_path / "one" / "build_logs")
    report = mine.put_document(b'{"findings": []}\n')
    mine.append(AuditRecord(created=BEGAN, run="r", cell="c", subject="wheels", verdict=Verdict.OK, report=report))
    assert (1, 0, 0) == push(registry, tmp_path / "one")
    (tag,) = registry.tags(PLACE)
    manifest = registry.manifest(PLACE, tag)
    assert manifest is not None
    record, document = manifest.layers
    others = [
        Descriptor(media_type=DOCUMENT, digest=registry.put_blob(PLACE, data), size=len(data), annotations={})
        for data in (b"%d" % number for number in range(1000))
    ]
    registry.put_manifest(
        PLACE, tag, bundle(artifact_type=ARTIFACT, layers=[*others, record, *[document] * 1000, record])
    )

    assert (1, 0, ()) == pull(registry, tmp_path / "two")
    assert [record.digest, document.digest] == registry.asked
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert FileStore(tmp_path / "two" / "build_logs").document(report) is not None

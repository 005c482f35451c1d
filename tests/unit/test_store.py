"""build_logs/: nothing lost, nothing half-written, whoever writes at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from assay.adapters.files.locks import locked
from assay.adapters.files.records import FileStore, write_whole
from assay.errors import StoreError
from assay.evidence.record import AnyRecord, BuildRecord, BuildStatus


def record(cell: str = "c", second: int = 0, *, run: str = "r") -> BuildRecord:
    created = datetime(2026, 11, 20, 12, 0, second, tzinfo=UTC)
    return BuildRecord(created=created, run=run, cell=cell, status=BuildStatus.BUILT)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "build_logs")


def test_records_come_back_oldest_first(store: FileStore) -> None:
    for second in (2, 0, 1):
        store.append(record(second=second))

    assert [0, 1, 2] == [item.created.second for item in store.records()]


def test_the_same_record_twice_is_one_file(store: FileStore) -> None:
    assert store.append(record()) == store.append(record())
    assert 1 == len(list(store.records()))


def test_two_machines_merge_by_copying(store: FileStore, tmp_path: Path) -> None:
    other = FileStore(tmp_path / "other")
    store.append(record("a"))
    path = other.append(record("b"))
    (store.root / "records" / path.name).write_bytes(path.read_bytes())

    assert {"a", "b"} == {item.cell for item in store.records()}


@pytest.mark.parametrize("text", [b"", b"{", b'{"kind": "build"}', b'{"kind": "unknown"}', b"\xff\xfe"])
def test_invalid_record_is_skipped_and_reported(store: FileStore, text: bytes) -> None:
    store.append(record())
    (store.root / "records" / "20990101T000000-build-x.json").write_bytes(text)

    assert 1 == len(list(store.records()))
    assert ["20990101T000000-build-x.json"] == list(store.unreadable())


def test_an_edited_record_does_not_count_and_is_reported(store: FileStore) -> None:
    path = store.append(record("a"))
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"b"'))

    assert [] == list(store.records())
    assert "was edited after it was written" in store.unreadable()[path.name]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreError, match="No space left on device") as caught:
        write_whole(tmp_path / "a" / "b.json", b"x" * 1000)

    assert "nothing was lost" in str(caught.value)
    assert [] == list((tmp_path / "a").iterdir())


def test_a_signal_while_a_file_is_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("assay.adapters.files.records.os.fsync", interrupt)

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "b.json", b"x")

    assert [] == list(tmp_path.iterdir())


def test_runs_that_start_at_once_have_folders_of_their_own(store: FileStore) -> None:
    names: list[str] = []

    def start() -> None:
        with store.new_run() as run:
            names.append(run.name)

    threads = [threading.Thread(target=start) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 40 == len(set(names))


def test_a_claim_is_held_by_one_and_given_back(store: FileStore) -> None:
    with store.claim("cell") as first, store.claim("cell") as second, store.claim("other") as third:
        assert (True, False, True) == (first, second, third)
    with store.claim("cell") as again:
        assert again


def test_a_document_that_was_changed_is_refused(store: FileStore) -> None:
    digest = store.put_document(b"{}")
    assert store.document(digest) == b"{}"
    assert store.document("sha256:" + "0" * 64) is None
    next((store.root / "documents").iterdir()).write_bytes(b"[]")

    with pytest.raises(StoreError, match="was changed after it was written"):
        store.document(digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../x", ""])
def test_a_document_is_requested_by_digest_only(store: FileStore, digest: str) -> None:
    assert store.document(digest) is None


def drafts(store: FileStore) -> list[Path]:
    return list(store.root.glob("*/unfinished/*.json"))


def test_a_draft_ends_with_the_record(store: FileStore) -> None:
    with store.new_run() as run:
        for second in range(3):
            run.draft(record("a", second, run=run.name))
            run.draft(record("b", second, run=run.name))
        assert 2 == len(drafts(store))
        store.append(record("a", 9, run=run.name))
        assert 1 == len(drafts(store))
        store.append(record("b", 9, run=run.name))

    assert [] == list(run.path.iterdir())
    assert [] == store.adopt()


def test_draft_becomes_a_record_only_after_its_run_has_ended(store: FileStore) -> None:
    with store.new_run() as run:
        run.draft(record("a", 1, run=run.name))
        run.draft(record("a", 2, run=run.name))
        assert [] == FileStore(store.root).adopt()
    (adopted,) = FileStore(store.root).adopt()

    assert record("a", 2, run=run.name) == adopted
    assert [adopted] == list(store.records())
    assert [] == FileStore(store.root).adopt()
    assert [] == list(run.path.iterdir())


def test_of_two_drafts_of_a_cell_the_newest_is_adopted(store: FileStore) -> None:
    with store.new_run() as run:
        run.draft(record("a", 2, run=run.name))
        (newest,) = drafts(store)
        kept = newest.read_bytes()
        run.draft(record("a", 1, run=run.name))
        newest.write_bytes(kept)

    assert [2] == [item.created.second for item in store.adopt()]
    assert [] == drafts(store)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: raw + b" "])
def test_a_draft_that_is_not_whole_is_not_believed(store: FileStore, damage: Callable[[bytes], bytes]) -> None:
    with store.new_run() as run:
        run.draft(record("a", run=run.name))
    (path,) = drafts(store)
    path.write_bytes(damage(path.read_bytes()))

    assert [] == store.adopt()
    assert [] == list(store.records())


@pytest.mark.parametrize("gone", ["before the lock", "while it is locked"])
def test_drafts_that_another_process_takes_meanwhile_are_left_to_it(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    with store.new_run() as run:
        run.draft(record("a", run=run.name))

    @contextmanager
    def late(path: Path) -> Iterator[bool]:
        monkeypatch.undo()
        assert 1 == len(FileStore(store.root).adopt())
        if gone == "before the lock":
            raise StoreError(f"{path.parent} cannot be written: No such file or directory")
        with locked(path) as held:
            yield held

    monkeypatch.setattr("assay.adapters.files.records.locked", late)

    assert [] == store.adopt()
    assert 1 == len(list(store.records()))


def test_drafts_that_cannot_be_locked_are_reported(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.new_run() as run:
        run.draft(record("a", run=run.name))

    def refused(path: Path) -> NoReturn:
        raise StoreError(f"{path.parent} cannot be written: Permission denied")

    monkeypatch.setattr("assay.adapters.files.records.locked", refused)

    with pytest.raises(StoreError, match="Permission denied"):
        store.adopt()


def test_a_draft_is_adopted_once_however_many_ask(store: FileStore) -> None:
    with store.new_run() as run:
        run.draft(record("a", run=run.name))
    found: list[AnyRecord] = []
    threads = [threading.Thread(target=lambda: found.extend(FileStore(store.root).adopt())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 == len(found)
    assert 1 == len(list(store.records()))

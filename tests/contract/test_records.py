"""What the store of records and the journal of tags hold to when several processes use them at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assay.adapters.files.journal import FileJournal
from assay.adapters.files.records import FileStore
from assay.errors import StoreError
from assay.evidence.record import BuildRecord, BuildStatus
from assay.ports.journal import Journal, Transition
from assay.ports.store import Store

COUNT = 40
WRITERS = 3
RECORDS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from assay.adapters.files.records import FileStore
from assay.evidence.record import BuildRecord, BuildStatus

store = FileStore(Path(sys.argv[1]))
now = datetime(2026, 11, 20, tzinfo=UTC)
for number in range({count}):
    with store.new_run() as run:
        cell = f"{{sys.argv[2]}}-{{number}}"
        store.append(BuildRecord(created=now, run=run.name, cell=cell, status=BuildStatus.BUILT))
        store.append(BuildRecord(created=now, run="same", cell=str(number), status=BuildStatus.BUILT))
        store.put_document(str(number).encode())
"""
ENTRIES = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from assay.adapters.files.journal import FileJournal
from assay.ports.journal import Transition

journal = FileJournal(Path(sys.argv[1]))
for number in range({count}):
    journal.append(Transition(
        when=datetime(2026, 11, 20, tzinfo=UTC), phase="done", repository="r/x", tag="t", old=None,
        new=f"{{sys.argv[2]}}-{{number}}", level="verified", target=None, reason="x" * 3000,
    ))
"""
HOLD = """
import sys, time
from pathlib import Path
from assay.adapters.files.{module} import {kind}

with {kind}(Path(sys.argv[1])).{call}:
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FileStore(tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return FileJournal(tmp_path, patience=0.3)


def start(program: str, folder: Path, name: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(folder), name], stdout=subprocess.PIPE, text=True)


def together(program: str, folder: Path) -> None:
    running = [start(program.format(count=COUNT), folder, f"w{number}") for number in range(WRITERS)]
    assert [0] * WRITERS == [process.wait(300) for process in running]
    for process in running:
        process.communicate()


def test_records_of_processes_that_write_at_once_are_all_there(store: Store, tmp_path: Path) -> None:
    together(RECORDS, tmp_path)
    found = Counter(record.run == "same" for record in store.records(kind="build"))

    # What all of them wrote the same is one record.
    assert {False: WRITERS * COUNT, True: COUNT} == found
    assert {} == store.unreadable()
    assert len({record.run for record in store.records()}) == WRITERS * COUNT + 1
    assert [b"0", b"1"] == [store.document(store.put_document(text)) for text in (b"0", b"1")]


def test_a_claim_ends_with_the_process_that_held_it(store: Store, tmp_path: Path) -> None:
    with start(HOLD.format(module="records", kind="FileStore", call='claim("cell")'), tmp_path) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        with store.claim("cell") as mine, store.claim("other") as other:
            held = (mine, other)
        process.kill()
        process.wait(30)

    with store.claim("cell") as mine:
        assert ((False, True), True) == (held, mine)


def test_the_draft_of_a_dead_run_is_adopted_once(store: Store) -> None:
    with store.new_run() as run:
        made = BuildRecord(created=datetime(2026, 11, 20, tzinfo=UTC), run=run.name, cell="c", status=BuildStatus.BUILT)
        run.draft(made)
        while_it_lives = list(store.adopt())

    assert [] == while_it_lives
    assert [made] == list(store.adopt())
    assert [] == list(store.adopt())
    assert [made] == list(store.records())


def test_entries_of_processes_that_write_at_once_are_all_there_in_the_order_of_each(
    journal: Journal, tmp_path: Path
) -> None:
    together(ENTRIES, tmp_path)
    written: dict[str, list[int]] = {}
    for entry in journal.read("r/x", "t"):
        writer, _, number = entry.new.partition("-")
        written.setdefault(writer, []).append(int(number))

    assert {f"w{number}": list(range(COUNT)) for number in range(WRITERS)} == written
    assert [] == list(journal.read("r/x", "other"))
    assert [] == list(journal.read("r/other", "t"))


def test_one_process_publishes_into_a_repository(journal: Journal, tmp_path: Path) -> None:
    with start(HOLD.format(module="journal", kind="FileJournal", call='exclusive("r/x")'), tmp_path) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        with pytest.raises(StoreError, match="another process"), journal.exclusive("r/x"):
            pass
        with journal.exclusive("r/y"):
            pass
        process.kill()
        process.wait(30)

    deadline = time.monotonic() + 30
    with journal.exclusive("r/x"):
        assert time.monotonic() < deadline


def test_an_entry_comes_back_as_it_was(journal: Journal) -> None:
    entry = Transition(
        when=datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC), phase="intent", repository="r/x", tag="t",
        old="sha256:old", new="sha256:new", level="verified", target="sm_120", reason='say "x"\nagain',
    )  # fmt: skip
    journal.append(entry)

    assert [entry] == list(journal.read("r/x", "t"))

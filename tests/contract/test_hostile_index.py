"""Indexes and servers of files that lie about whose bytes they serve, or never end; real servers."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import elf_maker
import pytest
from wheels import FileServer, serving, wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.http import patience
from assay.adapters.http.patience import session
from assay.adapters.index.ranges import HttpFile
from assay.adapters.index.simple import Addresses, SimpleIndex, WebWheels
from assay.errors import PackageIndexError
from assay.matrix.lock import LockedWheel
from assay.pipeline import obtain
from assay.pipeline.audit import Auditor
from assay.ports.index import IndexFile

NAME = "evil-1.0-cp312-cp312-linux_x86_64.whl"
NOISE = random.Random(1).randbytes(300_000)


def wheel(needed: bytes) -> bytes:
    library = elf_maker.shared_object(b"\0" + needed + b"\0", needed=(1,)) + NOISE
    return wheel_bytes("evil", "1.0", {"evil/x.so": library})


REAL, FAKE = wheel(b"libc.so.6"), wheel(b"libpoison.so.9")
SHA = hashlib.sha256(REAL).hexdigest()
LOCKED = LockedWheel(name="evil", version="1.0", filename=NAME, sha256=SHA)


@contextmanager
def index_of(data: bytes) -> Iterator[tuple[FileServer, str]]:
    """Run an index that announces the real wheel's hash and serves these bytes."""
    with serving() as (state, address):
        state.files[f"/f/{NAME}"] = data
        state.files["/simple/evil/"] = f'<a href="/f/{NAME}#sha256={SHA}">x</a>'.encode()
        yield state, f"{address}/simple"


def auditor(simple: str, cache: Path) -> Auditor:
    return Auditor(
        index=SimpleIndex(default=Addresses(simple=(simple,))),
        wheels=WebWheels(),
        facts=FactsCache(cache),
        knowledge=load_knowledge(),
    )


def needed(item: obtain.Obtained) -> set[str]:
    return {name for library in item.facts.libraries for name in library.needed}


def test_a_small_wheel_is_read_whole_and_its_hash_is_checked(tmp_path: Path) -> None:
    with index_of(FAKE) as (_, evil):
        found = auditor(evil, tmp_path).locked(LOCKED)

    assert found.problem is not None
    assert "the index says" in found.problem.message
    assert [] == FactsCache(tmp_path).listed()


def test_a_large_wheel_of_one_index_is_not_taken_for_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "SMALL", 0)
    with index_of(FAKE) as (_, evil), index_of(REAL) as (state, honest):
        assert {"libpoison.so.9"} == needed(auditor(evil, tmp_path).locked(LOCKED))
        assert {"libc.so.6"} == needed(auditor(honest, tmp_path).locked(LOCKED))
        asked = len(state.requests)

        assert {"libc.so.6"} == needed(auditor(honest, tmp_path).locked(LOCKED))
        assert asked == len(state.requests)
        assert {"libpoison.so.9"} == needed(auditor(evil, tmp_path).locked(LOCKED))


def test_reading_whole_refuses_other_bytes_and_what_it_reads_counts_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "SMALL", 0)
    with index_of(FAKE) as (_, evil), index_of(REAL) as (_, honest):
        file = SimpleIndex(default=Addresses(simple=(evil,))).files("evil")[0]
        with pytest.raises(PackageIndexError, match="sha256"):
            auditor(evil, tmp_path).read(file, whole=True)
        good = SimpleIndex(default=Addresses(simple=(honest,))).files("evil")[0]

        assert auditor(honest, tmp_path).read(good, whole=True).complete
        assert {"libc.so.6"} == needed(auditor(evil, tmp_path).locked(LOCKED))


@contextmanager
def trickling(start: bytes, then: bytes, every: float) -> Iterator[str]:
    """Run a server that answers each request with a start, and then a few bytes from time to time."""
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while not stop.wait(every):
                connection.sendall(then)

    def accept() -> None:
        with suppress(OSError):
            while not stop.is_set():
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stop.set()
        # Closing alone does not wake a thread that waits in accept.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_headers_that_never_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_BYTES", 0.5)
    began = time.monotonic()
    with trickling(b"HTTP/1.1 200 OK\r\nX-A: ", b"x", 0.05) as address, pytest.raises(PackageIndexError):
        HttpFile(session(), f"{address}/{NAME}")

    assert time.monotonic() - began < 60


def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = patience.Rate.__init__.__kwdefaults__ or {}
    monkeypatch.setattr(patience.Rate.__init__, "__kwdefaults__", {**defaults, "window": 1.0})
    head = b"HTTP/1.1 206 Partial\r\nContent-Length: 1000\r\nContent-Range: bytes 0-999/1000\r\n\r\n"
    with trickling(head, b"x", 0.1) as address, pytest.raises(PackageIndexError, match="too slow"):
        HttpFile(session(), f"{address}/{NAME}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://[::bad/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/" + b"9" * 5000 + b"\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes \xd9\xa1-\xd9\xa2/\xd9\xa3\r\nContent-Length: 10\r\n\r\n",
    ],
    ids=["no address", "another scheme", "no digits", "5000 digits", "digits of another script"],
)
def test_nonsense_of_a_server_is_an_error_that_is_reported(answer: bytes) -> None:
    with trickling(answer, b"", 0.05) as address:
        file = IndexFile(project="evil", filename=NAME, url=f"{address}/{NAME}")
        with pytest.raises(PackageIndexError):
            WebWheels().open(file)

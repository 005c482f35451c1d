"""One suite for wheels on disk and behind servers of every manner; real servers, nothing mocked."""

from __future__ import annotations

import hashlib
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wheels import FileServer, serving, wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.local import LocalFile
from assay.adapters.index.ranges import HttpFile, session
from assay.adapters.index.simple import Addresses, SimpleIndex, WebWheels, parse_json
from assay.errors import AssayError, PackageIndexError, WheelError
from assay.matrix.lock import LockedWheel
from assay.matrix.model import Index
from assay.pipeline.audit import Auditor
from assay.pipeline.read_wheel import Depth, read_library, read_wheel
from assay.ports.index import IndexFile
from assay.ports.wheel_source import ByteSource

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAME = "tiny-1.0-cp311-cp311-linux_x86_64.whl"
FILES = {
    "tiny/_C.abi3.so": (FIXTURES / "fatbin" / "fat_suffixes.so").read_bytes(),
    "tiny/libconsumer.so": (FIXTURES / "elf" / "libconsumer.so").read_bytes(),
    "tiny/__init__.py": b"",
    "tiny/text.so": b"INPUT(libother.so)\n",
    "tiny/noise.bin": bytes(range(256)) * 4000,
}
WHEEL = wheel_bytes("tiny", "1.0", FILES, requires=("torch",))
SHA = hashlib.sha256(WHEEL).hexdigest()


@pytest.fixture
def server() -> Iterator[tuple[FileServer, str]]:
    with serving() as (state, address):
        state.files[f"/{NAME}"] = WHEEL
        yield state, address


def remote(address: str, sha256: str | None = SHA) -> IndexFile:
    return IndexFile(project="tiny", filename=NAME, url=f"{address}/{NAME}", sha256=sha256)


@contextmanager
def opened(kind: str, tmp_path: Path) -> Iterator[ByteSource]:
    if kind == "disk":
        path = tmp_path / NAME
        path.write_bytes(WHEEL)
        with LocalFile(path) as file:
            yield file
        return
    with serving() as (state, address):
        state.files[f"/{NAME}"] = WHEEL
        state.mode = kind
        with HttpFile(session(), f"{address}/{NAME}") as file:
            yield file


@pytest.mark.parametrize("kind", ["disk", "ranges", "whole", "breaks"])
def test_every_source_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as source:
        assert len(WHEEL) == source.size
        for offset, length in ((0, 10), (1000, 5000), (len(WHEEL) - 7, 7), (5, 0), (0, len(WHEEL))):
            assert WHEEL[offset : offset + length] == source.read(offset, length)
        assert WHEEL == b"".join(source.stream())
        assert WHEEL[1234:] == b"".join(source.stream(1234))
        for offset, length in ((len(WHEEL), 1), (-1, 2), (0, len(WHEEL) + 1)):
            with pytest.raises(WheelError):
                source.read(offset, length)


@pytest.mark.parametrize("mode", ["ranges", "whole", "breaks"])
def test_a_wheel_reads_the_same_from_anywhere(server: tuple[FileServer, str], tmp_path: Path, mode: str) -> None:
    state, address = server
    path = tmp_path / NAME
    path.write_bytes(WHEEL)
    local = IndexFile(project="tiny", filename=NAME, url=path.as_uri(), sha256=SHA)
    state.mode = mode
    far, near = (read_wheel(file, WebWheels()) for file in (remote(address), local))

    assert near == far
    assert far.complete
    assert ["tiny/_C.abi3.so", "tiny/libconsumer.so"] == [library.path for library in far.libraries]
    assert ("torch",) == far.requires_dist


def test_symbols_alone_are_equal_and_cost_a_part(server: tuple[FileServer, str]) -> None:
    state, address = server
    whole = read_wheel(remote(address), WebWheels())
    spent = state.sent
    state.sent = 0
    part = read_wheel(remote(address), WebWheels(), depth=Depth.SYMBOLS)

    assert not part.complete
    for library in part.libraries:
        other = next(item for item in whole.libraries if item.path == library.path)
        if library.scope == "prefix":
            assert (other.defined, other.undefined, other.requires) == (
                library.defined,
                library.undefined,
                library.requires,
            )
    assert state.sent < spent
    assert read_library(remote(address), WebWheels(), "tiny/_C.abi3.so") == whole.libraries[0]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("lies", "asked for bytes|changed"),
        ("grows", "changed"),
        ("etag", "changed"),
        ("nameless", "without saying which"),
        ("changes", "sha256|zip|header|damaged|unpack|METADATA|directory"),
    ],
)
def test_server_that_misreports_usage_fails(server: tuple[FileServer, str], mode: str, words: str) -> None:
    state, address = server
    # The directory is larger than the first window, so that more than one request is needed.
    state.files[f"/{NAME}"] = wheel_bytes("tiny", "1.0", {**FILES, **{f"tiny/{n:05}.py": b"x" for n in range(3000)}})
    state.mode = mode
    sha = hashlib.sha256(state.files[f"/{NAME}"]).hexdigest()

    with pytest.raises((PackageIndexError, WheelError), match=words):
        read_wheel(remote(address, sha), WebWheels())


def test_bytes_the_index_did_not_announce_are_refused(server: tuple[FileServer, str]) -> None:
    _, address = server

    with pytest.raises(PackageIndexError, match="sha256"):
        read_wheel(remote(address, "0" * 64), WebWheels())
    with pytest.raises(PackageIndexError, match="the index says"):
        read_wheel(remote(address).model_copy(update={"size": 7}), WebWheels())
    with pytest.raises(PackageIndexError, match="404"):
        read_wheel(remote(address).model_copy(update={"url": f"{address}/none.whl"}), WebWheels())


def damaged(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(WHEEL)
    change(data)
    return bytes(data)


def _crc(data: bytearray) -> None:
    at = data.rfind(b"PK\1\2", 0, data.find(b"tiny/libconsumer.so", data.find(b"PK\1\2")))
    data[at + 16] ^= 1


def _stream(data: bytearray) -> None:
    at = data.find(b"tiny/libconsumer.so")
    data[at + 400 : at + 440] = b"\xff" * 40


def _smaller(data: bytearray) -> None:
    """Claim fewer bytes than the library has: what is unpacked must not go on."""
    at = data.rfind(b"PK\1\2", 0, data.find(b"tiny/libconsumer.so", data.find(b"PK\1\2")))
    data[at + 24 : at + 28] = (4096).to_bytes(4, "little")


@pytest.mark.parametrize(
    "data",
    [
        damaged(_crc),
        damaged(_stream),
        damaged(_smaller),
        WHEEL[: len(WHEEL) // 2],
        b"<html>not here</html>",
        wheel_bytes("other", "1.0", {}),
        b"",
    ],
    ids=["checksum", "stream", "size", "short", "page", "other-name", "empty"],
)
@pytest.mark.parametrize("depth", [Depth.FULL, Depth.SYMBOLS])
def test_a_bad_wheel_is_a_clear_error(tmp_path: Path, data: bytes, depth: Depth) -> None:
    path = tmp_path / NAME
    path.write_bytes(data)
    file = IndexFile(project="tiny", filename=NAME, url=path.as_uri())
    told = ""
    complete = False
    try:
        complete = read_wheel(file, WebWheels(), depth=depth).complete
    except (WheelError, PackageIndexError) as error:
        told = str(error)

    # The first bytes of a library cannot show damage behind them: such facts are never called complete.
    assert NAME in told or (depth is Depth.SYMBOLS and not complete)


@pytest.mark.parametrize("depth", [Depth.FULL, Depth.SYMBOLS])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tiny/_big.so", ""),
        ("tiny/_big.cubin", ""),
        ("tiny-1.0.dist-info/RECORD", ""),
        ("tiny-1.0.dist-info/METADATA", "METADATA has 134217728 bytes"),
    ],
)
def test_a_bomb_costs_no_memory(tmp_path: Path, path: str, words: str, depth: Depth) -> None:
    """128 MiB that are packed into 128 KiB, honestly announced: as a library, a cubin, and where texts are read."""
    file = tmp_path / NAME
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(path, "w") as member:
            member.write(FILES["tiny/libconsumer.so"] if path.endswith(".so") else b"")
            for _ in range(128):
                member.write(bytes(1 << 20))
        if not path.endswith("METADATA"):
            archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    told = ""
    tracemalloc.start()
    try:
        read_wheel(IndexFile(project="tiny", filename=NAME, url=file.as_uri()), WebWheels(), depth=depth)
    except WheelError as error:
        told = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert words in told
    assert bool(words) == bool(told)
    assert peak < 64 << 20


def test_a_damaged_library_leaves_the_others(tmp_path: Path) -> None:
    files = dict(FILES)
    broken = bytearray(files["tiny/libconsumer.so"])
    broken[58] = 63
    path = tmp_path / NAME
    path.write_bytes(wheel_bytes("tiny", "1.0", {**files, "tiny/libconsumer.so": bytes(broken)}))
    found = read_wheel(IndexFile(project="tiny", filename=NAME, url=path.as_uri()), WebWheels())

    assert [None, "tiny/libconsumer.so: section headers of 63 bytes; 64-bit ELF has 64"] == [
        library.problem for library in found.libraries
    ]


def test_one_bad_file_of_a_lock_leaves_the_others(server: tuple[FileServer, str], tmp_path: Path) -> None:
    state, address = server
    state.files["/simple/tiny/"] = f'<a href="/{NAME}#sha256={SHA}">x</a>'.encode()
    state.files["/simple/gone/"] = b""
    auditor = Auditor(
        index=SimpleIndex(default=Addresses(simple=(f"{address}/simple",))),
        wheels=WebWheels(),
        facts=FactsCache(tmp_path),
        knowledge=load_knowledge(),
    )
    good = LockedWheel(name="tiny", version="1.0", filename=NAME, sha256=SHA)
    bad = LockedWheel(name="gone", version="1.0", filename="gone-1.0-py3-none-any.whl", sha256="0" * 64)

    assert auditor.locked(good).problem is None
    assert auditor.locked(good).facts == FactsCache(tmp_path).get(SHA)
    problem = auditor.locked(bad).problem
    assert problem is not None
    assert "not on the index" in problem.message


PAGE = """<html><base href="{base}/files/"><body>
<a href="tiny-1.0-py3-none-any.whl#sha256={sha}" data-requires-python="&gt;=3.9" data-core-metadata="true">a</a>
<a href="tiny-0.9-py3-none-any.whl" data-yanked="">b</a>
<a href="other-1.0-py3-none-any.whl">c</a><a href="rubbish.whl">d</a><a href="tiny-2.0.tar.gz">e</a>
</body></html>"""


def test_an_index_in_html(server: tuple[FileServer, str]) -> None:
    state, address = server
    state.files["/simple/tiny/"] = PAGE.format(base=address, sha=SHA).encode()
    index = SimpleIndex({"mine": Index(url=f"{address}/simple")})
    files = index.files("Tiny", index="mine")

    assert ["tiny-1.0-py3-none-any.whl", "tiny-0.9-py3-none-any.whl", "tiny-2.0.tar.gz"] == [f.filename for f in files]
    assert (f"{address}/files/tiny-1.0-py3-none-any.whl", SHA, ">=3.9", True) == (
        files[0].url, files[0].sha256, files[0].requires_python, files[0].metadata,
    )  # fmt: skip
    assert files[1].yanked
    assert () == index.files("unknown", index="mine")


def test_an_index_in_json() -> None:
    document = (
        '{"files": [{"filename": "tiny-1.0-py3-none-any.whl", "url": "../f/tiny-1.0-py3-none-any.whl", "size": 5,'
        f' "hashes": {{"sha256": "{SHA}"}}, "core-metadata": {{"sha256": "x"}}, "yanked": "bad"}}]}}'
    )
    (file,) = parse_json(document, url="http://x.example/simple/tiny/", project="tiny")

    assert ("http://x.example/simple/f/tiny-1.0-py3-none-any.whl", 5, True, True) == (
        file.url, file.size, file.metadata, file.yanked,
    )  # fmt: skip
    for bad in ("[]", "{}", '{"files": 3}', "rubbish", '{"files": [{}]}'):
        with pytest.raises(PackageIndexError):
            parse_json(bad, url="http://x.example/", project="tiny")


def test_folders_and_link_lists_are_indexes_too(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / NAME).write_bytes(WHEEL)
    (tmp_path / "links.html").write_text(f'<a href="flat/{NAME}#sha256={SHA}">x</a>')
    index = SimpleIndex(default=Addresses(links=(str(tmp_path / "flat"), (tmp_path / "links.html").as_uri())))
    files = index.files("tiny")

    assert [None, SHA] == [file.sha256 for file in files]
    assert "tiny" == read_wheel(files[1], WebWheels()).name


def test_an_index_that_fails_is_reported(server: tuple[FileServer, str]) -> None:
    _, address = server
    port = address.rpartition(":")[2]
    index = SimpleIndex(default=Addresses(simple=(f"ftp://127.0.0.1:{port}/simple",)))

    with pytest.raises(AssayError, match=r"127\.0\.0\.1"):
        index.files("tiny")

"""What installing a wheel writes: schemes, scripts, RECORD, and wheels that try to write elsewhere."""

from __future__ import annotations

import io
import stat
import struct
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from assay.adapters.layers.archive import WheelArchive
from assay.errors import WheelError
from assay.wheels.archive import Member
from assay.wheels.install import InstalledFile, Prefix, installed_files

PREFIX = Prefix(path="/opt/venv", python="3.11")
SITE = "lib/python3.11/site-packages"
INFO = "demo-1.0.dist-info"


def wheel(files: Mapping[str, bytes], *, modes: Mapping[str, int] | None = None, pure: bool = True) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        everything = {
            f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
            f"{INFO}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\nTag: py3-none-any\n".encode(),
            f"{INFO}/RECORD": b"",
            **files,
        }
        for name, data in everything.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return made.getvalue()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[WheelArchive]]:
    made: list[WheelArchive] = []
    yield made
    for archive in made:
        archive.__exit__()


def install(tmp_path: Path, opened: list[WheelArchive], data: bytes) -> tuple[list[InstalledFile], dict[str, bytes]]:
    path = tmp_path / "demo.whl"
    path.write_bytes(data)
    archive = WheelArchive(path, "demo-1.0-py3-none-any.whl")
    opened.append(archive)
    files = installed_files(archive.files, archive.read, PREFIX, wheel="demo-1.0-py3-none-any.whl")
    contents = {
        file.path: archive.read(file.content) if isinstance(file.content, Member) else file.content for file in files
    }
    return files, contents


def test_files_of_each_scheme_go_where_it_says(tmp_path: Path, opened: list[WheelArchive]) -> None:
    files, contents = install(
        tmp_path,
        opened,
        wheel(
            {
                "demo/__init__.py": b"x = 1\n",
                "demo-1.0.data/purelib/more.py": b"",
                "demo-1.0.data/scripts/tool": b"#!python\nprint(1)\n",
                "demo-1.0.data/scripts/plain": b"#!/bin/sh\n",
                "demo-1.0.data/data/share/demo.txt": b"text",
                "demo-1.0.data/headers/demo.h": b"/* */",
            }
        ),
    )

    assert [file.path for file in files] == sorted(contents)
    assert contents[f"{SITE}/demo/__init__.py"] == b"x = 1\n"
    assert contents[f"{SITE}/more.py"] == b""
    assert contents["bin/tool"] == b"#!/opt/venv/bin/python\nprint(1)\n"
    assert contents["bin/plain"] == b"#!/bin/sh\n"
    assert contents["share/demo.txt"] == b"text"
    assert contents["include/site/python3.11/demo/demo.h"] == b"/* */"
    assert contents[f"{SITE}/{INFO}/INSTALLER"] == b"assay\n"
    assert {file.path for file in files if file.mode == 0o755} == {"bin/tool", "bin/plain"}


def test_executable_files_stay_executable_and_other_bits_go(tmp_path: Path, opened: list[WheelArchive]) -> None:
    modes = {"demo/run": stat.S_IFREG | 0o4775, "demo/open.txt": stat.S_IFREG | 0o666}
    files, _ = install(tmp_path, opened, wheel({"demo/run": b"", "demo/open.txt": b""}, modes=modes))
    found = {file.path: file.mode for file in files}

    assert (found[f"{SITE}/demo/run"], found[f"{SITE}/demo/open.txt"]) == (0o755, 0o644)


def test_entry_points_become_scripts_of_the_environments_python(tmp_path: Path, opened: list[WheelArchive]) -> None:
    points = b"[console_scripts]\ndemo = demo.cli:main\n\n[other]\nx = y\n"
    _, contents = install(tmp_path, opened, wheel({f"{INFO}/entry_points.txt": points}))

    assert contents["bin/demo"].startswith(b"#!/opt/venv/bin/python\n")
    assert b"from demo.cli import main" in contents["bin/demo"]
    assert "bin/x" not in contents


def test_record_names_every_file_with_its_hash(tmp_path: Path, opened: list[WheelArchive]) -> None:
    points = b"[console_scripts]\ndemo = demo:main\n"
    files, contents = install(tmp_path, opened, wheel({"demo/a,b.py": b"1", f"{INFO}/entry_points.txt": points}))
    rows = contents[f"{SITE}/{INFO}/RECORD"].decode().splitlines()

    assert len(rows) == len(files)
    assert f"{INFO}/RECORD,," in rows
    assert '"demo/a,b.py",sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s,1' in rows
    assert any(row.startswith("../../../bin/demo,sha256=") for row in rows)


def test_bytecode_and_signatures_of_the_wheel_are_left_out(tmp_path: Path, opened: list[WheelArchive]) -> None:
    _, contents = install(
        tmp_path, opened, wheel({"demo/__pycache__/x.cpython-311.pyc": b"evil", f"{INFO}/RECORD.jws": b"{}"})
    )

    assert not [path for path in contents if "__pycache__" in path or path.endswith(".jws")]


@pytest.mark.parametrize(
    ("files", "modes", "says"),
    [
        ({"../../etc/passwd": b""}, {}, "leads out"),
        ({"/etc/passwd": b""}, {}, "leads out"),
        ({"demo-1.0.data/data/../../x": b""}, {}, "leads out"),
        ({"demo/./x": b""}, {}, "leads out"),
        ({"demo//x": b""}, {}, "leads out"),
        ({"demo/a\nb": b""}, {}, "control characters"),
        ({"demo/a\\b": b""}, {}, "control characters"),
        ({"demo/link": b"/etc/passwd"}, {"demo/link": stat.S_IFLNK | 0o777}, "link or a device"),
        ({"demo/dev": b""}, {"demo/dev": stat.S_IFCHR | 0o666}, "link or a device"),
        ({"demo-1.0.data/nowhere/x": b""}, {}, "no known scheme"),
        ({"x.py": b"", "demo-1.0.data/purelib/x.py": b"2"}, {}, "installed twice"),
        ({f"{INFO}/WHEEL": b"Wheel-Version: 2.0\n"}, {}, "version 2.0"),
        ({f"{INFO}/entry_points.txt": b"[console_scripts]\n../../x = a:b\n"}, {}, "leads out"),
        ({f"{INFO}/entry_points.txt": b"[console_scripts\nx"}, {}, "cannot be read"),
        ({f"{INFO}/WHEEL": b"\xff"}, {}, "not UTF-8"),
        ({"other-1.dist-info/WHEEL": b""}, {}, "2 folders"),
        ({"demo/.wh.x.py": b""}, {}, "removes files in a layer"),
        ({"demo/.wh..wh..opq": b""}, {}, "removes files in a layer"),
        ({f"{INFO}/entry_points.txt": b"[console_scripts]\n.wh.python = a:b\n"}, {}, "removes files in a layer"),
        ({"demo": b"1", "demo/x.py": b"2"}, {}, "as a file and as a folder"),
        ({"demo-1.0.data/data/bin": b""}, {}, "as a file and as a folder"),
        ({"demo-1.0.data/data/lib": b""}, {}, "as a file and as a folder"),
        ({"d" * 256: b""}, {}, "too long"),
        ({"\u00e9" * 128: b""}, {}, "too long"),
        ({"/".join(["d" * 200] * 16): b""}, {}, "too long"),
        ({f"{INFO}/WHEEL": b"Wheel-Version: 1.0\n" + b"A: b\n" * 60_000}, {}, "300019 bytes, more than 262144"),
        ({f"{INFO}/entry_points.txt": b"[console_scripts]\n" + b"a = b:c\n" * 40_000}, {}, "more than 262144"),
        ({f"{INFO}/RECORD": b"a,,\n" * 300_000}, {}, "more than 250000 lines"),
        ({f"{INFO}/RECORD": b'"' + b"a" * 200_000 + b'",,\n'}, {}, "field larger than field limit"),
    ],
)
def test_wheels_that_no_installer_should_take_are_refused_by_name(
    tmp_path: Path, opened: list[WheelArchive], files: dict[str, bytes], modes: dict[str, int], says: str
) -> None:
    with pytest.raises(WheelError, match=says) as error:
        install(tmp_path, opened, wheel(files, modes=modes))

    assert "demo-1.0-py3-none-any.whl" in error.value.message


def test_an_entry_point_is_its_text_and_no_value_is_put_into_another(
    tmp_path: Path, opened: list[WheelArchive]
) -> None:
    points = "[console_scripts]\nx0 = aaaaaaaaaa\n" + "".join(f"x{n} = {f'%(x{n - 1})s' * 10}\n" for n in range(1, 10))
    with pytest.raises(WheelError, match=r"entry_points\.txt' cannot be read"):
        install(tmp_path, opened, wheel({f"{INFO}/entry_points.txt": points.encode()}))


@pytest.mark.parametrize("space", [" ", "\t", "\n ", "\n", "\u2003"])
def test_white_space_in_an_entry_point_takes_no_time(tmp_path: Path, opened: list[WheelArchive], space: str) -> None:
    points = f"[console_scripts]\nx = a:b{space * 60_000}["
    begun = time.process_time()
    with pytest.raises(WheelError, match=r"entry_points\.txt' cannot be read"):
        install(tmp_path, opened, wheel({f"{INFO}/entry_points.txt": points.encode()}))

    assert time.process_time() - begun < 3


def test_a_hash_that_is_invalid_is_not_taken_over_from_record(tmp_path: Path, opened: list[WheelArchive]) -> None:
    record = b'demo/x.py,"sha256=x\n../../../../etc/passwd,",1\n'
    _, contents = install(tmp_path, opened, wheel({"demo/x.py": b"1", f"{INFO}/RECORD": record}))

    assert b"passwd" not in contents[f"{SITE}/{INFO}/RECORD"]
    assert b"demo/x.py,sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s,1\n" in contents[f"{SITE}/{INFO}/RECORD"]


def test_files_for_lib64_go_where_its_link_leads(tmp_path: Path, opened: list[WheelArchive]) -> None:
    files, _ = install(tmp_path, opened, wheel({"demo-1.0.data/data/lib64/libx.so": b"1"}))

    assert "lib/libx.so" in {file.path for file in files}


@pytest.mark.parametrize("cut", [1, 100, 400])
def test_a_wheel_that_is_cut_short_is_refused(tmp_path: Path, opened: list[WheelArchive], cut: int) -> None:
    with pytest.raises(WheelError):
        install(tmp_path, opened, wheel({"demo/x.py": b"x" * 1000})[:-cut])


def test_a_file_whose_bytes_are_not_those_of_the_directory_is_refused(
    tmp_path: Path, opened: list[WheelArchive]
) -> None:
    data = bytearray(wheel({"demo/x.bin": bytes(range(256)) * 40}))
    at = data.find(b"demo/x.bin") + len("demo/x.bin") + 30
    data[at] ^= 0xFF
    with pytest.raises(WheelError, match=r"demo/x\.bin"):
        install(tmp_path, opened, bytes(data))


@pytest.mark.timeout(30)
def test_bytes_behind_a_files_stream_are_not_read_for_ever(tmp_path: Path, opened: list[WheelArchive]) -> None:
    """A stream of several pieces ends, and the decompressor hands back what lies behind it, again and again."""
    made = io.BytesIO(wheel({}))
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo/x.py", b"#" * (16 << 20))
    data = bytearray(made.getvalue())
    directory, end = data.rindex(b"demo/x.py") - 46, data.rindex(b"PK\x05\x06")
    (packed,) = struct.unpack_from("<I", data, directory + 20)
    (start,) = struct.unpack_from("<I", data, end + 16)
    more = 1000
    struct.pack_into("<I", data, directory + 20, packed + more)
    struct.pack_into("<I", data, end + 16, start + more)
    behind = data.index(b"demo/x.py") + len("demo/x.py") + packed
    data[behind:behind] = bytes(more)

    _, contents = install(tmp_path, opened, bytes(data))

    assert 16 << 20 == len(contents[f"{SITE}/demo/x.py"])


def test_a_wheel_that_is_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "demo.whl"
    path.write_bytes(wheel({"demo/data.bin": bytes(range(256)) * 64}))

    with WheelArchive(path, path.name) as archive:
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(WheelError, match=r"^demo\.whl: the file was cut short while it was read$"):
            [archive.read(one.member) for one in archive.files]

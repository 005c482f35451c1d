"""Wheels that attack whoever installs them: `assay assemble` refuses each, names wheel and file, and keeps nothing."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
from assembly_tools import AssemblyProject, image_files, simple_index
from wheels import serving, wheel_bytes

from assay.cli import main

NAME: Final = "demo-1.0-py3-none-any.whl"
INFO: Final = "demo-1.0.dist-info"
BIG: Final = 15 << 30


def made(files: Mapping[str, bytes | tuple[bytes, int]]) -> bytes:
    """Return a wheel; a file may have a mode beside its bytes."""
    out = io.BytesIO()
    everything = {
        f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{INFO}/RECORD": b"",
        **files,
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, what in everything.items():
            data, mode = what if isinstance(what, tuple) else (what, stat.S_IFREG | 0o644)
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, data)
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO(made({"demo/x.py": b"a = 1\n"}))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("demo/x.py", b"b = 2\n")
    return out.getvalue()


def patched(name: str, change: Callable[[bytearray, int, int], None]) -> bytes:
    """Return a wheel with a change to one file's entry in the directory (at the first number), or header (second)."""
    data = bytearray(made({name: b"x" * 4000}))
    change(data, data.rfind(name.encode()) - 46, data.find(name.encode()) - 30)
    return bytes(data)


def encrypted() -> bytes:
    def change(data: bytearray, entry: int, header: int) -> None:
        data[entry + 8] |= 1
        data[header + 6] |= 1

    return patched("demo/secret.py", change)


def sized(size: int) -> bytes:
    """Return a wheel with a file that says another size than its bytes unpack to."""

    def change(data: bytearray, entry: int, header: int) -> None:
        struct.pack_into("<I", data, entry + 24, size)

    return patched("demo/lies.bin", change)


def longer() -> bytes:
    """Return a wheel of a few kilobytes with a file that says ten bytes, and unpacks to a gigabyte."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = b"".join(pack.compress(bytes(1 << 20)) for _ in range(1 << 10)) + pack.flush()
    return raw(("demo/bomb.bin", stream, 10, 10))


def bomb() -> bytes:
    """Return a wheel whose files have 45 GiB unpacked, each in keeping with what deflate can do."""
    packed = bytes(BIG // 1032 + 1024)
    return raw(*((f"demo/{number}.bin", packed, BIG, 8) for number in range(3)))


def raw(*files: tuple[str, bytes, int, int]) -> bytes:
    """Return a wheel with files of compressed bytes and claimed sizes, whatever they are."""
    data = bytearray(made({}))
    end = data.rfind(b"PK\5\6")
    count, length, start = struct.unpack_from("<HII", data, end + 10)
    directory, data = data[start : start + length], data[:start]
    for name, packed, size, _ in files:
        at = len(data)
        text = name.encode()
        # Sizes of more than four bytes stand in a zip64 field.
        extra = struct.pack("<HHQ", 1, 8, size) if size >= 1 << 32 else b""
        short = min(size, 0xFFFFFFFF)
        data += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 8, 0, 33, 0, len(packed), short, len(text), 0) + text
        data += packed
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 8, 0, 33, 0, len(packed), short, len(text), len(extra), 0, 0,
            0, 0o100644 << 16, at,
        ) + text + extra  # fmt: skip
    count += len(files)
    place = len(data)
    data += directory
    data += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), place, 0)
    return bytes(data)


def overlapping() -> bytes:
    def change(data: bytearray, entry: int, header: int) -> None:
        # The file's entry points at the first file of the archive.
        struct.pack_into("<I", data, entry + 42, 0)

    return patched("demo/again.bin", change)


HOSTILE: Final[dict[str, tuple[Callable[[], bytes], str, str]]] = {
    "a path that climbs": (lambda: made({"../../../etc/cron.d/x": b"*"}), "../../../etc/cron.d/x", "leads out"),
    "a path that climbs later": (lambda: made({"demo/../../x.py": b""}), "demo/../../x.py", "leads out"),
    "an absolute path": (lambda: made({"/etc/passwd": b"root"}), "/etc/passwd", "leads out"),
    "data that climbs": (
        lambda: made({"demo-1.0.data/data/../../../etc/x": b""}), "demo-1.0.data/data/../../../etc/x", "leads out",
    ),
    "a script that climbs": (
        lambda: made({f"{INFO}/entry_points.txt": b"[console_scripts]\n../../x = a:b\n"}), "../../x", "leads out",
    ),
    "a link out": (
        lambda: made({"demo/link": (b"/etc/passwd", stat.S_IFLNK | 0o777)}), "demo/link", "link or a device",
    ),
    "a device": (lambda: made({"demo/tty": (b"", stat.S_IFCHR | 0o666)}), "demo/tty", "link or a device"),
    "a name with a newline": (lambda: made({"demo/a\nb.py": b""}), "demo/a\\nb.py", "control characters"),
    "a name with an escape": (lambda: made({"demo/\x1b[2J.py": b""}), "demo/\\x1b[2J.py", "control characters"),
    "a name with a backslash": (lambda: made({"demo\\..\\x.py": b""}), "demo\\\\..\\\\x.py", "control characters"),
    "a file twice": (twice, "demo/x.py", "twice"),
    "two files for one path": (
        lambda: made({"x.py": b"1", "demo-1.0.data/purelib/x.py": b"2"}), "x.py", "installed twice",
    ),
    "an encrypted file": (encrypted, "demo/secret.py", "encrypted"),
    "a file that is shorter than it says": (lambda: sized(4100), "demo/lies.bin", "damaged"),
    "a file that is longer than it says": (lambda: sized(3000), "demo/lies.bin", "damaged"),
    "a size that no compression gives": (lambda: sized(200 << 20), "demo/lies.bin", "claims"),
    "a bomb that says ten bytes": (longer, "demo/bomb.bin", "damaged"),
    "a bomb that says what it is": (bomb, "demo/2.bin", "more than 32 GiB"),
    "files that overlap": (overlapping, "demo/again.bin", "overlap"),
    "a source of 70 MB": (lambda: made({"demo/big.py": b"#" * (70 << 20)}), "demo/big.py", "more than 64 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_wheel_is_refused_by_wheel_and_file(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, member, why = HOSTILE[what]
    data = make()
    good = {"other-1.0-py3-none-any.whl": wheel_bytes("other", "1.0", {"other.py": b"x = 1\n"})}
    with serving() as (server, host):
        server.files.update(simple_index({NAME: data, **good}))
        project = AssemblyProject(root=tmp_path / "project", index=f"{host}/simple", wheels={NAME: data, **good})
        for name, value in project.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(project.root)
        before = project.check_store()
        code = main(["assemble", "--output", "oci:out"])
        said = "".join(capsys.readouterr().err.split())
        kept = project.check_store() - before

        assert code == 1
        assert "demo" in said
        assert "".join(member.split()) in said
        assert "".join(why.split()) in said
        assert "\x1b" not in said
        assert not (project.root / "out").exists()
        assert project.leftovers() == []
        # The account, the environment, and the layer of the other wheel, where that is another one.
        assert kept <= 3

        server.files.clear()
        server.files.update(simple_index(mended := {NAME: made({"demo.py": b"y = 2\n"}), **good}))
        project.lock(mended)

        assert main(["assemble", "--output", "oci:out"]) == 0
        files = image_files(project.root / "out")
        assert {"demo.py", "other.py"} <= {path.rpartition("/")[2] for path in files}
        assert not [path for path in files if path.startswith("etc/cron")]
        assert files["etc/passwd"].startswith(b"root:x:0:0:root")

"""Compilers of bytecode keep to their memory and time: a source that needs more is named and refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from assay.adapters.layers import bytecode
from assay.adapters.layers.bytecode import Compilers, SharedCompilers
from assay.adapters.layers.compile_program import SECONDS
from assay.errors import ToolError

LARGE = b"a\n" * 700_000
"""Takes some 300 MB and a second or more to compile."""


def test_a_source_that_takes_too_much_memory_is_named_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "MEMORY", 160 << 20)

    with Compilers([sys.executable], count=1, environment={}) as compilers:
        assert compilers.submit("small.py", b"a = 1\n").result(60)
        with pytest.raises(ToolError, match=r"compiled evil/large\.py") as caught:
            compilers.submit("evil/large.py", LARGE).result(60)
    assert "is memory short?" in (caught.value.hint or "")


def test_a_source_that_takes_too_long_is_named_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = f"SECONDS = {SECONDS}\n"
    text = bytecode.PROGRAM.read_text()
    hurried = tmp_path / "compile_program.py"
    hurried.write_text(
        text.replace(limit, "SECONDS = 1\n").replace(
            "code = compile(", "while b'slow' in source: pass\n        code = compile("
        )
    )
    monkeypatch.setattr(bytecode, "PROGRAM", hurried)

    assert limit in text
    with Compilers([sys.executable], count=1, environment={}) as compilers:
        assert compilers.submit("small.py", b"a = 1\n").result(60)
        with pytest.raises(ToolError, match=r"compiled evil/slow\.py"):
            compilers.submit("evil/slow.py", b"slow = 1\n").result(60)


def test_what_two_images_have_in_common_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    one = Compilers._one

    def noted(self: Compilers, path: bytes, source: bytes) -> bytes:
        asked.append(path)
        return one(self, path, source)

    monkeypatch.setattr(Compilers, "_one", noted)
    shared = SharedCompilers(lambda: Compilers([sys.executable], count=1, environment={}), tmp_path)
    with shared.used() as first:
        with shared.used() as second:
            found = [user.submit("/a.py", b"a = 1\n") for user in (first, second)]
            other = [first.submit("/b.py", b"a = 1\n"), first.submit("/a.py", b"a = 2\n"), first.submit("/c.py", b"(")]
            data = [future.result(60) for future in (*found, *other)]
        again = first.submit("/a.py", b"a = 1\n").result(60)
    with shared.used() as later:
        last = [later.submit(path, source).result(60) for path, source in (("/a.py", b"a = 1\n"), ("/c.py", b"("))]

    assert asked == [b"/a.py", b"/b.py", b"/a.py", b"/c.py"]
    assert data[0] == data[1] == again == last[0]
    assert len(set(data)) == 4
    assert data[4] == last[1] == b""
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_compiled_or_kept_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedCompilers(lambda: Compilers([sys.executable], count=1, environment={}), tmp_path / "missing")
    with shared.used() as user:
        kept_nowhere = [user.submit("/a.py", b"a = 1\n").result(60) for _ in range(2)]
    with monkeypatch.context() as patch, shared.used() as user:
        patch.setattr(Compilers, "_one", lambda *_: (_ for _ in ()).throw(ToolError("no memory")))
        with pytest.raises(ToolError):
            user.submit("/b.py", b"b = 1\n").result(60)
        patch.undo()
        again = user.submit("/b.py", b"b = 1\n").result(60)

    assert kept_nowhere[0] == kept_nowhere[1] != b""
    assert again

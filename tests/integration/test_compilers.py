"""Compilers of bytecode keep to their memory and time: a source that needs more is named and refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from assay.adapters.layers import bytecode
from assay.adapters.layers.bytecode import Compilers
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

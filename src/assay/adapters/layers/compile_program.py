"""Runs in a base's own Python (3.9 on): compiles sources from standard input to bytecode on standard output.

A frame is a length (four bytes, big endian) and so many bytes: the path at run time, then the source. The answer is
one frame: the `.pyc`, or nothing for a source that this Python cannot compile.

The bytes depend on nothing but path, source and this Python. They are hash-based and unchecked (PEP 552). Which objects
of a code object are shared depends on what else the process holds (CPython issue 78274), and sharing decides the bytes;
so each is taken through marshal's format 2, which has no references, and only then written in the newest format.
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import signal
import struct
import sys
import types
import warnings

SECONDS = 300
"""Of one source; the alarm ends this program."""
_SMALL = 1 << 20


def compiled(path: str, source: bytes) -> bytes:
    """Return the .pyc of a source, or nothing."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, OverflowError, UnicodeError):
        return b""
    except MemoryError:
        # Of a small source: it nests too deeply for the parser.
        if len(source) > _SMALL:
            raise
        return b""
    with contextlib.suppress(ValueError):
        # Format 2 cannot express slices as constants (3.14 on).
        code = marshal.loads(marshal.dumps(code, 2))  # noqa: S302 - what was just made here
    kept = _objects(code) if sys.version_info < (3, 11) else []
    body = marshal.dumps(code)
    del kept
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(source) + body


def _objects(code: types.CodeType) -> list[object]:
    """Return references to all objects of a code object: before 3.11 one with a single reference is written apart."""
    kept: list[object] = []
    todo: list[object] = [code]
    while todo:
        one = todo.pop()
        kept.append(one)
        if isinstance(one, types.CodeType):
            todo += [one.co_consts, one.co_names, one.co_filename, one.co_name]
        elif isinstance(one, (tuple, frozenset)):
            todo += list(one)
    return kept


def main() -> None:
    warnings.simplefilter("ignore")
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while head := stdin.read(4):
        path = stdin.read(struct.unpack(">I", head)[0]).decode("utf-8", "surrogateescape")
        source = stdin.read(struct.unpack(">I", stdin.read(4))[0])
        signal.alarm(SECONDS)
        answer = compiled(path, source)
        signal.alarm(0)
        stdout.write(struct.pack(">I", len(answer)))
        stdout.write(answer)
        stdout.flush()


if __name__ == "__main__":
    main()

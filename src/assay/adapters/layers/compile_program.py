"""Runs in a base's own Python (3.9 on): compiles sources from standard input to bytecode on standard output.

A frame is a length (four bytes, big endian) and so many bytes: the path at run time, then the source. The answer is
one frame: the `.pyc`, or nothing for a source that this Python cannot compile.

The bytes depend on nothing but path, source and this Python: hash-based, unchecked (PEP 552), and marshalled in a
format without references, whose flags would depend on what else the process holds (CPython issue 78274). Format 2 has
none; what it cannot express (slices as constants, from 3.14 on) is written in the newest format.
"""

import importlib.util
import marshal
import struct
import sys
import warnings


def compiled(path: str, source: bytes) -> bytes:
    """Return the .pyc of a source, or nothing."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, UnicodeError):
        return b""
    try:
        body = marshal.dumps(code, 2)
    except ValueError:
        body = marshal.dumps(code)
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(source) + body


def main() -> None:
    warnings.simplefilter("ignore")
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while head := stdin.read(4):
        path = stdin.read(struct.unpack(">I", head)[0]).decode("utf-8", "surrogateescape")
        source = stdin.read(struct.unpack(">I", stdin.read(4))[0])
        answer = compiled(path, source)
        stdout.write(struct.pack(">I", len(answer)))
        stdout.write(answer)
        stdout.flush()


if __name__ == "__main__":
    main()

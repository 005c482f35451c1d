# ruff: noqa: INP001
"""Writes knowledge/python_abi.txt from interpreters: `python tools/python_abi.py PREFIX... > knowledge/python_abi.txt`.

Each PREFIX is where a CPython is installed. Its exported C symbols are read from libpython or, where there is none,
from the program itself.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from pathlib import Path

from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf


def exports(prefix: Path) -> tuple[str, set[str]]:
    """Return the minor version and the exported names of the interpreter in a folder."""
    found = sorted(prefix.glob("lib/libpython3.*.so.1.0")) or sorted(prefix.glob("bin/python3.[0-9]*"))
    file = next(path for path in found if re.search(r"3\.\d+", path.name) and not path.name.endswith("config"))
    match = re.search(r"python(3\.\d+)", file.name)
    assert match, file
    symbols = read_elf(FileImage(file.read_bytes())).symbols
    return match.group(1), {symbol.name for symbol in symbols if symbol.exported and re.match(r"_?Py", symbol.name)}


def main() -> None:
    """Print the table: one symbol a line with the minors that have it."""
    table: dict[str, set[str]] = {}
    minors = []
    for argument in sys.argv[1:]:
        minor, names = exports(Path(argument))
        minors.append(minor)
        for name in names:
            table.setdefault(name, set()).add(minor)
    minors.sort(key=lambda text: int(text.partition(".")[2]))
    print("# C symbols that CPython's own library exports, by minor version (tools/python_abi.py)")
    print(f"# date: {dt.datetime.now(dt.UTC).date()}")
    print("minors " + " ".join(minors))
    for name, having in sorted(table.items()):
        print(name if having == set(minors) else f"{name} {' '.join(m for m in minors if m in having)}")


if __name__ == "__main__":
    main()

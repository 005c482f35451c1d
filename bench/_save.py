"""Runs a benchmark and writes what it prints to docs/benchmarks: `python bench/_save.py NAME [ARGUMENT...]`.

`docs/generate.py` makes docs/benchmarks.md of these files.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "benchmarks"


def main(name: str, *arguments: str) -> int:
    """Run `bench/NAME.py`, show its output and save it; return its exit code."""
    program = HERE / f"{name}.py"
    lines: list[str] = []
    with subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if running.returncode:
        return running.returncode
    document = {
        "version": 1,
        "title": (program.read_text("utf-8").split('"""', 2)[1].splitlines()[0]).strip(),
        "command": " ".join(["python", f"bench/{name}.py", *arguments]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}",
        "output": lines,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{'-'.join([name, *(word for word in arguments if word.isalnum())])}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

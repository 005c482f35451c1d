"""The audit of aarch64 wheels against the linker of an arm64 Debian, emulated, and against cuobjdump.

python bench/linker_arm64.py ROOT CELL EMULATOR [EXTENSION==VERSION]...

ROOT is an arm64 image of CELL, assembled by `assay assemble` and unpacked; EMULATOR is qemu-aarch64-static. The image's
own ld.so traces each library of the cell's wheels (LD_TRACE_LOADED_OBJECTS with LD_BIND_NOW and LD_WARN, as `ldd -r`
does), beside torch's and NVIDIA's libraries, which importing torch loads, and a stub of the driver. Extensions are
installed into a folder of their own and traced against the same image. Names of Python's own functions do not count:
its program has them. ziglang compiles the stub; it and cuobjdump come from the package index.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from linker import AUDITOR, INDEX, KNOWLEDGE, targets

from assay.adapters.files.project import ProjectFiles
from assay.adapters.index.uv import uv_program
from assay.audit.audit import broken_libraries
from assay.audit.context import Context
from assay.audit.installation import Base, Installation
from assay.matrix.plan import make
from assay.pipeline.wheel_choice import choose_wheel
from assay.wheels.facts import WheelFacts, installed_path
from assay.wheels.symbols import is_driver_symbol

PYTHON = "3.11"
AARCH64 = ("--python-version", PYTHON, "--python-platform", "aarch64-manylinux_2_36")


def install(folder: Path, *words: str) -> None:
    argv = [uv_program(), "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", folder]
    subprocess.run([*argv, *words], check=True)


def stub(folder: Path, zig: Path, wheels: list[WheelFacts]) -> None:
    names = {name for wheel in wheels for library in wheel.libraries for name in library.names}
    source = "\n".join(f"int {name}(void) {{ return 100; }}" for name in sorted(names) if is_driver_symbol(name))
    for soname in ("libcuda.so.1", "libnvidia-ml.so.1"):
        argv = [zig, "cc", "-target", "aarch64-linux-gnu", "-shared", "-fPIC", "-x", "c", "-"]
        subprocess.run([*argv, f"-Wl,-soname,{soname}", "-o", folder / soname], input=source.encode(), check=True)


def faults(library: Path, root: Path, emulator: str, search: str) -> list[str]:
    """Return what the linker of the image lacks for a library."""
    env = {"LD_LIBRARY_PATH": search, "LD_TRACE_LOADED_OBJECTS": "1", "LD_BIND_NOW": "1", "LD_WARN": "1"}
    argv = [emulator, "-L", root, root / "lib/ld-linux-aarch64.so.1", library]
    done = subprocess.run(argv, env=os.environ | env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    undefined = [name for name in re.findall(r"undefined symbol: (\S+)", said) if not re.match(r"_?Py", name)]
    absent = re.findall(r"(\S+) => not found", said) + re.findall(r"version `[^']+' not found", said)
    return [*dict.fromkeys([*absent, *undefined])]


def compare(
    wheels: list[WheelFacts], asked: set[str], folder: Path, given: argparse.Namespace, *, search: str
) -> list[bool]:
    root = given.root
    names = (root / "usr/lib/aarch64-linux-gnu", root / "usr/lib")
    base = Base(
        name="Debian 12", glibc="2.36", sonames=frozenset(path.name for one in names for path in one.glob("*.so*"))
    )
    installation = Installation(wheels=tuple(wheels), python=PYTHON, base=base, complete=False, machine="aarch64")
    context = Context(installation=installation, knowledge=KNOWLEDGE)
    broken = broken_libraries(context)
    equal: list[bool] = []
    for one in context.roots:
        path = folder / installed_path(one.library.path)
        if one.wheel.name not in asked or not path.is_file():
            continue
        said = faults(path, root, given.emulator, search)
        absent = sorted(item.soname for item in one.closure.missing)
        why = broken.get(one.library.path) or (absent[0] if absent else "")
        equal.append(bool(said) == bool(why))
        if said or why:
            mark = "equal" if equal[-1] else "DIFFERENT"
            print(f"{mark:9} {one.wheel.name} {one.library.name} ld.so: {said[:2]} | audit: {why[:90]}", flush=True)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("cell")
    parser.add_argument("emulator")
    parser.add_argument("extensions", nargs="*")
    given = parser.parse_args()
    files = ProjectFiles(Path(__file__).parents[1])
    cell = next(cell for cell in make(files.load()).cells if cell.id == given.cell)
    lock = files.lock(cell)
    assert lock is not None
    wheels = list(AUDITOR.known(lock))
    site = given.root / f"opt/venv/lib/python{PYTHON}/site-packages"
    equal: list[bool] = []
    alike: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="assay-linker-") as name:
        work = Path(name)
        install(work / "tool", "ziglang", "nvidia-cuda-cuobjdump")
        tool = next((work / "tool").rglob("bin/cuobjdump"))
        extensions = [AUDITOR.read(choose_wheel(word, PYTHON, INDEX, "aarch64")) for word in given.extensions]
        stub(work, work / "tool/ziglang/zig", [*wheels, *extensions])
        folders = {path.parent for path in site.glob("nvidia/**/*.so*")}
        search = ":".join(map(str, [work, site / "torch/lib", *sorted(folders)]))
        own = {wheel.name for wheel in wheels if not wheel.name.startswith(("nvidia-", "torch-", "triton"))} - {"torch"}
        equal += compare(wheels, own, site, given, search=search)
        for number, (word, extension) in enumerate(zip(given.extensions, extensions, strict=True)):
            folder = work / f"e{number}"
            install(folder, *AARCH64, word)
            others = [wheel for wheel in wheels if wheel.name != extension.name]
            equal += compare([*others, extension], {extension.name}, folder, given, search=search)
            verdicts = (targets(one, folder / installed_path(one.path), tool) for one in extension.libraries)
            alike += [verdict for verdict in verdicts if verdict is not None]
    print(f"dynamic linker: {sum(equal)} of {len(equal)} verdicts equal")
    print(f"GPU targets: equal to cuobjdump on {sum(alike)} of {len(alike)} libraries")
    return 0 if all(equal) and all(alike) else 1


if __name__ == "__main__":
    raise SystemExit(main())

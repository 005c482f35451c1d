"""The audit against the real dynamic linker and cuobjdump, on real wheels: how often do they agree.

python bench/linker.py [--torch VERSION]... [--emulator PROGRAM] [EXTENSION==VERSION]...

Installs each torch and each extension into a folder of its own (gigabytes, removed in the end), loads every library
of the extension in a process of its own (RTLD_NOW, after `import torch`, with a stub in place of the driver), and
compares with what the audit says from the wheels. GPU targets are compared with cuobjdump, from the package index.

With --emulator (qemu-aarch64-static) the wheels are those for aarch64, and the linker and Python are those of an arm64
Debian, unpacked for this and removed in the end.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.index.uv import uv_program
from assay.adapters.layers.unpacked import UnpackedBases
from assay.audit.audit import broken_libraries
from assay.audit.context import Context
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import DispatchFile
from assay.audit.linker import Where
from assay.foundation.platforms import Platform
from assay.matrix.model import BootstrapBase
from assay.pipeline.audit import Auditor
from assay.pipeline.wheel_choice import choose_wheel
from assay.wheels.facts import Library, WheelFacts, installed_path
from assay.wheels.symbols import is_driver_symbol

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TORCH = ("2.8.0", "2.9.1")
EXTENSIONS = ("sgl-kernel==0.3.9.post2", "vllm==0.11.0", "torchvision==0.23.0", "torchaudio==2.8.0",
              "xformers==0.0.32.post1")  # fmt: skip
# Every library is required: every fault is one, however little the package may need it, and all of them are tried.
REAL = load_knowledge()
REQUIRED = tuple(item.model_copy(update={"use": "required", "targets": ()}) for item in REAL.dispatch.libraries)
KNOWLEDGE = replace(REAL, dispatch=DispatchFile(version="1", libraries=REQUIRED, features={}))
INDEX = SimpleIndex()
AUDITOR = Auditor(index=INDEX, wheels=WebWheels(), facts=FactsCache(), knowledge=KNOWLEDGE)
LOAD = """
import ctypes, os, sys, torch
for path in sys.argv[1:]:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        said = "loads"
        try:
            ctypes.CDLL(path, mode=os.RTLD_NOW)
        except OSError as error:
            said = str(error).replace(chr(10), " ")
        print("@", said, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("@ died while it was loaded", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where libraries are loaded: this one, or one that is emulated on the files of an arm64 Debian."""

    name: str
    python: str
    run: tuple[str | Path, ...]
    """Runs Python."""
    options: tuple[str, ...] = ()
    """Of uv, so that it takes the wheels for it."""
    root: Path = Path("/")
    compiler: tuple[str | Path, ...] = ("gcc",)

    @classmethod
    def emulated(cls, emulator: str, work: Path) -> Machine:
        base = BootstrapBase(
            kind="bootstrap", distribution="debian", suite="bookworm", python="3.11", glibc="2.36",
            packages=("libgomp1", "libnuma1", "libstdc++6", "python3"),
        )  # fmt: skip
        root, layout = work / "root", work / "layout"
        root.mkdir()
        layout.mkdir()
        UnpackedBases().write(base, "bench/base:1", work / "base.tar", lambda _: None, Platform.ARM64)
        subprocess.run(["tar", "-xf", work / "base.tar", "-C", layout], check=True)
        largest = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        subprocess.run(["tar", "-xf", largest, "-C", root], check=True)
        here = cls(name="x86_64", python=PYTHON, run=(sys.executable,))
        here.install(work / "tool", work / "cache", "ziglang")
        return cls(
            name="aarch64", python="3.11", root=root, run=(emulator, "-L", root, root / "usr/bin/python3.11"),
            options=("--python-version", "3.11", "--python-platform", "aarch64-manylinux_2_36"),
            compiler=(work / "tool/ziglang/zig", "cc", "-target", "aarch64-linux-gnu"),
        )  # fmt: skip

    def install(self, folder: Path, cache: Path, *words: str) -> None:
        subprocess.run(
            [uv_program(), "pip", "install", "-q", "--cache-dir", cache, "--python", sys.executable, *self.options,
             "--target", folder, *words], check=True,
        )  # fmt: skip

    def facts(self, word: str) -> WheelFacts:
        return AUDITOR.read(choose_wheel(word, self.python, INDEX, self.name))

    def base(self) -> Base:
        """Return the machine as the linker will see it."""
        if self.name == "x86_64":
            return here()
        folders = (self.root / "usr/lib/aarch64-linux-gnu", self.root / "usr/lib")
        sonames = frozenset(path.name for folder in folders for path in folder.glob("*.so*"))
        return Base(name="Debian 12", glibc="2.36", sonames=sonames)

    def load(self, libraries: list[Path], site: Path, driver: Path) -> list[str]:
        """Return of each library `loads`, or what the linker says."""
        done = subprocess.run(
            [*self.run, "-c", LOAD, *libraries],
            env={**os.environ, "PYTHONPATH": str(site), "LD_LIBRARY_PATH": str(driver), "LD_BIND_NOW": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = [line[2:] for line in done.stdout.splitlines() if line.startswith("@ ")]
        if len(said) != len(libraries):
            raise SystemExit(f"torch cannot be imported: {done.stderr[-600:]}")
        return said


def here() -> Base:
    """This machine, as the linker will see it."""
    said = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    glibc = os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0"
    sonames = frozenset(line.split()[0] for line in said.splitlines()[1:] if line.strip())
    return Base(name="this machine", glibc=glibc.split()[1], sonames=sonames)


def stub(folder: Path, wheels: list[WheelFacts], machine: Machine) -> None:
    """A driver with every function anybody asks for, none of which is called while loading."""
    names = {name for wheel in wheels for library in wheel.libraries for name in library.names}
    source = "\n".join(f"int {name}(void) {{ return 100; }}" for name in sorted(names) if is_driver_symbol(name))
    for soname in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run(
            [*machine.compiler, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{soname}", "-o", folder / soname],
            input=source.encode(), check=True,
        )  # fmt: skip


def compare(
    extension: WheelFacts, folder: Path, torch: str, *, site: Path, driver: Path, machine: Machine
) -> list[bool]:
    rest = [
        machine.facts(f"{found.metadata['Name']}=={found.version}")
        for found in distributions(path=[str(site)])
        if found.metadata["Name"] == "torch" or found.metadata["Name"].startswith(("nvidia-", "triton"))
    ]
    installation = Installation(
        wheels=(extension, *rest), python=machine.python, base=machine.base(), complete=False, machine=machine.name
    )
    context = Context(installation=installation, knowledge=KNOWLEDGE)
    broken = broken_libraries(context)
    stub(driver, [extension, *rest], machine)
    roots = [root for root in context.roots if root.wheel is extension]
    answers = machine.load([folder / installed_path(root.library.path) for root in roots], site, driver)
    equal: list[bool] = []
    for root, said in zip(roots, answers, strict=True):
        absent = sorted(
            f"{item.soname} is {'missing' if item.where is Where.MISSING else 'where the linker does not look'}"
            for item in root.closure.missing
        )
        why = broken.get(root.library.path) or (absent[0] if absent else "")
        equal.append((said == "loads") == (not why))
        mark = "equal" if equal[-1] else "DIFFERENT"
        print(f"{mark:9} torch {torch:7} {extension.name:13} {root.library.name:44} "
              f"{said.split(': ', 1)[-1][:110]} | audit: {why or 'loads'}", flush=True)  # fmt: skip
    return equal


def targets(library: Library, path: Path, tool: Path) -> bool | None:
    """Whether our targets are cuobjdump's; it leaves out the suffix f of machine code."""
    if library.gpu is None or library.scope != "full":
        return None
    done = subprocess.run([tool, "--list-elf", "--list-ptx", path], capture_output=True, text=True, check=False)
    if "fatal" in done.stderr:
        print(f"NOT COMPARED {path.name}: {done.stderr.strip().partition(' in ')[0]}; here {library.gpu.sass}")
        return None
    theirs = set(re.findall(r"\.(sm_\d+a?)\.(?:cubin|ptx)", done.stdout))
    ours = {f"sm_{target.removesuffix('f')}" for target in library.gpu.sass}
    ours |= {f"sm_{target.partition('@')[0].removesuffix('f')}" for target in library.gpu.ptx}
    if ours != theirs:
        print(f"DIFFERENT targets of {path.name}: {sorted(ours)} here, {sorted(theirs)} of cuobjdump")
    return ours == theirs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="append", metavar="VERSION")
    parser.add_argument("--emulator", metavar="PROGRAM", help="judge wheels for aarch64 with this emulator")
    parser.add_argument("extensions", nargs="*", metavar="NAME==VERSION")
    given = parser.parse_args()
    equal: list[bool] = []
    alike: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="assay-linker-") as name:
        work = Path(name)
        here = Machine(name="x86_64", python=PYTHON, run=(sys.executable,))
        machine = Machine.emulated(given.emulator, work) if given.emulator else here
        here.install(work / "tool", work / "cache", "nvidia-cuda-cuobjdump")
        tool = next((work / "tool").rglob("bin/cuobjdump"))
        extensions = {word: machine.facts(word) for word in given.extensions or EXTENSIONS}
        for index, (word, extension) in enumerate(extensions.items()):
            machine.install(work / f"e{index}", work / "cache", "--no-deps", word)
            for library in extension.libraries:
                verdict = targets(library, work / f"e{index}" / installed_path(library.path), tool)
                alike += [] if verdict is None else [verdict]
        print(f"GPU targets: equal to cuobjdump on {sum(alike)} of {len(alike)} libraries", flush=True)
        for torch in given.torch or TORCH:
            site, driver = work / f"t{torch}", work / f"d{torch}"
            driver.mkdir()
            machine.install(site, work / "cache", f"torch=={torch}")
            for index, extension in enumerate(extensions.values()):
                equal += compare(extension, work / f"e{index}", torch, site=site, driver=driver, machine=machine)
        print(f"dynamic linker: {sum(equal)} of {len(equal)} verdicts equal ({machine.name})")
    return 0 if all(equal) and all(alike) else 1


if __name__ == "__main__":
    raise SystemExit(main())

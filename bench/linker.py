"""The audit against the real dynamic linker and cuobjdump, on real wheels: how often do they agree.

python bench/linker.py [--torch VERSION]... [EXTENSION==VERSION]...

Installs each torch and each extension into a folder of its own (gigabytes, removed in the end), loads every library
of the extension in a process of its own (RTLD_NOW, after `import torch`, with a stub in place of the driver), and
compares with what the audit says from the wheels. GPU targets are compared with cuobjdump, from the package index.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.index.uv import uv_program
from assay.audit.audit import broken_libraries
from assay.audit.context import Context
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import DispatchFile
from assay.audit.linker import Where
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
LOAD = "import ctypes, sys, torch; ctypes.CDLL(sys.argv[1])"


def install(folder: Path, cache: Path, *words: str) -> None:
    subprocess.run(
        [uv_program(), "pip", "install", "-q", "--cache-dir", cache, "--python", sys.executable, "--target", folder,
         *words], check=True,
    )  # fmt: skip


def facts(word: str) -> WheelFacts:
    return AUDITOR.read(choose_wheel(word, PYTHON, INDEX))


def here() -> Base:
    """This machine, as the linker will see it."""
    said = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    glibc = os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0"
    sonames = frozenset(line.split()[0] for line in said.splitlines()[1:] if line.strip())
    return Base(name="this machine", glibc=glibc.split()[1], sonames=sonames)


def stub(folder: Path, wheels: list[WheelFacts]) -> None:
    """A driver with every function anybody asks for, none of which is called while loading."""
    names = {name for wheel in wheels for library in wheel.libraries for name in library.names}
    source = "\n".join(f"int {name}(void) {{ return 100; }}" for name in sorted(names) if is_driver_symbol(name))
    for soname in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{soname}", "-o", folder / soname],
            input=source.encode(), check=True,
        )  # fmt: skip


def loads(library: Path, site: Path, driver: Path) -> tuple[bool, str]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, library],
        env={**os.environ, "PYTHONPATH": str(site), "LD_LIBRARY_PATH": str(driver), "LD_BIND_NOW": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode == 0, f"exit {done.returncode}: {lines[-1].split(': ', 1)[-1][:110] if lines else ''}"


def compare(extension: WheelFacts, folder: Path, torch: str, site: Path, driver: Path) -> tuple[int, int]:
    rest = [
        facts(f"{found.metadata['Name']}=={found.version}")
        for found in distributions(path=[str(site)])
        if found.metadata["Name"] == "torch" or found.metadata["Name"].startswith(("nvidia-", "triton"))
    ]
    installation = Installation(wheels=(extension, *rest), python=PYTHON, base=here(), complete=False)
    context = Context(installation=installation, knowledge=KNOWLEDGE)
    broken = broken_libraries(context)
    stub(driver, [extension, *rest])
    same = count = 0
    for root in context.roots:
        if root.wheel is not extension:
            continue
        absent = sorted(
            f"{item.soname} is {'missing' if item.where is Where.MISSING else 'where the linker does not look'}"
            for item in root.closure.missing
        )
        why = broken.get(root.library.path) or (absent[0] if absent else "")
        good, said = loads(folder / installed_path(root.library.path), site, driver)
        count += 1
        same += good == (not why)
        mark = "equal" if good == (not why) else "DIFFERENT"
        print(f"{mark:9} torch {torch:7} {extension.name:13} {root.library.name:44} "
              f"{'loads' if good else said} | audit: {why or 'loads'}", flush=True)  # fmt: skip
    return same, count


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
    parser.add_argument("extensions", nargs="*", metavar="NAME==VERSION")
    given = parser.parse_args()
    extensions = {word: facts(word) for word in given.extensions or EXTENSIONS}
    same = count = alike = compared = 0
    with tempfile.TemporaryDirectory(prefix="assay-linker-") as name:
        work = Path(name)
        install(work / "tool", work / "cache", "nvidia-cuda-cuobjdump")
        tool = next((work / "tool").rglob("bin/cuobjdump"))
        for index, (word, extension) in enumerate(extensions.items()):
            install(work / f"e{index}", work / "cache", "--no-deps", word)
            for library in extension.libraries:
                verdict = targets(library, work / f"e{index}" / installed_path(library.path), tool)
                compared += verdict is not None
                alike += verdict is True
        print(f"GPU targets: equal to cuobjdump on {alike} of {compared} libraries", flush=True)
        for torch in given.torch or TORCH:
            site, driver = work / f"t{torch}", work / f"d{torch}"
            driver.mkdir()
            install(site, work / "cache", f"torch=={torch}")
            for index, extension in enumerate(extensions.values()):
                equal, tried = compare(extension, work / f"e{index}", torch, site, driver)
                same, count = same + equal, count + tried
        print(f"dynamic linker: {same} of {count} verdicts equal")
    return 0 if (same, alike) == (count, compared) else 1


if __name__ == "__main__":
    raise SystemExit(main())

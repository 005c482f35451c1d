"""Sets of wheels and the reports that the audit gave of them: what changes no rule must change no byte of these.

`python tests/support/audit_corpus.py facts` records the locked cells of this project, from the facts kept on this
machine; `... reports` writes the reports anew, after a change of a rule that is meant to change them.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from wheels import facts, library

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.history import TorchHistory
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import (
    CompanionsFile,
    DispatchFile,
    Knowledge,
    NeedsFile,
    PtxFile,
    SharedFilesFile,
    SonamesFile,
)
from assay.matrix.plan import make
from assay.pipeline.bases import base_of, gpu_targets
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode
from assay.wheels.symbols import owner

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "audit"
FACTS, REPORTS = DATA / "facts.json.xz", DATA / "reports.json.xz"
NAMES = 30
"""Names of each owner that are kept of what a library asks for."""
KERNELS = 8
VARIED = 70
SMALL = 260
MIXED = 140


class Case(NamedTuple):
    """One set of wheels to be judged."""

    name: str
    installation: Installation
    targets: tuple[TargetGpu, ...]


def cases() -> Iterator[Case]:
    """Yield all sets: the locked cells, the same with something else put in, and random ones."""
    locked = _recorded()
    yield from locked
    yield from _varied(locked)
    yield from _small_sets()
    yield from _mixed_sets()


def report_of(case: Case, known: Mapping[str, list[WheelFacts]]) -> dict[str, Any]:
    """Return the report of a set, and what it is uncertain of."""
    audited = audit(case.installation, knowledge(), targets=case.targets, name=case.name, known=known)
    report = audited.report.model_dump(mode="json", exclude_defaults=True)
    return {"report": report, "uncertain": sorted(map(list, audited.uncertain))}


def releases() -> Mapping[str, list[WheelFacts]]:
    """Return the facts of all recorded wheels by distribution, for suggestions."""
    found: dict[str, list[WheelFacts]] = {}
    for wheel in _wheels().values():
        found.setdefault(wheel.name, []).append(wheel)
    return found


def reports() -> dict[str, dict[str, Any]]:
    """Return name of a set -> its report, as the rules give it now."""
    known = releases()
    return {case.name: report_of(case, known) for case in cases()}


def recorded_reports() -> dict[str, dict[str, Any]]:
    """Return the same as it was recorded."""
    found: dict[str, dict[str, Any]] = json.loads(lzma.decompress(REPORTS.read_bytes()))
    return found


# ----------------------------------------------------------------------------------------------------------- locked


@cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lzma.decompress(FACTS.read_bytes()))
    return found


@cache
def knowledge() -> Knowledge:
    """Return the knowledge that the reports rest on; of torch's history, the names that recorded wheels ask for."""
    kept = _data()["knowledge"]
    return Knowledge(
        sonames=SonamesFile.model_validate(kept["sonames"]),
        ptx=PtxFile.model_validate(kept["ptx"]),
        needs=NeedsFile.model_validate(kept["needs"]),
        dispatch=DispatchFile.model_validate(kept["dispatch"]),
        companions=CompanionsFile.model_validate(kept["companions"]),
        shared_files=SharedFilesFile.model_validate(kept["shared_files"]),
        history=TorchHistory.build({version: (cuda, names) for version, (cuda, names) in kept["history"].items()}),
        python={minor: frozenset(names) for minor, names in kept["python"].items()},
    )


@cache
def _wheels() -> dict[str, WheelFacts]:
    return {sha256: WheelFacts.model_validate(value) for sha256, value in _data()["wheels"].items()}


def _recorded() -> list[Case]:
    wheels = _wheels()
    return [
        Case(
            cell["name"],
            Installation(
                wheels=tuple(wheels[sha256] for sha256 in cell["wheels"]),
                python=cell["python"],
                base=_base(cell["base"]),
                complete=cell["complete"],
                named=cell["named"],
                overridden=frozenset(cell["overridden"]),
            ),
            tuple(TargetGpu(**target) for target in cell["targets"]),
        )
        for cell in _data()["cells"]
    ]


def _base(kept: Mapping[str, Any]) -> Base:
    sets: dict[str, Any] = {key: frozenset(kept[key]) for key in ("sonames", "packages")}
    environment = kept["environment"]
    sets["environment"] = None if environment is None else frozenset(environment)
    return Base(**{**kept, **sets, "libraries": (), "search": ()})


def _varied(locked: list[Case]) -> Iterator[Case]:
    """Yield locked cells with another torch, Python or base, with wheels left out, put in, or put in twice."""
    source = random.Random(21)
    every = sorted(_wheels().values(), key=lambda wheel: wheel.sha256)
    torches = [wheel for wheel in every if wheel.is_torch]
    native = [wheel for wheel in every if wheel.libraries]
    for number in range(VARIED):
        case = source.choice(locked)
        cell = case.installation
        wheels = list(cell.wheels)
        for _ in range(source.randrange(1, 4)):
            match source.randrange(5):
                case 0:
                    torch = source.choice(torches)
                    wheels = [torch if wheel.is_torch else wheel for wheel in wheels]
                case 1:
                    wheels = [wheel for wheel in wheels if source.random() < 0.9]
                case 2:
                    wheels.append(source.choice(native))
                case 3:
                    other = source.choice(every)
                    wheels = [other if wheel.name == other.name else wheel for wheel in wheels]
                case _:
                    wheels.insert(0, source.choice(wheels or native))
        changed = replace(
            cell,
            wheels=tuple(wheels),
            python=source.choice([cell.python, cell.python, "3.11", "3.13"]),
            base=source.choice([cell.base, source.choice(locked).installation.base, BASES[1], BASES[3]]),
            complete=source.random() < 0.7,
            installed=source.random() < 0.2,
            asked=frozenset(source.sample([wheel.name for wheel in wheels], 2))
            if source.random() < 0.3
            else frozenset(),
        )
        yield Case(f"varied {number}", changed, source.choice([case.targets, *TARGETS]))


# ----------------------------------------------------------------------------------------------------------- random

COMMON, SYM_NE = "_ZN3c105checkEv", "_ZNK3c106SymInt6sym_neERKS0_"
OLD_STRING = "_ZN5torch3jit17parseSchemaOrNameERKSs"
LIBRARIES = ("liba.so", "libb.so")
ASKED = (*LIBRARIES, "libc10.so", "libcudart.so.12", "libcudart.so.13", "libz.so.1", "libcuda.so.1", "libnowhere.so")
SYMBOLS = ("_ZN1aEv", "_ZN1bEv@A_1", COMMON, SYM_NE, OLD_STRING, "cudaMalloc", "PyUnstable_Long_IsCompact", "plain",
           "aoti_torch_new", "cuGreenCtxCreate", "cuMulticastCreate")  # fmt: skip
REQUIRES: tuple[dict[str, tuple[str, ...]], ...] = (
    {}, {"libc.so.6": ("GLIBC_2.34",)}, {"libc.so.6": ("GLIBC_2.38",)}, {"liba.so": ("A_2", "A_1")},
)  # fmt: skip
REQUIREMENTS = ("torch==2.8.0", "torch", "two>=2; extra == 'x'", "three<1", "gone")
SLIM = Base(name="slim", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=frozenset({"libz.so.1"}))
BASES = (
    SLIM,
    replace(SLIM, name="old", glibc="2.31"),
    replace(SLIM, name="bare", sonames=frozenset()),
    replace(SLIM, name="unknown", known=False),
    replace(SLIM, name="gcc", packages=frozenset({"gcc"}), environment=frozenset({"CUDA_HOME"})),
    replace(SLIM, name="closed", packages=frozenset({"cuda-toolkit"}), closed=True),
    Base(name="image", search=("/usr/lib/x",), libraries=(
        library("/usr/lib/libnuma.so.1"),
        library("/usr/lib/libc.so.6", soname="libc.so.6", provides=("GLIBC_2.34",)),
        library("/usr/lib/x/liba.so", soname="liba.so", defined=("_ZN1aEv",)),
    )),
)  # fmt: skip
TARGETS = (
    (TargetGpu(name="sm_120", capability=120, title="RTX 5090"),),
    (TargetGpu(name="sm_90", capability=90), TargetGpu(name="sm_120", capability=120)),
    (TargetGpu(name="sm_120", capability=120, driver_cuda="12.0"),),
    (),
)
CODE = ((("90",), ()), (("120",), ()), (("80",), ("80@8.7",)), (("90a",), ("90@8.0",)), ((), ("120@8.7",)))


def _small_torch(version: str, *more: str, listed: bool = False) -> WheelFacts:
    names = {"2.7.1": (COMMON, SYM_NE), "2.8.0": (COMMON, SYM_NE), "2.9.1": (COMMON, "_ZN2atB5cxx11Ev")}
    runtime = "$ORIGIN/../../nvidia/cuda_runtime/lib"
    scope = "listed" if listed else "full"
    return facts(
        "torch",
        version,
        library("torch/_C.cpython-311-x86_64-linux-gnu.so", needed=("libtorch_python.so",), rpath=("$ORIGIN/lib",),
                scope=scope),
        library("torch/lib/libtorch_global_deps.so", needed=("libcudart.so.12",), rpath=(runtime,), scope=scope),
        library("torch/lib/libtorch_python.so", needed=("libtorch_cuda.so", "libc10.so"), runpath=("$ORIGIN",),
                scope=scope),
        library("torch/lib/libtorch_cuda.so", needed=("libc10.so", "libcudart.so.12"), rpath=(runtime, "$ORIGIN"),
                sass=("90", "120"), scope=scope),
        library("torch/lib/libc10.so", defined=(*names[version], *more), scope=scope),
        sha256=f"torch {version} {more} {listed}", cuda="12.8",
    )  # fmt: skip


def _runtime(major: str) -> WheelFacts:
    name = f"libcudart.so.{major}"
    made = library(f"nvidia/cuda_runtime/lib/{name}", soname=name, defined=(f"cudaMalloc@@{name}",), provides=(name,))
    return facts(f"nvidia-cuda-runtime-cu{major}", f"{major}.8", made, sha256=f"runtime {major}")


def _small_library(source: random.Random, path: str, soname: str | None = None) -> Library:
    look = source.choice([(), ("$ORIGIN",), ("$ORIGIN/../own.libs",), ("$ORIGIN/../shared",)])
    rpath, runpath = source.choice([(look, ()), ((), look)])
    made = library(
        path,
        soname=soname,
        needed=tuple(source.sample(ASKED, source.randrange(1, 4))),
        undefined=tuple(source.sample(SYMBOLS, source.randrange(0, 4))),
        defined=tuple(source.sample(("_ZN1aEv", "_ZN1bEv@@A_1", "PyInit_m"), 1)),
        requires=source.choice(REQUIRES),
        provides=source.choice([(), ("A_1",), ("A_2",)]),
        scope=source.choice(["full", "full", "full", "prefix", "listed"]),
        rpath=rpath,
        runpath=runpath,
    )
    if source.random() < 0.1:
        return made.model_copy(update={"notes": {"pybind11_python": "3.11"}})
    return made.model_copy(update={"problem": "cut short"}) if source.random() < 0.03 else made


def _small_wheel(source: random.Random, name: str, number: int) -> WheelFacts:
    ends = (".abi3.so", ".cpython-311-x86_64-linux-gnu.so", "_torch28.so", "_cu12.abi3.so", "_cu13.abi3.so")
    modules = [f"{name}/m{source.choice(ends)}" for _ in range(source.randrange(1, 3))]
    places = source.sample(["own.libs", f"{name}.libs", "shared"], source.randrange(0, 3))
    beside = [(f"{place}/{file}", file) for place in places for file in LIBRARIES if source.random() < 0.6]
    made = [_small_library(source, path) for path in dict.fromkeys(modules)]
    made += [_small_library(source, *one) for one in beside]
    return facts(
        name, "1.0", *made,
        requires=tuple(source.sample(REQUIREMENTS, source.randrange(3))),
        files={"shared": f"a.py {source.choice('12')}"} if source.random() < 0.3 else {},
        sha256=f"small {name} {number}",
        requires_python=source.choice([None, ">=3.9", "<3.12"]),
    )  # fmt: skip


def _small_sets() -> Iterator[Case]:
    """Yield sets that ask for, bring and say whatever the rules about loading look at."""
    source = random.Random(22)
    for number in range(SMALL):
        names = source.sample(["one", "two", "three", "bitsandbytes", "torchcodec"], source.randrange(1, 5))
        wheels = [_small_wheel(source, name, number) for name in names]
        version = source.choice(["2.7.1", "2.8.0", "2.9.1"])
        torch = source.choice([(), (version,), (version,), (version, "_ZN1aEv"), (version, "aoti_torch_new")])
        if torch:
            wheels.append(_small_torch(*torch, listed=source.random() < 0.2))
        wheels += source.sample([_runtime("12"), _runtime("13")], source.randrange(3))
        cell = Installation(
            wheels=tuple(wheels),
            python=source.choice(["3.11", "3.12"]),
            base=source.choice(BASES),
            complete=source.random() < 0.6,
            named=source.random() < 0.2,
            installed=source.random() < 0.2,
            overridden=frozenset({"torch"}) if source.random() < 0.2 else frozenset(),
        )
        yield Case(f"small {number}", cell, source.choice(TARGETS))


VERSIONS = {
    "torch": ("2.8.0", "2.9.1"), "sglang": ("0.5.2", "0.5.6"), "sgl-kernel": ("0.3.9", "0.3.10"),
    "sglang-kernel": ("0.4.4",), "vllm": ("0.11.0", "0.12.0"), "flashinfer-python": ("0.3.0", "0.4.0"),
    "flashinfer-jit-cache": ("0.4.0",), "flash-attn": ("2.8.0",), "triton": ("3.1.0", "3.2.0", "3.4.0"),
    "nvidia-nccl-cu12": ("2.27.0",), "deep-gemm": ("1.0",), "nvidia-cuda-nvcc": ("13.0", "13.5"),
    "cuda-python": ("12.6",),
    "nvidia-cuda-runtime": ("13.0",), "cuda-bindings": ("13.5",), "torchcodec": ("0.14.0",),
}  # fmt: skip
PATHS = {
    "torch": ("torch/lib/libtorch_cuda.so",),
    "sgl-kernel": ("sgl_kernel/common_ops.abi3.so", "sgl_kernel/flash_ops.abi3.so"),
    "sglang-kernel": ("sgl_kernel/sm90/common_ops.abi3.so", "sgl_kernel/sm100/common_ops.abi3.so"),
    "vllm": ("vllm/_C.abi3.so", "vllm/_moe_C.abi3.so", "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so"),
    "flash-attn": ("flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so",),
    "triton": ("triton/_C/libtriton.so",),
    "torchcodec": tuple(f"torchcodec/libtorchcodec_core{number}.so" for number in (4, 5, 6)),
}
NAMES_OF_KERNELS = ("_Z6marlin", "_Z4gptq", "_Z11cutlass_fp8", "_Z3awq", "_Z4topk", "_Z9allreduce", "_Z8rms_norm",
                    "_Z5nvfp4")  # fmt: skip


def _package(name: str, version: str, source: random.Random) -> WheelFacts:
    def kernels() -> tuple[str, ...]:
        return tuple(sorted(source.sample(NAMES_OF_KERNELS, 3)))

    libraries = []
    for path in PATHS.get(name, ()):
        needed = source.choice([(), (), (), ("libnowhere.so",), ("libcudart.so.12",)])
        one = library(path, needed=needed, undefined=("PyList_New", *source.sample(SYMBOLS, source.randrange(0, 2))))
        groups = tuple(
            CodeGroup(
                sass=sass,
                ptx=ptx,
                containers=source.randrange(1, 4),
                kernels=tuple(sorted(source.sample(NAMES_OF_KERNELS, 3))),
            )
            for sass, ptx in source.sample(CODE, 2)
        )
        libraries.append(one.model_copy(update={"gpu": GpuCode(groups=groups) if source.random() < 0.8 else None}))
    return facts(
        name,
        version,
        *libraries,
        sha256=f"{name} {version} {source.random()}",
        cuda="12.8" if name == "torch" else None,
    )


def _mixed_sets() -> Iterator[Case]:
    """Yield sets of the packages that features rest on."""
    source = random.Random(23)
    wheels = {name: [_package(name, version, source) for version in some] for name, some in VERSIONS.items()}
    for number in range(MIXED):
        chosen = source.sample(list(wheels), source.randrange(2, 11))
        cell = Installation(
            wheels=tuple(source.choice(wheels[name]) for name in chosen),
            python="3.12",
            base=source.choice(BASES),
            complete=source.random() < 0.6,
            named=source.random() < 0.5,
            elsewhere=frozenset(source.sample(list(wheels), 2)),
            asked=frozenset(source.sample(chosen, 1)) if source.random() < 0.3 else frozenset(),
        )
        yield Case(f"mixed {number}", cell, source.choice(TARGETS[:3]))


# -------------------------------------------------------------------------------------------------------- recording


def real_cases() -> Iterator[Case]:
    """Yield the locked cells with all that is known of their wheels, as far as all of these were read."""
    files = ProjectFiles(ROOT)
    matrix, cells = files.load().matrix, make(files.load()).cells
    kept, found = FactsCache(), load_knowledge(ROOT / "knowledge")
    for cell in cells:
        lock = files.lock(cell) if cell.kind != "external" else None
        if lock is None:
            continue
        # Wherever the facts were read from: they are not used to judge anybody's lock.
        wheels = tuple(facts for wheel in lock.wheels if (facts := kept._get(wheel.sha256)) is not None)
        base = base_of(matrix.bases[cell.base], cell.base, cell.system_packages, found, environment=cell.env)
        from_source = any(value.source is not None for value in cell.point.values())
        complete = not from_source and len(wheels) == len(lock.wheels)
        installation = Installation(
            wheels=wheels, python=lock.python, base=base, complete=complete, named=not from_source
        )
        yield Case(cell.id, installation, gpu_targets(matrix, cell.targets))


def _record() -> None:
    """Write what is needed of the facts of the locked cells, and of the knowledge."""
    real, cache_ = list(real_cases()), FactsCache()
    found = load_knowledge(ROOT / "knowledge")
    told = {
        symbol
        for case in real
        for finding in audit(case.installation, found, targets=case.targets).report.findings
        for symbol in finding.symbols
    }
    every = {wheel.sha256: cache_.whole(wheel.sha256) or wheel for case in real for wheel in case.installation.wheels}
    asked = {
        library.path + sha256: _some_names(library, told)
        for sha256, wheel in every.items()
        for library in wheel.libraries
    }
    names = {name.partition("@")[0] for lines in asked.values() for name in lines}
    shared = Counter(path for _, path in {(wheel.name, path) for wheel in every.values() for path in _paths(wheel)})
    patterns = [entry.kernels for one in found.dispatch.features.values() for entry in one.dispatch if entry.kernels]
    wheels = {
        sha256: wheel.model_copy(update={
            "libraries": tuple(_less(item, asked[item.path + sha256], names, patterns) for item in wheel.libraries),
            "files": _less_files(wheel, shared),
            "modules": (),
            "tags": (),
        })
        for sha256, wheel in every.items()
    }  # fmt: skip
    history = {
        version: (cuda, [name for name in sorted(names) if version in found.history.having(name)])
        for version, cuda in found.history.releases.items()
    }
    kept = {
        "knowledge": {
            **{key: getattr(found, key).model_dump(mode="json", exclude_defaults=True)
               for key in ("sonames", "ptx", "needs", "dispatch", "companions", "shared_files")},
            "history": history,
            "python": {minor: sorted(some) for minor, some in found.python.items()},
        },
        "cells": [
            {
                "name": case.name, "python": case.installation.python, "complete": case.installation.complete,
                "named": case.installation.named, "overridden": sorted(case.installation.overridden),
                "base": asdict(case.installation.base), "targets": [asdict(target) for target in case.targets],
                "wheels": [wheel.sha256 for wheel in case.installation.wheels],
            }
            for case in real
        ],
        "wheels": {key: wheel.model_dump(mode="json", exclude_defaults=True) for key, wheel in sorted(wheels.items())},
    }  # fmt: skip
    _write(FACTS, kept)


def _some_names(library: Library, told: set[str]) -> list[str]:
    lines = library.undefined.get("global", "").split("\n")
    kept = [line for line in lines if line.partition("@")[0] in told]
    count: Counter[object] = Counter()
    for line in random.Random(len(lines)).sample(lines, len(lines)):
        whose = owner(line.partition("@")[0]), "@" in line
        count[whose] += 1
        if count[whose] <= (NAMES if "@" not in line else 1):
            kept.append(line)
    return [line for line in lines if line in {*kept}]


def _less(item: Library, asked: list[str], names: set[str], patterns: Iterable[str]) -> Library:
    import re

    def wanted(line: str) -> bool:
        return line.partition("@")[0] in names or line.startswith("PyInit_")

    defined = {key: "\n".join(filter(wanted, lines.split("\n"))) for key, lines in item.defined.items()}
    if item.exports_cxx11:
        defined["weak"] = "\n".join(filter(None, (defined.get("weak", ""), "_ZNSt7__cxx11own")))
    gpu = item.gpu
    if gpu is not None:
        searches = [re.compile(pattern, re.IGNORECASE).search for pattern in patterns]
        groups = []
        for group in gpu.groups:
            matching = [name for name in group.kernels if any(search(name) for search in searches)]
            groups.append(
                group.model_copy(update={"kernels": tuple(sorted({*matching[:KERNELS], *group.kernels[:2]}))})
            )
        gpu = gpu.model_copy(update={"groups": tuple(groups)})
    return item.model_copy(update={
        "defined": {key: lines for key, lines in defined.items() if lines},
        "undefined": {"global": "\n".join(asked)} if asked != [""] else {},
        "gpu": gpu,
        "digest": None,
    })  # fmt: skip


def _paths(wheel: WheelFacts) -> Iterator[str]:
    for folder, lines in wheel.files.items():
        yield from (f"{folder}/{line.rsplit(' ', 1)[0]}" for line in lines.split("\n"))


def _less_files(wheel: WheelFacts, shared: Mapping[str, int]) -> dict[str, str]:
    kept = {
        folder: "\n".join(line for line in lines.split("\n") if shared[f"{folder}/{line.rsplit(' ', 1)[0]}"] > 1)
        for folder, lines in wheel.files.items()
    }
    return {folder: lines for folder, lines in kept.items() if lines}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"), default=sorted)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    if "facts" in sys.argv[1:]:
        _record()
    _write(REPORTS, reports())

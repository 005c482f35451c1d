"""Predictions of a cell do not depend on the cells judged before."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wheels import facts, library, untouched

from assay.adapters.files.knowledge import load_knowledge
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import Knowledge
from assay.foundation.outcome import Outcome
from assay.wheels.facts import WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode

VERSIONS = {
    "torch": ("2.8.0", "2.9.1"),
    "sglang": ("0.5.2", "0.5.6"),
    "sgl-kernel": ("0.3.9", "0.3.10"),
    "sglang-kernel": ("0.4.4",),
    "vllm": ("0.11.0", "0.12.0"),
    "flashinfer-python": ("0.3.0", "0.4.0"),
    "flashinfer-jit-cache": ("0.4.0",),
    "flash-attn": ("2.8.0",),
    "triton": ("3.1.0", "3.2.0", "3.4.0"),
    "nvidia-nccl-cu12": ("2.27.0",),
    "deep-gemm": ("1.0",),
    "nvidia-cuda-nvcc": ("13.0",),
    "bystander": ("1", "2"),
}
PATHS = {
    "torch": ("torch/lib/libtorch_cuda.so",),
    "sgl-kernel": ("sgl_kernel/common_ops.abi3.so", "sgl_kernel/flash_ops.abi3.so"),
    "sglang-kernel": ("sgl_kernel/sm90/common_ops.abi3.so", "sgl_kernel/sm100/common_ops.abi3.so"),
    "vllm": ("vllm/_C.abi3.so", "vllm/_moe_C.abi3.so", "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so"),
    "flash-attn": ("flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so",),
    "triton": ("triton/_C/libtriton.so",),
}
KERNELS = ("_Z6marlin", "_Z4gptq", "_Z11cutlass_fp8", "_Z3awq", "_Z4topk", "_Z9allreduce", "_Z8rms_norm", "_Z5nvfp4")
CODE = ((("90",), ()), (("120",), ()), (("80",), ("80@8.7",)), (("90a",), ("90@8.0",)), ((), ("120@8.7",)))
TARGETS = (
    (TargetGpu(name="sm_120", capability=120),),
    (TargetGpu(name="sm_90", capability=90), TargetGpu(name="sm_120", capability=120)),
    (TargetGpu(name="sm_120", capability=120, driver_cuda="12.4"),),
)
BASES = (*(
    Base(name="some", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=frozenset(sonames), packages=frozenset(
        packages), environment=environment, known=known, closed=closed)
    for sonames in ((), ("libnuma.so.1",))
    for packages in ((), ("gcc",), ("cuda-toolkit",))
    for environment in (None, frozenset[str](), frozenset({"CUDA_HOME"}))
    for known, closed in ((True, True), (True, False), (False, False))
), Base(name="image", libraries=(library("/usr/lib/libnuma.so.1"),)))  # fmt: skip


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return load_knowledge()


def package(name: str, version: str, source: random.Random) -> WheelFacts:
    libraries = []
    for path in PATHS.get(name, ()):
        broken = source.random() < 0.25
        one = library(path, needed=("libnowhere.so",) if broken else (), undefined=("PyList_New",))
        groups = tuple(
            CodeGroup(sass=sass, ptx=ptx, containers=1, kernels=tuple(sorted(source.sample(KERNELS, 3))))
            for sass, ptx in source.sample(CODE, 2)
        )
        libraries.append(one.model_copy(update={"gpu": GpuCode(groups=groups) if source.random() < 0.8 else None}))
    return facts(name, version, *libraries)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_predictions_do_not_depend_on_the_cells_judged_before(knowledge: Knowledge, seed: int) -> None:
    source = random.Random(seed)
    wheels = {name: [package(name, version, source) for version in some] for name, some in VERSIONS.items()}
    chosen = source.sample(list(wheels), source.randrange(2, 9))
    cell = Installation(
        wheels=tuple(source.choice(wheels[name]) for name in chosen), python="3.12", base=source.choice(BASES)
    )
    targets = source.choice(TARGETS)
    for _ in range(6):
        expected = audit(untouched(cell), knowledge, targets=targets)
        assert expected == audit(cell, knowledge, targets=targets)
        rows = [(row.target, row.feature) for row in expected.report.predictions]
        assert len(set(rows)) == len(rows)
        # The next cell is another in one thing.
        name = source.choice(list(wheels))
        others = tuple(wheel for wheel in cell.wheels if wheel.name != name)
        cell = source.choice(
            [
                replace(cell, wheels=(*others, source.choice(wheels[name]))),
                replace(cell, wheels=(*others, source.choice(wheels[name]))),
                replace(cell, wheels=others or cell.wheels),
                replace(cell, base=source.choice(BASES)),
                replace(cell, complete=source.random() < 0.5, named=source.random() < 0.5),
                replace(cell, elsewhere=frozenset(source.sample(list(wheels), 2))),
            ]
        )
        targets = source.choice([targets, targets, source.choice(TARGETS)])


def test_a_run_time_requirement_is_reported_for_the_installed_version(knowledge: Knowledge) -> None:
    """The feature is made of the same wheel in both cells; the package whose need is not met is another one."""
    base = replace(BASES[0], known=True, closed=True, environment=frozenset())
    engine, found = facts("sglang", "0.5.6"), []
    for version in ("0.3.9", "0.3.10"):
        cell = Installation(wheels=(engine, facts("sgl-kernel", version)), python="3.12", base=base)
        report = audit(cell, knowledge, targets=(TargetGpu(name="sm_90", capability=90),)).report
        found += [item for item in report.predictions if item.feature == "sglang-engine"]

    assert [Outcome.BROKEN, Outcome.BROKEN] == [row.outcome for row in found]
    assert ["sgl-kernel 0.3.9 ", "sgl-kernel 0.3.10 "] == [row.reason.partition("brings")[0] for row in found]

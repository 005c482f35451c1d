"""Each rule, on small installations made for it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wheels import facts, library, untouched

from assay.adapters.files.knowledge import load_knowledge
from assay.audit.audit import audit, broken_libraries
from assay.audit.context import Context, TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.history import TorchHistory
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import Knowledge
from assay.audit.missing_libraries import soname_cause
from assay.audit.rules.l3_symbols import RULE as L3
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.model import BootstrapBase
from assay.pipeline.bases import base_of
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode

ROOT = Path(__file__).parents[2]
SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"
OLD_ONLY = "_ZN2at4goneEv"
NEW_STRING = "_ZN3c105ErrorC1ENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
OLD_STRING = "_ZN5torch3jit17parseSchemaOrNameERKSs"
COMMON = "_ZN3c105checkEv"
BOOKWORM = Base(name="slim", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=frozenset({"libz.so.1"}))
SM120 = TargetGpu(name="sm_120", capability=120)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    """The knowledge in the repository, with a history of torch made for these tests."""
    real = load_knowledge()
    history = TorchHistory.build(
        {
            "2.7.1": ("12.6", [COMMON, SYM_NE, OLD_ONLY]),
            "2.8.0": ("12.8", [COMMON, SYM_NE, NEW_STRING]),
            "2.9.1": ("12.8", [COMMON, NEW_STRING, "aoti_torch_new"]),
        }
    )
    return Knowledge(
        sonames=real.sonames,
        ptx=real.ptx,
        needs=real.needs,
        dispatch=real.dispatch,
        history=history,
        python=real.python,
    )


def torch(version: str = "2.8.0", *, sass: tuple[str, ...] = ("90", "120"), more: tuple[str, ...] = ()) -> WheelFacts:
    """Return a torch: what its release exports, its libraries where the real one has them."""
    names = {"2.7.1": (COMMON, SYM_NE, OLD_ONLY), "2.8.0": (COMMON, SYM_NE, NEW_STRING), "2.9.1": (COMMON, NEW_STRING)}
    own = ("$ORIGIN",)
    return facts(
        "torch",
        version,
        library("torch/_C.cpython-311-x86_64-linux-gnu.so", needed=("libtorch_python.so",), rpath=("$ORIGIN/lib",)),
        library("torch/lib/libtorch_global_deps.so", soname="libtorch_global_deps.so", needed=("libcudart.so.12",),
                rpath=("$ORIGIN/../../nvidia/cuda_runtime/lib",)),
        library("torch/lib/libtorch_python.so", soname="libtorch_python.so", needed=("libtorch_cuda.so", "libc10.so"),
                runpath=own),
        library("torch/lib/libtorch_cuda.so", soname="libtorch_cuda.so", needed=("libc10.so", "libcudart.so.12"),
                rpath=("$ORIGIN/../../nvidia/cuda_runtime/lib", *own), sass=sass),
        library("torch/lib/libc10.so", soname="libc10.so", defined=(*names[version], *more)),
        requires=("nvidia-cuda-runtime-cu12==12.8.90",),
    )  # fmt: skip


def cudart(version: str = "12.8.90") -> WheelFacts:
    return facts(
        "nvidia-cuda-runtime-cu12",
        version,
        library(
            "nvidia/cuda_runtime/lib/libcudart.so.12",
            soname="libcudart.so.12",
            defined=("cudaMalloc@@libcudart.so.12",),
            provides=("libcudart.so.12",),
        ),
    )


def judged(
    knowledge: Knowledge,
    *wheels: WheelFacts,
    base: Base = BOOKWORM,
    python: str = "3.11",
    targets: tuple[TargetGpu, ...] = (),
    known: dict[str, list[WheelFacts]] | None = None,
    complete: bool = True,
) -> AuditReport:
    installation = Installation(wheels=wheels, python=python, base=base, complete=complete)
    return audit(installation, knowledge, targets=targets, known={} if known is None else known, name="here").report


def found(report: AuditReport, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == rule]


def extension(
    *undefined: str, name: str = "ext", path: str = "ext/_C.abi3.so", needed: tuple[str, ...] = ()
) -> WheelFacts:
    return facts(name, "1.0", library(path, needed=("libc10.so", *needed), undefined=undefined), requires=("torch",))


def test_what_fits_is_ok(knowledge: Knowledge) -> None:
    report = judged(knowledge, torch(), cudart(), extension(COMMON, SYM_NE, NEW_STRING), targets=(SM120,))

    assert Verdict.OK is report.verdict
    assert () == report.findings


def test_r1_a_requirement_that_does_not_hold(knowledge: Knowledge) -> None:
    report = judged(knowledge, facts("a", "1", requires=("b>=2", "c", "d; python_version < '3'", "e; extra == 'x'")),
                    facts("b", "1"))  # fmt: skip

    assert ["requires b>=2, but 1 is in the set", "requires c, which is not in the set"] == sorted(
        finding.message for finding in found(report, "R1")
    )
    assert Verdict.FAIL is report.verdict


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("b; extra == 'x'", False),
        ('b ; python_version > "3" and extra=="x-y"', False),
        ("b; extra == 'x' or python_version > '3'", True),
        ("b; (python_version>'3')or(extra=='x')", True),
        ("b; extra == ''", True),
        ("b; extra != 'x'", True),
        ("or-b; extra == 'x'", False),
        ("b @ https://example.org/b.whl; extra == 'x'", False),
    ],
)
def test_r1_what_an_extra_asks_for_is_left_out(knowledge: Knowledge, line: str, asked: bool) -> None:
    report = judged(knowledge, facts("a", "1", requires=(line,)))

    assert asked is bool(found(report, "R1"))


@pytest.mark.parametrize(
    ("needed", "listed", "complete", "told"),
    [
        ((), False, True, True),
        ((), False, False, False),
        (("libnowhere.so",), False, True, False),
        (("libz.so.1",), False, True, False),
        (("libc10.so",), False, True, True),
        (("libc10.so",), True, True, False),
    ],
    ids=[
        "all is read",
        "others may be installed",
        "one is missing",
        "one of the base",
        "torch is read",
        "torch is not",
    ],
)
def test_l3_names_of_nobody_are_told_only_where_all_that_may_have_them_was_read(
    knowledge: Knowledge, needed: tuple[str, ...], listed: bool, complete: bool, told: bool
) -> None:
    wheel = facts("a", "1", library("a/a.abi3.so", needed=needed, undefined=("_ZN3own6thingEv",), rpath=("$ORIGIN",)))
    base = replace(BOOKWORM, sonames=BOOKWORM.sonames | {"libz.so.1"})

    report = judged(knowledge, wheel, unread(torch()) if listed else torch(), cudart(), base=base, complete=complete)

    assert told is any("own" in finding.message for finding in found(report, "L3"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_what_a_missing_library_would_have_is_told_once(knowledge: Knowledge, order: tuple[int, ...]) -> None:
    """It is missing, in the base with symbols that nobody knows, or there and without what it is asked for."""
    asking = facts("a", "1", library(
        "a/a.abi3.so", needed=("libnew.so",), undefined=("PyNew_InThis@V1",), requires={"libnew.so": ("V1",)},
        rpath=("$ORIGIN/../b",),
    ))  # fmt: skip
    there = facts("b", "1", library("b/libnew.so", soname="libnew.so", provides=("V1",)))
    cells = ((asking,), BOOKWORM), ((asking,), replace(BOOKWORM, sonames=frozenset({"libnew.so"}))), (
        (asking, there), BOOKWORM)  # fmt: skip
    told = {}
    for place in order:
        wheels, base = cells[place]
        told[place] = {finding.rule for finding in judged(knowledge, *wheels, base=base).findings}

    assert {0: {"L1"}, 1: set(), 2: {"L5"}} == told


@pytest.mark.parametrize("first", [0, 1])
def test_l3_a_library_binds_to_the_module_that_pulls_it_in(knowledge: Knowledge, first: int) -> None:
    own = ("$ORIGIN",)
    modules = (
        library("a/m1.abi3.so", needed=("liba.so",), rpath=own, defined=("_ZN3own6thingEv",)),
        library("a/m2.abi3.so", needed=("liba.so",), rpath=own),
    )
    shared = library("a/liba.so", soname="liba.so", undefined=("_ZN3own6thingEv",))
    wheel = facts("a", "1", modules[first], modules[1 - first], shared)
    context = Context(installation=Installation(wheels=(wheel,), python="3.11", base=BOOKWORM), knowledge=knowledge)

    assert ["a/m2.abi3.so"] == list(broken_libraries(context))


def test_l3_what_is_missing_is_reported_in_order_whatever_asks_for_it(knowledge: Knowledge) -> None:
    names = ("_ZN3own1aEv", "_ZN3own1bEv@V1", "_ZN3own1cEv", "_ZN3own1dEv@V1")
    asking = library("a/a.abi3.so", undefined=names, requires={"libnew.so": ("V1",)})
    (finding,) = found(judged(knowledge, facts("a", "1", asking)), "L3")

    assert tuple(name.partition("@")[0] for name in names) == finding.symbols


def test_l3_without_torch_reports_nothing_about_symbols_of_torch(knowledge: Knowledge) -> None:
    wheel = facts("a", "1", library("a/a.abi3.so", undefined=(SYM_NE, "_ZN3own6thingEv")))
    context = Context(installation=Installation(wheels=(wheel,), python="3.11", base=BOOKWORM), knowledge=knowledge)

    assert [("_ZN3own6thingEv",)] == [finding.symbols for finding in L3.findings(context)]
    assert {"a/a.abi3.so": "undefined symbol _ZN3own6thingEv"} == broken_libraries(context)


def test_cells_that_share_wheels_are_told_apart(knowledge: Knowledge) -> None:
    """A report rests on its own torch, Python and neighbours, whatever was judged before."""
    shared = extension(COMMON, SYM_NE, "PyUnstable_Long_IsCompact", "_ZN5otherEv", needed=("libother.so",))
    alone = extension("PyUnstable_Long_IsCompact", "_ZN5otherEv", name="alone", path="alone/_C.abi3.so")
    neighbour = facts("other", "1", library("ext/libother.so", defined=("_ZN5otherEv",)))
    cells = [
        Installation(wheels=(shared, alone, torch(version), *others), python=python, base=BOOKWORM, complete=complete)
        for version in ("2.8.0", "2.9.1", "2.7.1", "2.8.0")
        for others in ((cudart(),), (cudart(), neighbour))
        for python in ("3.11", "3.12")
        for complete in (True, False)
    ]
    apart = [audit(untouched(cell), knowledge).report for cell in cells]

    for order in (cells, cells[::-1]):
        together = {id(cell): audit(cell, knowledge).report for cell in order}
        assert apart == [together[id(cell)] for cell in cells]
    with ThreadPoolExecutor(4) as pool:
        assert apart == [done.report for done in pool.map(lambda cell: audit(cell, knowledge), cells)]
    assert len({report.model_dump_json() for report in apart}) > 6


LIBRARIES = ("liba.so", "libb.so")
ASKED = (*LIBRARIES, "libc10.so", "libcudart.so.12", "libz.so.1", "libnowhere.so")
SYMBOLS = ("_ZN1aEv", "_ZN1bEv", COMMON, SYM_NE, "cudaMalloc", "PyUnstable_Long_IsCompact", "plain")
BASES = (
    BOOKWORM,
    replace(BOOKWORM, name="old", glibc="2.31"),
    replace(BOOKWORM, name="bare", sonames=frozenset()),
    replace(BOOKWORM, name="unknown", known=False),
)


@st.composite
def small_library(draw: st.DrawFn, path: str, soname: str | None = None) -> Library:
    """A library that asks for, brings and says whatever the rules about loading look at."""
    some = partial(st.lists, unique=True, min_size=1, max_size=2)
    look = draw(st.sampled_from([(), ("$ORIGIN",), ("$ORIGIN/../own.libs",), ("$ORIGIN/../shared",)]))
    return library(
        path,
        soname=soname,
        needed=tuple(draw(some(st.sampled_from(ASKED)))),
        undefined=tuple(draw(some(st.sampled_from(SYMBOLS)))) if draw(st.booleans()) else (),
        defined=tuple(draw(some(st.sampled_from(SYMBOLS[:2])))),
        requires=draw(st.sampled_from([{}, {"libc.so.6": ("GLIBC_2.34",)}, {"liba.so": ("A_2",)}])),
        provides=draw(st.sampled_from([(), ("A_1",), ("A_2",)])),
        scope=draw(st.sampled_from(["full", "full", "full", "listed"])),
        **{draw(st.sampled_from(["rpath", "runpath"])): look},
    )


@st.composite
def small_wheel(draw: st.DrawFn, name: str) -> WheelFacts:
    """A wheel with a module or two and what they may find beside them, or in a folder that several wheels fill."""
    places = draw(
        st.lists(st.sampled_from(["own.libs", f"{name}.libs", "shared"]), min_size=0, max_size=2, unique=True)
    )
    beside = [(f"{place}/{file}", file) for place in places for file in LIBRARIES if draw(st.booleans())]
    modules = [f"{name}/m{number}.abi3.so" for number in range(draw(st.integers(1, 2)))]
    made = [draw(small_library(path)) for path in modules] + [draw(small_library(*one)) for one in beside]
    return facts(name, "1.0", *made)


BYSTANDERS = tuple(facts(name, "1", library(f"{name}/{name}.so")) for name in ("by", "stander"))


def anew(cells: Sequence[Installation]) -> list[Installation]:
    """Return cells whose wheels nobody has looked at, with those in common that they had in common."""
    copies = {id(wheel): wheel.model_copy(deep=True) for cell in cells for wheel in cell.wheels}
    return [replace(cell, wheels=tuple(copies[id(wheel)] for wheel in cell.wheels)) for cell in cells]


def unread(wheel: WheelFacts) -> WheelFacts:
    return facts(wheel.name, wheel.version, *(library(item.path, scope="listed") for item in wheel.libraries))


@settings(max_examples=60)
@given(st.data())
def test_reports_do_not_depend_on_the_cells_judged_before(knowledge: Knowledge, data: st.DataObject) -> None:
    """Whatever cells went before: a cell gets the report that it gets from wheels nobody has looked at."""
    torches = [(), (torch(),), (torch("2.9.1"),), (unread(torch()),), (torch(more=("_ZN1aEv",)),)]
    runtimes = [(cudart(),), (), (cudart("12.9.1"),)]
    python, base = st.sampled_from(["3.11", "3.12"]), st.sampled_from(BASES)
    around = st.builds(
        lambda wheels, runtime, python, base, complete: Installation(
            wheels=(*BYSTANDERS, *wheels, *runtime), python=python, base=base, complete=complete
        ),
        st.sampled_from(torches), st.sampled_from(runtimes), python, base, st.booleans(),
    )  # fmt: skip
    one, other = data.draw(around), data.draw(around)
    changed = data.draw(st.sampled_from(["wheels", "python", "base", "complete"]))
    two = replace(one, **{changed: getattr(other, changed)})
    wheels = [data.draw(small_wheel(name)) for name in ("one", "two", "three")]

    for place in (one, two, one, two):
        chosen = [wheel for wheel in wheels if data.draw(st.booleans())]
        cell = replace(place, wheels=(*chosen, *place.wheels))
        assert audit(untouched(cell), knowledge, targets=(SM120,)) == audit(cell, knowledge, targets=(SM120,))


def module(name: str, *undefined: str, needed: tuple[str, ...] = (), **more: Any) -> Library:
    return library(f"{name}/m.abi3.so", undefined=undefined, needed=needed, **more)


NEW_GLIBC: dict[str, tuple[str, ...]] = {"libc.so.6": ("GLIBC_2.34",)}
OTHER_TORCH = facts("torch", "2.10.0", *torch().libraries)
ONE_OF_ITS_OWN = facts("one", "1", module("one", needed=("liba.so",)), library("one.libs/liba.so"))
LEND = facts("lend", "1", library("shared/liba.so", requires={"libc.so.6": ("GLIBC_2.38",)}))
NEEDS_B = facts("two", "1", library("shared/liba.so", needed=("libb.so",), rpath=("$ORIGIN",)))
BRINGS_Z = facts("one", "1", module("one", needed=("libz.so.1",), rpath=("$ORIGIN",)),
                 library("one/libz.so.1", requires={"libc.so.6": ("GLIBC_2.38",)}))  # fmt: skip
LOADS_Z = facts("torch", "2.8.0", *(
    item.model_copy(update={"needed": (*item.needed, "libz.so.1")}) if item.name == "libc10.so" else item
    for item in torch().libraries
))  # fmt: skip
OTHER_RUNTIME = facts("other", "1", library("other/libcudart.so.12", soname="libcudart.so.12", provides=("V",)))
LOADS_OTHER = facts("torch", "2.8.0", *(
    item.model_copy(update={"rpath": ("$ORIGIN/../../other", "$ORIGIN", "$ORIGIN/lib")}) for item in torch().libraries
))  # fmt: skip
FOR_EACH_CUDA = facts("bitsandbytes", "0.48.0", *(
    library(f"bitsandbytes/libbitsandbytes_cuda{cuda}.so", needed=("libnowhere.so",)) for cuda in ("126", "128")
))  # fmt: skip
ON = Installation(wheels=(), python="3.12", base=BOOKWORM)
ON_TORCH = (torch(), cudart())
NVIDIA = ("$ORIGIN/../nvidia/cuda_runtime/lib",)


@pytest.mark.parametrize(
    ("wheel", "first", "then"),
    [
        pytest.param(module("one", "PyUnstable_Long_IsCompact"), ON, replace(ON, python="3.11"), id="python"),
        pytest.param(module("one", "_ZN1aEv"), replace(ON, complete=False), ON, id="complete"),
        pytest.param(module("one", requires=NEW_GLIBC), ON, replace(ON, base=BASES[1]), id="glibc"),
        pytest.param(module("one", needed=("libz.so.1",)), ON, replace(ON, base=BASES[2]), id="the base's libraries"),
        pytest.param(
            module("one", needed=("liba.so",)), ON, replace(ON, wheels=(LEND,)), id="somebody brings what it needs"
        ),
        pytest.param(ONE_OF_ITS_OWN, ON, replace(ON, wheels=(LEND,)), id="somebody brings the same as it"),
        pytest.param(
            LEND, ON,
            replace(ON, wheels=(facts("two", "1", module("two", needed=("liba.so",), rpath=("$ORIGIN/../shared",))),)),
            id="somebody needs what it brings",
        ),
        pytest.param(
            module("one", requires={"liba.so": ("A_2",)}, rpath=("$ORIGIN/../shared",)),
            replace(ON, wheels=(facts("two", "1", library("shared/liba.so", provides=("A_2",))),)),
            replace(ON, wheels=(facts("two", "1", library("shared/liba.so", provides=("A_1",))),)),
            id="whom it asks for a version",
        ),
        pytest.param(
            module("one", needed=("sub/liba.so",), rpath=("$ORIGIN/../two",)),
            replace(ON, wheels=(facts("two", "1", library("two/sub/liba.so")),)), ON, id="what lies at a path",
        ),
        pytest.param(
            module("one", COMMON, needed=("libc10.so", "sub/liba.so"), rpath=("$ORIGIN/../two",)),
            replace(ON, wheels=(*ON_TORCH, facts("two", "1", library("two/sub/liba.so")))),
            replace(ON, wheels=ON_TORCH), id="what lies at a path, with torch",
        ),
        pytest.param(
            module("one", needed=("liba.so",), rpath=("$ORIGIN/../shared",)),
            replace(ON, wheels=(NEEDS_B, facts("three", "1", library("shared/libb.so")))),
            replace(ON, wheels=(NEEDS_B,)),
            id="what another one needs that it pulls in",
        ),
        pytest.param(
            facts("two", "1", library("shared/liba.so", undefined=("PyUnstable_Long_IsCompact",))),
            replace(ON, wheels=(facts("one", "1", module("one", needed=("liba.so",), rpath=("$ORIGIN/../shared",))),),
                    python="3.11"),
            replace(ON, python="3.11"), id="what another one brings to light of it",
        ),
        pytest.param(
            BRINGS_Z, replace(ON, wheels=(torch(), cudart())), replace(ON, wheels=(LOADS_Z, cudart())),
            id="what torch has loaded of the base",
        ),
        pytest.param(
            module("one", needed=("libcudart.so.12",), requires={"libcudart.so.12": ("libcudart.so.12",)}),
            replace(ON, wheels=(*ON_TORCH, OTHER_RUNTIME)),
            replace(ON, wheels=(LOADS_OTHER, ON_TORCH[1], OTHER_RUNTIME)), id="from which wheel torch has loaded it",
        ),
        pytest.param(
            FOR_EACH_CUDA, replace(ON, wheels=ON_TORCH),
            replace(ON, wheels=(torch().model_copy(update={"cuda": "12.6"}), *ON_TORCH[1:])), id="torch's CUDA",
        ),
        pytest.param(
            module("one", "cudaMalloc"),
            replace(ON, wheels=(torch(), cudart())),
            replace(ON, wheels=(torch(), facts("nvidia-cuda-runtime-cu12", "1", library(
                "nvidia/cuda_runtime/lib/libcudart.so.12", soname="libcudart.so.12", defined=("cudaOther",))))),
            id="what torch makes global",
        ),
        pytest.param(module("one", SYM_NE), ON, replace(ON, wheels=(torch(), cudart())), id="torch at all"),
        pytest.param(
            module("one", "plain"), replace(ON, wheels=(torch(), cudart())), replace(ON, wheels=(unread(OTHER_TORCH),)),
            id="whether torch was read",
        ),
        pytest.param(
            module("one", COMMON), replace(ON, wheels=(unread(torch()),)), replace(ON, wheels=(unread(OTHER_TORCH),)),
            id="whether torch's exports are known",
        ),
        pytest.param(
            module("one", COMMON, SYM_NE, needed=("libc10.so",)),
            replace(ON, wheels=(torch(), cudart())), replace(ON, wheels=(torch("2.9.1"), cudart())),
            id="which torch has loaded it",
        ),
        pytest.param(
            module("one", needed=("libcudart.so.12",)),
            replace(ON, wheels=(torch(), cudart())),
            replace(ON, wheels=(torch(), cudart(), facts("two", "1", module("two", needed=("libcudart.so.13",))))),
            id="another CUDA runtime beside it",
        ),
    ],
)  # fmt: skip
def test_a_report_changes_with_each_thing_that_the_verdict_on_a_wheel_rests_on(
    knowledge: Knowledge, wheel: Library | WheelFacts, first: Installation, then: Installation
) -> None:
    """Each pair of cells differs in one thing that the verdict on the wheel, or one that stands on it, rests on."""
    wheel = facts("one", "1", wheel) if isinstance(wheel, Library) else wheel.model_copy(deep=True)
    cells = [replace(cell, wheels=(*cell.wheels, wheel, *BYSTANDERS)) for cell in (first, then)]
    apart = [audit(untouched(cell), knowledge) for cell in cells]

    assert apart[0] != apart[1]
    assert apart == [audit(cell, knowledge) for cell in anew(cells)]
    assert apart[::-1] == [audit(cell, knowledge) for cell in anew(cells[::-1])]


TORCH, RUNTIME = torch(), cudart()
FOR_TWO = facts(
    "vllm", "0.11.0",
    *(
        library(f"vllm/_C.cpython-{python}-x86_64-linux-gnu.so", needed=("libc10.so",), undefined=(COMMON,), sass=sass)
        .model_copy(update={"gpu": GpuCode(groups=(CodeGroup(sass=sass, containers=1, kernels=("6marlin4gemm",)),))})
        for python, sass in (("311", ("120",)), ("312", ("90",)))
    ),
    requires=("torch==2.8.0",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("first", "then", "targets"),
    [
        pytest.param(
            replace(ON, wheels=(TORCH, RUNTIME)), replace(ON, wheels=(TORCH,)), (SM120, SM120), id="what torch needs"
        ),
        pytest.param(
            replace(ON, wheels=(TORCH, facts("lender", "1", *RUNTIME.libraries), RUNTIME)),
            replace(ON, wheels=(TORCH, facts("lender", "1", library("a/libcudart.so.12", soname="libcudart.so.12")))),
            (SM120, SM120),
            id="where that lies",
        ),
        pytest.param(
            replace(ON, wheels=(TORCH,), base=replace(BOOKWORM, sonames=frozenset({"libcudart.so.12"}))),
            replace(ON, wheels=(TORCH,)),
            (SM120, SM120),
            id="what the base brings",
        ),
        pytest.param(
            replace(ON, wheels=(TORCH, RUNTIME, FOR_TWO), python="3.11"),
            replace(ON, wheels=(TORCH, RUNTIME, FOR_TWO), python="3.12"),
            (SM120, SM120),
            id="which library is for this Python",
        ),
        pytest.param(
            replace(ON, wheels=(TORCH, RUNTIME, FOR_TWO)),
            replace(ON, wheels=(TORCH, RUNTIME, FOR_TWO)),
            (SM120, TargetGpu(name="sm_90", capability=90)),
            id="the GPU",
        ),
    ],
)
def test_imports_and_predictions_change_with_each_thing_they_rest_on(
    knowledge: Knowledge, first: Installation, then: Installation, targets: tuple[TargetGpu, TargetGpu]
) -> None:
    """Each pair of cells shares its wheels and differs in one thing that an import or a prediction rests on."""
    cells = [first, then]

    def reports(cells: Sequence[Installation], targets: Sequence[TargetGpu]) -> list[AuditReport]:
        pairs = zip(anew(cells), targets, strict=True)
        return [audit(cell, knowledge, targets=[target]).report for cell, target in pairs]

    apart = [*reports([first], targets[:1]), *reports([then], targets[1:])]

    assert apart[0].model_copy(update={"targets": ()}) != apart[1].model_copy(update={"targets": ()})
    assert apart == reports(cells, targets)
    assert apart[::-1] == reports(cells[::-1], targets[::-1])


def test_what_one_wheel_brings_to_light_of_another_is_told_again(knowledge: Knowledge) -> None:
    lend = facts("lend", "1", library("shared/liba.so", undefined=("_ZN1bEv",)))
    asking = facts("one", "1", module("one", needed=("liba.so",), rpath=("$ORIGIN/../shared",)))
    first = replace(ON, wheels=(asking, lend, *BYSTANDERS))
    then = replace(ON, wheels=(*first.wheels, facts("more", "1", library("more/more.so"))))
    reports = [audit(cell, knowledge).report for cell in (first, then)]

    assert ["lend 1"] == [finding.package for finding in found(reports[0], "L3")]
    assert [audit(untouched(cell), knowledge).report for cell in (first, then)] == reports


@pytest.mark.parametrize(
    ("first", "more"),
    [
        pytest.param(
            (facts("one", "1", module("one", "plain", needed=("liba.so",), rpath=("$ORIGIN",)),
                   library("one/liba.so", scope="listed")),), (), id="what would have to be read",
        ),
        pytest.param(
            (*ON_TORCH, facts("vllm", "0.11.0", library("vllm/_C.abi3.so", needed=("libnowhere.so",)))), (),
            id="what does not load",
        ),
        pytest.param(
            (cudart(), facts("one", "1", module("one", needed=("libcudart.so.12",), rpath=NVIDIA))),
            (facts("nvidia-cuda-runtime", "13.0", library("nvidia/cuda_runtime/lib/libcudart.so.13")),
             facts("two", "1", module("two", needed=("libcudart.so.13",), rpath=NVIDIA))),
            id="which CUDA runtime it asks for",
        ),
        pytest.param(
            (LEND, facts("one", "1", module("one", needed=("liba.so",), rpath=("$ORIGIN/../shared",)))), (),
            id="what it pulls in of others",
        ),
    ],
)  # fmt: skip
def test_a_wheel_gets_the_same_findings_in_a_set_with_another_wheel(
    knowledge: Knowledge, first: tuple[WheelFacts, ...], more: tuple[WheelFacts, ...]
) -> None:
    """In a cell with another wheel, so that not all that libraries show is known already."""
    another = facts("another", "1", library("another/another.so"))
    cells = [replace(ON, wheels=(*first, *BYSTANDERS)), replace(ON, wheels=(*first, *BYSTANDERS, another, *more))]
    apart = [audit(untouched(cell), knowledge, targets=[SM120]) for cell in cells]

    assert apart == [audit(cell, knowledge, targets=[SM120]) for cell in cells]


NAMED_FOR_311 = facts("one", "1", library("one/m.cpython-311-x86_64-linux-gnu.so", defined=("PyInit_m",)))
TWICE = [facts(name, "1", library("ext/_C.abi3.so", undefined=(symbol,), defined=("PyInit__C",)))
         for name, symbol in (("one", "PyUnstable_Long_IsCompact"), ("two", "PyList_New"))]  # fmt: skip
WITH_SYM_NE = extension(COMMON, SYM_NE)
ON_291 = replace(ON, wheels=(torch("2.9.1"), RUNTIME, WITH_SYM_NE))


@pytest.mark.parametrize(
    ("first", "then", "changed"),
    [
        pytest.param(replace(ON, wheels=(NAMED_FOR_311,), python="3.11"), replace(ON, wheels=(NAMED_FOR_311,)), {},
                     id="python"),
        pytest.param(replace(ON, wheels=(WITH_SYM_NE,)), replace(ON, wheels=(WITH_SYM_NE,), complete=False), {},
                     id="complete"),
        pytest.param(
            replace(ON, wheels=(WITH_SYM_NE, TORCH), base=replace(BOOKWORM, sonames=frozenset({"libcudart.so.12"}))),
            replace(ON, wheels=(WITH_SYM_NE, TORCH)), {}, id="base",
        ),
        pytest.param(replace(ON, wheels=(TORCH, RUNTIME, WITH_SYM_NE)), replace(ON, wheels=(TORCH, WITH_SYM_NE)), {},
                     id="one more"),
        pytest.param(replace(ON, wheels=(TWICE[0],)), replace(ON, wheels=(TWICE[1],)), {}, id="another"),
        pytest.param(replace(ON, wheels=(TORCH, RUNTIME)), replace(ON, wheels=(TORCH, RUNTIME)),
                     {"targets": [TargetGpu(name="sm_80", capability=80)]}, id="GPU"),
        pytest.param(replace(ON, wheels=(TORCH, RUNTIME)), replace(ON, wheels=(TORCH, RUNTIME)),
                     {"targets": [SM120, TargetGpu(name="sm_80", capability=80)]}, id="one GPU more"),
        pytest.param(ON_291, ON_291, {"demangle": str.upper}, id="names in words"),
        pytest.param(
            ON_291, ON_291, {"known": {"ext": [extension(NEW_STRING).model_copy(update={"version": "2.0"})]}},
            id="what else is known",
        ),
    ],
)  # fmt: skip
def test_findings_of_libraries_change_with_each_thing_they_rest_on(
    knowledge: Knowledge, first: Installation, then: Installation, changed: dict[str, Any]
) -> None:
    """Each pair of cells differs in one thing that the rules about libraries rest on."""
    options: list[dict[str, Any]] = [{"targets": [SM120]}, {"targets": [SM120], **changed}]

    def reports(cells: Sequence[Installation], options: Sequence[dict[str, Any]]) -> list[AuditReport]:
        return [audit(cell, knowledge, **more).report for cell, more in zip(anew(cells), options, strict=True)]

    apart = [*reports([first], options[:1]), *reports([then], options[1:])]

    assert apart[0].findings != apart[1].findings
    assert apart == reports([first, then], options)
    assert apart[::-1] == reports([then, first], options[::-1])


@pytest.mark.parametrize("unknown", [{"history": TorchHistory.build({})}, {"python": {}}])
def test_findings_of_libraries_rest_on_the_knowledge(knowledge: Knowledge, unknown: dict[str, Any]) -> None:
    asking = extension(COMMON, NEW_STRING), facts("two", "1", module("two", "PyUnstable_Long_IsCompact"))
    cell = replace(ON, wheels=(torch("2.9.1"), cudart(), *asking), python="3.11")
    knowing = knowledge, replace(knowledge, **unknown)
    apart = [audit(untouched(cell), one) for one in knowing]

    assert apart[0] != apart[1]
    once, again = untouched(cell), untouched(cell)
    assert apart == [audit(once, one) for one in knowing]
    assert apart[::-1] == [audit(again, one) for one in reversed(knowing)]


def test_what_was_not_read_may_have_what_is_missed(knowledge: Knowledge) -> None:
    """A name of nobody's is no fault of a library whose neighbours have been read."""
    asking, brought = module("one", "plain", needed=("liba.so",), rpath=("$ORIGIN",)), library("one/liba.so")
    here = replace(ON, python="3.11")
    of_read, of_unread = (
        audit(replace(here, wheels=(facts("one", "1", asking, library),)), knowledge)
        for library in (brought, brought.model_copy(update={"scope": "listed"}))
    )

    assert [frozenset(), {"one/liba.so"}] == [{path for _, path in one.uncertain} for one in (of_read, of_unread)]
    assert () == of_read.report.findings == of_unread.report.findings


@pytest.mark.parametrize(("has", "lacking"), [("@@V1", False), ("@V1", False), ("", False), ("@@V2", True)])
def test_l3_a_symbol_is_asked_for_in_a_version(knowledge: Knowledge, has: str, lacking: bool) -> None:
    wheel = facts(
        "ext", "1",
        library("ext/_C.abi3.so", needed=("libp.so",), undefined=("_Z1fv@V1",), requires={"libp.so": ("V1",)},
                runpath=("$ORIGIN",), defined=("PyInit__C",)),
        library("ext/libp.so", soname="libp.so", defined=(f"_Z1fv{has}",), provides=("V1", "V2")),
    )  # fmt: skip

    assert lacking == bool(found(judged(knowledge, wheel), "L3"))


def test_suggestions_follow_what_is_known_by_now(knowledge: Knowledge) -> None:
    """They rest on what else is known by now."""
    wheel, newer = extension(COMMON, SYM_NE), extension(COMMON, NEW_STRING).model_copy(update={"version": "2.0"})
    apart = judged(knowledge, torch("2.9.1"), cudart(), wheel.model_copy(deep=True), known={"ext": [newer]})

    judged(knowledge, there := torch("2.9.1"), runtime := cudart(), wheel)

    assert apart == judged(knowledge, there, runtime, wheel, known={"ext": [newer]})
    assert "ext" in {item.package for finding in apart.findings for item in finding.suggestions}


def test_r1_what_was_forced_or_is_installed_weighs_less(knowledge: Knowledge) -> None:
    wheels = (facts("a", "1", requires=("b>=2",)), facts("b", "1"))
    for installation in (
        Installation(wheels=wheels, python="3.11", base=BOOKWORM, overridden=frozenset({"b"})),
        Installation(wheels=wheels, python="3.11", base=BOOKWORM, installed=True),
    ):
        report = audit(installation, knowledge).report

        assert [Severity.WARNING] == [finding.severity for finding in found(report, "R1")]


@pytest.mark.parametrize(
    ("filename", "requires_python", "python", "good"),
    [
        ("a-1-cp311-cp311-linux_x86_64.whl", None, "3.11", True),
        ("a-1-cp311-cp311-linux_x86_64.whl", None, "3.12", False),
        ("a-1-cp39-abi3-linux_x86_64.whl", None, "3.12", True),
        ("a-1-cp312-abi3-linux_x86_64.whl", None, "3.11", False),
        ("a-1-py3-none-any.whl", None, "3.11", True),
        ("a-1-py3-none-any.whl", ">=3.12", "3.11", False),
        ("a-1-py3-none-any.whl", ">=3.9,<3.13", "3.12", True),
    ],
)
def test_r2_tags_and_python(
    knowledge: Knowledge, filename: str, requires_python: str | None, python: str, good: bool
) -> None:
    wheel = facts("a", "1").model_copy(update={"filename": filename, "requires_python": requires_python})

    assert good is (not found(judged(knowledge, wheel, python=python), "R2"))


def test_r3_a_wheel_that_does_not_say_that_it_needs_torch(knowledge: Knowledge) -> None:
    silent = extension(COMMON, SYM_NE).model_copy(update={"requires_dist": ()})
    report = judged(knowledge, torch(), cudart(), silent)

    assert "built for torch 2.7 or 2.8" in found(report, "R3")[0].message
    assert not found(judged(knowledge, torch(), cudart(), extension(COMMON, SYM_NE)), "R3")


def test_l1_a_library_that_nothing_brings(knowledge: Knowledge) -> None:
    wheel = facts(
        "sgl-kernel",
        "0.3.9.post2",
        library(
            "sgl_kernel/common_ops.abi3.so",
            needed=("libnuma.so.1", "libc10.so"),
            undefined=(COMMON, SYM_NE, NEW_STRING),
        ),
        requires=("torch==2.8.0",),
    )  # fmt: skip
    (finding,) = found(judged(knowledge, torch(), cudart(), wheel), "L1")

    assert (Severity.ERROR, "abi-libnuma-missing") == (finding.severity, finding.cause)
    assert "libnuma1" in finding.fix
    numa = Base(name="slim", glibc="2.36", sonames=frozenset({"libnuma.so.1"}))
    assert not found(judged(knowledge, torch(), cudart(), wheel, base=numa), "L1")
    unknown = Base(name="not given", known=False)
    assert [Severity.WARNING] == [
        f.severity for f in found(judged(knowledge, torch(), cudart(), wheel, base=unknown), "L1")
    ]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("libnuma.so.1", "abi-libnuma-missing"),
        ("libcudart.so.12", "abi-cudart12"),
        ("libnvrtc.so.12", "abi-nvrtc12"),
        ("libcublasLt.so.12", "lib-cuda-generic"),
        ("libcudnn_ops.so.9", "lib-cuda-generic"),
        ("libcurl.so.4", "lib-missing"),
        ("libcups.so.2", "lib-missing"),
        ("libc10_cuda.so", "lib-torch"),
    ],
)
def test_l1_whose_library_is_missing(name: str, cause: str) -> None:
    assert cause == soname_cause(name)


def test_l1_the_driver_is_never_missing(knowledge: Knowledge) -> None:
    wheel = extension(COMMON, SYM_NE, NEW_STRING, "cuLaunchKernel", needed=("libcuda.so.1", "libnvidia-ml.so.1"))

    assert Verdict.OK is judged(knowledge, torch(), cudart(), wheel).verdict


def test_l1_another_cuda_major(knowledge: Knowledge) -> None:
    wheel = extension(COMMON, SYM_NE, NEW_STRING, needed=("libcudart.so.13",))
    report = judged(knowledge, torch(), cudart(), wheel)

    assert "this set has libcudart.so.12" in found(report, "L1")[0].message
    assert "abi-cudart12" == found(report, "L1")[0].cause
    assert found(report, "L10")


def test_l1_what_torch_would_bring_is_another_cuda_major_too(knowledge: Knowledge) -> None:
    """Given in part, torch's own CUDA libraries stand in the base; seen with sgl-kernel 0.3.9.post2 on torch 2.11."""
    base = replace(BOOKWORM, sonames=frozenset({"libcudart.so.13"}))
    wheel = extension(COMMON, SYM_NE, NEW_STRING, needed=("libcudart.so.12",))
    (finding,) = found(judged(knowledge, torch(), wheel, base=base, complete=False), "L1")

    assert "this set has libcudart.so.13" in finding.message
    assert "nvidia-cuda-runtime-cu12" not in finding.fix


def bitsandbytes(version: str, *numbers: str) -> WheelFacts:
    libraries = [
        library(f"bitsandbytes/libbitsandbytes_cuda{number}.so", needed=("libgone.so.1",), sass=("90",))
        for number in numbers
    ]
    return facts("bitsandbytes", version, *libraries, requires=("torch",))


@pytest.mark.parametrize(
    ("version", "cuda", "loaded"),
    [
        ("0.49.2", "12.8", "128"),
        ("0.50.2", "12.8", "128"),
        ("0.50.2", "12.9", "128"),
        ("0.50.2", "12.0", "124"),
        ("0.50.2", "13.0", None),
        ("0.49.2", "12.9", None),
    ],
)
def test_l1_a_package_that_picks_its_library_by_the_cuda_of_torch(
    knowledge: Knowledge, version: str, cuda: str, loaded: str | None
) -> None:
    """bitsandbytes loads one of many libraries by ctypes: it alone is judged."""
    wheel = bitsandbytes(version, "118", "124", "128")
    used = torch().model_copy(update={"cuda": cuda})
    report = judged(knowledge, used, cudart(), wheel, targets=(SM120,))
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]

    if loaded is None:
        assert [f"none that it would load with torch 2.8.0 for CUDA {cuda}"] == [
            finding.message.partition("and ")[2] for finding in errors
        ]
    else:
        assert {("L1", f"bitsandbytes/libbitsandbytes_cuda{loaded}.so"),
                ("G1", f"bitsandbytes/libbitsandbytes_cuda{loaded}.so")} == {
            (finding.rule, finding.library) for finding in errors
        }  # fmt: skip


def test_l1_a_library_out_of_reach_is_not_an_error(knowledge: Knowledge) -> None:
    holder = facts("holder", "1", library("holder/lib/libheld.so.1", soname="libheld.so.1"))
    wheel = extension(COMMON, SYM_NE, NEW_STRING, needed=("libheld.so.1",))
    (finding,) = found(judged(knowledge, torch(), cudart(), holder, wheel), "L1")

    assert Severity.WARNING is finding.severity
    assert "holder 1 has where the linker does not look" in finding.message


@pytest.mark.parametrize(
    ("rpath", "runpath", "good"),
    [
        (("$ORIGIN/../a.libs",), (), True),
        ((), ("$ORIGIN/../a.libs",), True),
        (("${ORIGIN}/../a.libs",), (), True),
        (("$ORIGIN/../b.libs",), (), False),
    ],
)
def test_l1_search_paths(knowledge: Knowledge, rpath: tuple[str, ...], runpath: tuple[str, ...], good: bool) -> None:
    wheel = facts(
        "a", "1",
        library("a/_x.abi3.so", needed=("libinner.so",), rpath=rpath, runpath=runpath, defined=("PyInit__x",)),
        library("a.libs/libinner.so", soname="libinner.so"),
    )  # fmt: skip

    assert good is (not found(judged(knowledge, wheel), "L1"))


def test_l1_rpath_reaches_further_than_runpath(knowledge: Knowledge) -> None:
    """DT_RPATH of a library counts for what it pulls in, DT_RUNPATH does not (ld.so(8))."""
    for rpath, runpath, good in ((("$ORIGIN/../a.libs",), (), True), ((), ("$ORIGIN/../a.libs",), False)):
        wheel = facts(
            "a", "1",
            library("a/_x.abi3.so", needed=("libfirst.so",), rpath=rpath, runpath=runpath, defined=("PyInit__x",)),
            library("a.libs/libfirst.so", soname="libfirst.so", needed=("libsecond.so",)),
            library("a.libs/libsecond.so", soname="libsecond.so"),
        )  # fmt: skip

        assert good is (not found(judged(knowledge, wheel), "L1"))


def test_l3_a_symbol_torch_lacks_says_who_has_it_and_what_would_fit(knowledge: Knowledge) -> None:
    other = extension(COMMON, NEW_STRING).model_copy(update={"version": "2.0", "requires_dist": ("torch==2.9.1",)})
    report = judged(knowledge, torch("2.9.1"), cudart(), extension(COMMON, SYM_NE, NEW_STRING), known={"ext": [other]})
    (finding,) = found(report, "L3")

    assert Verdict.FAIL is report.verdict
    assert (SYM_NE,) == finding.symbols
    assert "built for torch 2.8; torch 2.9.1 lacks" in finding.message
    assert "torch 2.7.1 to 2.8.0 have it" in finding.message
    assert [("torch", ("2.8.0",)), ("ext", ("2.0",))] == [(s.package, s.versions) for s in finding.suggestions]


def test_l3_a_module_named_like_one_of_torch_is_not_taken_for_it(knowledge: Knowledge) -> None:
    """Seen: deep_gemm's _C.cpython-311-x86_64-linux-gnu.so, which torch has too, was let through."""
    path = "ext/_C.cpython-311-x86_64-linux-gnu.so"
    report = judged(knowledge, torch("2.9.1"), cudart(), extension(COMMON, SYM_NE, NEW_STRING, path=path))

    assert [path] == [finding.library for finding in found(report, "L3")]


def test_l3_weak_symbols_never_fail(knowledge: Knowledge) -> None:
    wheel = facts(
        "ext", "1",
        library("ext/_C.abi3.so", needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING), weak=(OLD_ONLY,)),
        requires=("torch",),
    )  # fmt: skip

    assert Verdict.OK is judged(knowledge, torch(), cudart(), wheel).verdict


def test_l3_the_closure_counts_not_only_what_is_named(knowledge: Knowledge) -> None:
    """A symbol may come from a library that another needed library needs."""
    wheel = extension(COMMON, SYM_NE, NEW_STRING, "cudaMalloc@libcudart.so.12", needed=("libtorch_cuda.so",))

    assert Verdict.OK is judged(knowledge, torch(), cudart(), wheel).verdict


def test_l3_what_was_not_read_makes_the_verdict_uncertain(knowledge: Knowledge) -> None:
    hidden = facts("hidden", "1", library("hidden/libh.so.1", soname="libh.so.1", scope="listed"))
    wheel = facts(
        "a", "1",
        library("a/_x.abi3.so", needed=("libh.so.1",), undefined=("_ZN1h4callEv",), defined=("PyInit__x",),
                rpath=("$ORIGIN/../hidden",)),
    )  # fmt: skip
    installation = Installation(wheels=(hidden, wheel), python="3.11", base=BOOKWORM)

    assert frozenset({(hidden.sha256, "hidden/libh.so.1")}) == audit(installation, knowledge).uncertain


def test_l4_a_version_a_library_does_not_define(knowledge: Knowledge) -> None:
    wheel = facts(
        "ext", "1",
        library("ext/_C.abi3.so", needed=("libc10.so", "libcudart.so.12"), undefined=(COMMON, SYM_NE, NEW_STRING),
                requires={"libcudart.so.12": ("libcudart.so.12.99",)}),
        requires=("torch",),
    )  # fmt: skip
    (finding,) = found(judged(knowledge, torch(), cudart(), wheel), "L4")

    assert "libcudart.so.12.99" in finding.message


def test_l5_symbols_another_python_has(knowledge: Knowledge) -> None:
    wheel = facts("a", "1", library("a/_x.abi3.so", undefined=("PyEval_CallObjectWithKeywords", "PyObject_Call"),
                                    defined=("PyInit__x",)))  # fmt: skip
    wheel = wheel.model_copy(update={"filename": "a-1-cp39-abi3-linux_x86_64.whl"})

    assert not found(judged(knowledge, wheel, python="3.12"), "L5")
    gone = facts("a", "1", library("a/_x.abi3.so", undefined=("_PyUnicode_Ready_Gone",), defined=("PyInit__x",)))
    (finding,) = found(judged(knowledge, gone), "L5")
    assert "no abi3 library" in finding.message


def test_l5_a_file_for_another_python_is_not_seen(knowledge: Knowledge) -> None:
    wheel = facts(
        "a", "1", library("a/_x.cpython-310-x86_64-linux-gnu.so", undefined=("Nowhere",), defined=("PyInit__x",))
    )

    assert "Python 3.11 does not see it" in found(judged(knowledge, wheel), "L5")[0].message


def test_l5_the_same_module_for_this_python_stands_beside_it(knowledge: Knowledge) -> None:
    """Seen: vLLM 0.24.0 brings deep_gemm's module for five Pythons; four of them do not matter."""
    paths = [f"a/_x.cpython-{number}-x86_64-linux-gnu.so" for number in ("310", "311", "312")]
    modules = [library(path, needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING)) for path in paths]
    silent = judged(knowledge, torch(), cudart(), facts("a", "1", *modules, requires=("torch==2.8.0",)))

    assert Verdict.OK is silent.verdict
    alone = judged(knowledge, torch("2.9.1"), cudart(), facts("a", "1", *modules, requires=("torch",)))
    assert [paths[1]] == [finding.library for finding in found(alone, "L3")]


def test_l5_what_is_loaded_by_its_path_needs_no_fitting_name(knowledge: Knowledge) -> None:
    """Seen: torchao loads every torchao/_C*.so; sglang-kernel loads infllm_ops, which pybind11 then refuses."""
    loaded = library("torchao/_C_mxfp8.cpython-310-x86_64-linux-gnu.so", needed=("libc10.so",), undefined=(COMMON,))
    guarded = library("sgl_kernel/infllm_ops.cpython-310-x86_64-linux-gnu.so", undefined=(COMMON,),
                      needed=("libc10.so",)).model_copy(update={"notes": {"pybind11_python": "3.10"}})  # fmt: skip
    torchao, kernel = (facts(name, "1", item, requires=("torch==2.8.0",)) for name, item in
                       (("torchao", loaded), ("sglang-kernel", guarded)))  # fmt: skip

    assert not found(judged(knowledge, torch(), cudart(), torchao), "L5")
    assert "refuses to load" in found(judged(knowledge, torch(), cudart(), kernel), "L5")[0].message


@pytest.mark.parametrize(("driver", "good"), [(None, True), ("12.8", True), ("12.3", False)])
def test_l6_functions_of_a_newer_driver(knowledge: Knowledge, driver: str | None, good: bool) -> None:
    target = TargetGpu(name="sm_120", capability=120, driver_cuda=driver)
    wheel = extension(COMMON, SYM_NE, NEW_STRING, "cuGreenCtxCreate", needed=("libcuda.so.1",))

    assert good is (not found(judged(knowledge, torch(), cudart(), wheel, targets=(target,)), "L6"))


@pytest.mark.parametrize(
    ("version", "good"),
    [("GLIBC_2.36", True), ("GLIBC_2.38", False), ("GLIBCXX_3.4.31", False), ("GLIBC_PRIVATE", True)],
)
def test_l7_the_runtime_of_the_base(knowledge: Knowledge, version: str, good: bool) -> None:
    wheel = facts("a", "1", library("a/_x.abi3.so", requires={"libc.so.6": (version,)}, needed=("libc.so.6",),
                                    undefined=(f"f@{version}",), defined=("PyInit__x",)))  # fmt: skip

    assert good is (not found(judged(knowledge, wheel), "L7"))


def test_l7_an_image_is_judged_by_its_own_libraries(knowledge: Knowledge) -> None:
    libc = library("/lib/libc.so.6", soname="libc.so.6", provides=("GLIBC_2.17",))
    wheel = facts("a", "1", library("a/_x.abi3.so", requires={"libc.so.6": ("GLIBC_2.18",)}, needed=("libc.so.6",),
                                    defined=("PyInit__x",)))  # fmt: skip

    assert found(judged(knowledge, wheel, base=Base(name="image", libraries=(libc,))), "L7")


def test_l8_the_old_string_abi(knowledge: Knowledge) -> None:
    report = judged(knowledge, torch("2.8.0"), cudart(), extension(COMMON, OLD_STRING))

    assert "abi-pre-cxx11" == found(report, "L8")[0].cause


def test_l9_all_symbols_resolve_and_yet_it_was_built_for_another_torch(knowledge: Knowledge) -> None:
    """One library names torch 2.8; its sibling finds all symbols on 2.9.1 and was measured to abort there."""
    wheel = facts(
        "ext", "1",
        library("ext/_telling.abi3.so", needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING)),
        library("ext/_silent.abi3.so", needed=("libc10.so",), undefined=(COMMON,)),
        requires=("torch",),
    )  # fmt: skip
    report = judged(knowledge, torch("2.9.1"), cudart(), wheel)

    assert ["_silent.abi3.so;"] == [
        word for f in found(report, "L9") for word in f.message.split() if word.startswith("_si")
    ]
    assert "audit-abi-risk" == found(report, "L9")[0].cause


def test_l9_a_pin_says_which_torch(knowledge: Knowledge) -> None:
    pinned = extension(COMMON).model_copy(update={"requires_dist": ("torch (==2.7.1)",)})
    report = judged(knowledge, torch("2.8.0"), cudart(), pinned)

    assert {"R1", "L9"} == {f.rule for f in report.findings if f.severity is Severity.ERROR}


def test_l9_the_stable_abi_asks_for_the_newest_function_it_uses(knowledge: Knowledge) -> None:
    wheel = facts("ext", "1", library("ext/_C.abi3.so", undefined=("aoti_torch_new",)), requires=("torch",))

    assert "from 2.9 on" in found(judged(knowledge, torch("2.8.0"), cudart(), wheel), "L9")[0].message
    assert not found(judged(knowledge, torch("2.9.1", more=("aoti_torch_new",)), cudart(), wheel), "L9")


@pytest.mark.parametrize(
    ("use", "sass", "severity"),
    [("vllm/_C.abi3.so", ("90",), Severity.ERROR), ("vllm/_flashmla_C.abi3.so", ("90a",), Severity.INFO)],
)
def test_g1_a_library_without_code_is_judged_by_how_it_is_used(
    knowledge: Knowledge, use: str, sass: tuple[str, ...], severity: Severity
) -> None:
    used = library(use, needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING), sass=sass)
    wheel = facts("vllm", "0.11.0", used, requires=("torch==2.8.0",))

    assert [severity] == [
        f.severity for f in found(judged(knowledge, torch(), cudart(), wheel, targets=(SM120,)), "G1")
    ]


def test_g1_a_torch_without_code_for_the_gpu(knowledge: Knowledge) -> None:
    report = judged(knowledge, torch(sass=("80", "90")), cudart(), targets=(SM120,))

    assert "arch-torch-incompatible" == found(report, "G1")[0].cause
    assert Verdict.FAIL is report.verdict
    predicted = report.predicted()["sm_120"]
    assert (Outcome.BROKEN, Outcome.BROKEN) == (predicted["torch-device"], predicted["cuda-graphs"])


class Unasked(dict[str, list[WheelFacts]]):
    """Known facts that are read when they are asked for, and look empty until then."""

    def __bool__(self) -> bool:
        return False


def test_g1_says_which_known_version_has_code(knowledge: Knowledge) -> None:
    made = {version: torch("2.8.0", sass=sass).model_copy(update={"version": version})
            for version, sass in (("2.6.0", ("90",)), ("2.9.1", ("120",)), ("2.11.0", ("90", "120")))}  # fmt: skip
    lazy = Unasked(torch=[*made.values()])
    report = judged(knowledge, torch(sass=("80", "90")), cudart(), targets=(SM120,), known=lazy)

    assert [("torch", ("2.9.1", "2.11.0"))] == [
        (one.package, one.versions) for one in found(report, "G1")[0].suggestions
    ]


def test_predictions_tell_machine_code_from_ptx_and_wrong_from_slow(knowledge: Knowledge) -> None:
    def vllm(sass: tuple[str, ...] = (), ptx: tuple[str, ...] = ()) -> WheelFacts:
        moe = library(
            "vllm/_moe_C.abi3.so", needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING), sass=sass, ptx=ptx
        )
        groups = tuple(g.model_copy(update={"kernels": ("_ZN10marlin_moe6MarlinEv",)}) for g in moe.gpu.groups)  # type: ignore[union-attr]
        moe = moe.model_copy(update={"gpu": moe.gpu.model_copy(update={"groups": groups})})  # type: ignore[union-attr]
        return facts("vllm", "0.11.0", moe, requires=("torch==2.8.0",))

    def outcome(wheel: WheelFacts) -> Outcome:
        return judged(knowledge, torch(), cudart(), wheel, targets=(SM120,)).predicted()["sm_120"]["marlin-moe"]

    assert Outcome.WORKS is outcome(vllm(sass=("120",)))
    assert Outcome.WRONG is outcome(vllm(ptx=("90@8.7",)))
    assert Outcome.BROKEN is outcome(vllm(sass=("90a",)))


def kernels(path: str, *names: str, sass: tuple[str, ...], undefined: tuple[str, ...] = ()) -> Library:
    made = library(path, needed=("libc10.so",), undefined=(COMMON, *undefined), sass=sass)
    assert made.gpu is not None
    groups = tuple(group.model_copy(update={"kernels": names}) for group in made.gpu.groups)
    return made.model_copy(update={"gpu": made.gpu.model_copy(update={"groups": groups})})


def test_a_library_for_other_gpus_gives_no_feature(knowledge: Knowledge) -> None:
    """Seen: sglang-kernel's sm90/common_ops has code for 12.0 and is loaded on 9.0 alone."""

    def predicted(capability: int, **broken: tuple[str, ...]) -> tuple[Outcome, str]:
        wheel = facts("sglang-kernel", "0.4.6", *(
            kernels(f"sgl_kernel/{name}/common_ops.abi3.so", "cutlass_e4m3", sass=("90", "120"),
                    undefined=broken.get(name, ()))
            for name in ("sm90", "sm100")
        ), requires=("torch==2.8.0",))  # fmt: skip
        target = TargetGpu(name=f"sm_{capability}", capability=capability)
        report = judged(knowledge, torch(sass=("90", "120")), cudart(), wheel, targets=(target,))
        (row,) = [item for item in report.predictions if item.feature == "fp8-gemm"]
        return row.outcome, row.reason

    assert Outcome.WORKS is predicted(120)[0]
    assert Outcome.WORKS is predicted(120, sm90=(OLD_ONLY,))[0]
    outcome, reason = predicted(120, sm100=(OLD_ONLY,))
    assert Outcome.BROKEN is outcome
    assert "sm100/common_ops" in reason
    assert Outcome.WORKS is predicted(90, sm100=(OLD_ONLY,))[0]
    assert Outcome.BROKEN is predicted(90, sm90=(OLD_ONLY,))[0]


def test_two_targets_are_judged_each_by_its_own_policy(knowledge: Knowledge) -> None:
    wheel = facts("sgl-kernel", "0.3.9", kernels("sgl_kernel/flash_ops.abi3.so", "flash", sass=("80",)),
                  requires=("torch==2.8.0",))  # fmt: skip
    targets = (TargetGpu(name="sm_90", capability=90), SM120)
    report = judged(knowledge, torch(), cudart(), wheel, targets=targets)

    assert {"sm_90": Severity.WARNING, "sm_120": Severity.INFO} == {
        finding.target: finding.severity for finding in found(report, "G1")
    }


def test_what_rests_on_something_unsupported_is_so_itself(knowledge: Knowledge) -> None:
    wheels = (
        facts("sgl-kernel", "0.3.9", kernels("sgl_kernel/flash_ops.abi3.so", "flash", sass=("90a",)),
              kernels("sgl_kernel/common_ops.abi3.so", "rms_norm", sass=("120",)), requires=("torch==2.8.0",)),
        facts("sglang", "0.5.2"),
    )  # fmt: skip
    predicted = judged(knowledge, torch(), cudart(), *wheels, targets=(SM120,)).predicted()["sm_120"]

    assert (Outcome.UNSUPPORTED, Outcome.UNSUPPORTED) == (predicted["flash-attn-3"], predicted["sglang-fa3"])
    assert Outcome.WORKS is predicted["sglang-engine"]


def test_a_package_that_cannot_be_imported_gives_no_feature(knowledge: Knowledge) -> None:
    """flash_ops would load; sgl_kernel, which imports common_ops, would not."""
    wheel = facts("sgl-kernel", "0.3.9", kernels("sgl_kernel/flash_ops.abi3.so", "flash", sass=("90a",)),
                  kernels("sgl_kernel/common_ops.abi3.so", "rms_norm", sass=("90",), undefined=(OLD_ONLY,)),
                  requires=("torch==2.8.0",))  # fmt: skip
    target = TargetGpu(name="sm_90", capability=90)
    report = judged(knowledge, torch(), cudart(), wheel, targets=(target,))

    assert Outcome.BROKEN is report.predicted()["sm_90"]["flash-attn-3"]


@pytest.mark.parametrize(
    ("packages", "complete", "known", "expected"),
    [
        (("cuda-toolkit",), True, True, (Outcome.WORKS, False)),
        ((), True, True, (Outcome.INCONCLUSIVE, True)),
        ((), True, False, (Outcome.WORKS, True)),
        ((), False, True, (Outcome.WORKS, True)),
    ],
)
def test_what_compiles_at_run_time_says_so(
    knowledge: Knowledge, packages: tuple[str, ...], complete: bool, known: bool, expected: tuple[Outcome, bool]
) -> None:
    base = replace(BOOKWORM, packages=frozenset(packages), known=known)
    report = judged(knowledge, torch(), cudart(), facts("flashinfer-python", "0.5.3"), base=base, targets=(SM120,),
                    complete=complete)  # fmt: skip
    (row,) = [item for item in report.predictions if item.feature == "flashinfer"]

    assert expected == (row.outcome, "nvcc" in row.reason)


@pytest.mark.parametrize(
    ("package", "brings"),
    [
        ("nvidia-cuda-toolkit", True), ("cuda-toolkit-12-8", True), ("cuda-nvcc-12-8", True), ("cuda-toolkit", True),
        ("cuda-nvcc-12-8-dev", False), ("libnuma1", False),
    ],
)  # fmt: skip
def test_packages_of_the_base_bring_nvcc(knowledge: Knowledge, package: str, brings: bool) -> None:
    slim = BootstrapBase(kind="bootstrap", distribution="debian", suite="bookworm", python="3.11", glibc="2.36")

    base = base_of(slim, "slim", (package,), knowledge, environment={})

    assert base.closed
    assert brings == ("cuda-toolkit" in base.packages)
    report = judged(knowledge, torch(), cudart(), facts("flashinfer-python", "0.3.1"), base=base, targets=(SM120,))
    expected = Outcome.WORKS if brings else Outcome.BROKEN
    assert expected is report.predicted()["sm_120"]["flashinfer"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_a_source_archive_has_needs_too(knowledge: Knowledge, named: bool, closed: bool) -> None:
    """Seen: flashinfer-python 0.3.1 is a source archive, and nothing was said of what it needs."""
    installation = Installation(
        wheels=(torch(), cudart(), facts("flashinfer-python", "0.3.1", filename="flashinfer_python-0.3.1.tar.gz")),
        python="3.11",
        base=replace(BOOKWORM, closed=closed),
        complete=False,
        named=named,
    )
    report = audit(installation, knowledge, targets=[SM120]).report
    (row,) = [item for item in report.predictions if item.feature == "flashinfer"]

    assert named == ("fi-no-nvcc" in {item.cause for item in found(report, "R4")})
    expected = {(True, True): Outcome.BROKEN, (True, False): Outcome.INCONCLUSIVE}.get((named, closed), Outcome.WORKS)
    assert expected is row.outcome


@pytest.mark.parametrize(
    ("version", "others", "packages", "environment", "missing"),
    [
        ("0.5.2", ("flashinfer-python",), (), {"CUDA_HOME"}, True),
        ("0.5.3.post3", ("flashinfer-python",), (), {"CUDA_HOME"}, True),
        ("0.5.1", ("flashinfer-python",), (), {"CUDA_HOME"}, False),
        ("0.5.4", ("flashinfer-python",), (), {"CUDA_HOME"}, False),
        ("0.5.2", (), (), {"CUDA_HOME"}, False),
        ("0.5.2", ("flashinfer-python", "flashinfer-jit-cache"), (), {"CUDA_HOME"}, False),
        ("0.5.2", ("flashinfer-python",), ("cuda-toolkit",), {"CUDA_HOME"}, False),
        ("0.5.2", ("flashinfer-python", "nvidia-cuda-nvcc"), (), {"CUDA_HOME"}, False),
        ("0.5.2", ("flashinfer-python", "nvidia-cuda-nvcc-cu12"), (), {"CUDA_HOME"}, True),
        ("0.5.2", ("flashinfer-python",), (), {"SGLANG_IS_FLASHINFER_AVAILABLE"}, False),
        ("0.5.2", ("flashinfer-python",), (), None, False),
    ],
)
def test_sglang_that_takes_a_norm_of_flashinfer_has_to_compile_it(
    knowledge: Knowledge,
    *,
    version: str,
    others: tuple[str, ...],
    packages: tuple[str, ...],
    environment: set[str] | None,
    missing: bool,
) -> None:
    """Seen on an H200: the starter image of SGLang 0.5.2 ended at its first token, whatever attention was chosen."""
    wheels = (torch(), cudart(), facts("sglang", version), *(facts(name, "0.3.1") for name in others))
    base = replace(
        BOOKWORM,
        packages=frozenset(packages),
        environment=None if environment is None else frozenset(environment),
        closed=True,
    )

    report = audit(Installation(wheels=wheels, python="3.11", base=base), knowledge, targets=[SM120]).report

    engine = next(item for item in report.predictions if item.feature == "sglang-engine")
    assert missing == (engine.outcome is Outcome.BROKEN) == (engine.cause == "fi-no-nvcc")
    assert missing == any(item.severity is Severity.ERROR and item.cause == "fi-no-nvcc" for item in report.findings)


def test_what_the_hardware_lacks_is_unsupported_whatever_kernels_there_are(knowledge: Knowledge) -> None:
    """Seen: sglang-kernel 0.4.4 has no FP4 kernel; measured on 9.0 as unsupported."""
    wheel = facts("sglang-kernel", "0.4.4", kernels("sgl_kernel/sm90/common_ops.abi3.so", "rms_norm", sass=("90",)),
                  requires=("torch==2.8.0",))  # fmt: skip
    hopper = TargetGpu(name="sm_90", capability=90)

    def predicted(*wheels: WheelFacts) -> dict[str, Outcome]:
        return judged(knowledge, torch(), cudart(), *wheels, targets=(hopper,)).predicted()["sm_90"]

    assert Outcome.UNSUPPORTED is predicted(wheel)["nvfp4"]
    assert "nvfp4" not in predicted()


def test_a_feature_without_its_package_is_not_predicted(knowledge: Knowledge) -> None:
    assert "marlin" not in judged(knowledge, torch(), cudart(), targets=(SM120,)).predicted()["sm_120"]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (BOOKWORM, Outcome.BROKEN),
        (replace(BOOKWORM, sonames=BOOKWORM.sonames | {"libnuma.so.1"}), Outcome.WORKS),
        (replace(BOOKWORM, libraries=(library("/lib/libnuma.so.1.0.0", soname="libnuma.so.1"),)), Outcome.WORKS),
        (replace(BOOKWORM, libraries=(library("/lib/libnuma.so.1"),)), Outcome.WORKS),
        (replace(BOOKWORM, libraries=(library("/lib/libz.so.1"),)), Outcome.BROKEN),
    ],
)
def test_a_library_of_the_base_decides_a_feature(knowledge: Knowledge, base: Base, expected: Outcome) -> None:
    installation = Installation(wheels=(torch(), cudart()), python="3.11", base=base)
    (row,) = [
        item for item in audit(installation, knowledge, targets=[SM120]).report.predictions if item.feature == "numa"
    ]

    assert expected is row.outcome
    assert ("abi-libnuma-missing" if expected is Outcome.BROKEN else None) == row.cause


def test_a_back_end_of_an_engine_needs_both(knowledge: Knowledge) -> None:
    def predicted(*wheels: WheelFacts) -> dict[str, Outcome]:
        base = replace(BOOKWORM, packages=frozenset({"cuda-toolkit"}))
        installation = Installation(wheels=(torch(), cudart(), *wheels), python="3.11", base=base)
        return {
            item.feature: item.outcome for item in audit(installation, knowledge, targets=[SM120]).report.predictions
        }

    engine, old, new = (
        facts("sglang", "0.5.2"),
        facts("flashinfer-python", "0.2.0"),
        facts("flashinfer-python", "0.3.1"),
    )

    assert "sglang-flashinfer" not in predicted(engine)
    assert "sglang-flashinfer" not in predicted(new)
    assert Outcome.WORKS is predicted(engine, new)["sglang-flashinfer"]
    assert "flashinfer" not in predicted(engine, old)
    assert Outcome.INCONCLUSIVE is predicted(engine, old)["sglang-flashinfer"]


def test_r4_what_no_wheel_says(knowledge: Knowledge) -> None:
    triton = facts("triton", "3.4.0")
    compiler = Base(name="slim", packages=frozenset({"gcc"}))

    assert "tk-no-c-compiler" == found(judged(knowledge, triton), "R4")[0].cause
    assert not found(judged(knowledge, triton, base=compiler), "R4")


@pytest.mark.parametrize(
    ("environment", "packages", "target", "missing"),
    [
        (frozenset(), frozenset(), SM120, True),
        (frozenset({"CUDA_HOME"}), frozenset(), SM120, False),
        (frozenset(), frozenset({"cuda-toolkit"}), SM120, False),
        (frozenset(), frozenset(), replace(SM120, name="sm_89", capability=89), False),
        (None, frozenset(), SM120, False),
    ],
)
def test_r4_what_the_environment_has_to_say(
    knowledge: Knowledge,
    environment: frozenset[str] | None,
    packages: frozenset[str],
    target: TargetGpu,
    missing: bool,
) -> None:
    base = replace(BOOKWORM, packages=packages, environment=environment)
    wheels = (torch(), cudart(), facts("sgl-kernel", "0.3.9.post2"), facts("sglang", "0.5.2"))

    report = audit(Installation(wheels=wheels, python="3.11", base=base), knowledge, targets=[target]).report

    told = [item for item in report.findings if item.cause == "tk-deep-gemm-cuda-home"]
    assert missing == bool(told)
    assert missing == any(
        item.feature == "sglang-engine" and item.cause == "tk-deep-gemm-cuda-home" for item in report.predictions
    )
    if told:
        assert "set CUDA_HOME or CUDA_PATH" in told[0].fix


def test_f1_a_library_that_could_not_be_read_is_reported(knowledge: Knowledge) -> None:
    broken = library("a/_x.so", scope="listed").model_copy(update={"problem": "a table is cut short"})

    assert Verdict.WARN is judged(knowledge, facts("a", "1", broken)).verdict


def test_torch_that_was_not_read_is_judged_by_the_table(knowledge: Knowledge) -> None:
    unread = torch("2.9.1")
    unread = unread.model_copy(
        update={"libraries": tuple(library(item.path, scope="listed") for item in unread.libraries)}
    )
    report = judged(knowledge, unread, extension(COMMON, SYM_NE, NEW_STRING), complete=False)

    assert [(SYM_NE,)] == [f.symbols for f in found(report, "L3")]
    fine = judged(knowledge, unread, extension(COMMON, NEW_STRING), complete=False)
    assert Verdict.OK is fine.verdict


def test_variants_for_other_torch_releases_do_not_count(knowledge: Knowledge) -> None:
    """Seen: torch-c-dlpack-ext brings a library for each torch, and loads the one that fits."""
    variant = library("ext/libext_torch27-cuda.so", needed=("libc10.so",), undefined=(COMMON, OLD_ONLY))
    wheel = facts("torch-c-dlpack-ext", "1", variant, requires=("torch",))

    assert Verdict.OK is judged(knowledge, torch("2.8.0"), cudart(), wheel).verdict
    assert Verdict.OK is judged(knowledge, torch("2.7.1"), cudart(), wheel).verdict
    unknown = wheel.model_copy(update={"name": "ext"})
    assert Verdict.OK is judged(knowledge, torch("2.7.1"), cudart(), unknown).verdict
    assert ["brings libraries for torch 2.7, and none for torch 2.8.0"] == [
        item.message.partition(":")[0] for item in judged(knowledge, torch("2.8.0"), cudart(), unknown).findings
    ]


@pytest.mark.parametrize(("version", "fits"), [("2.8.0", True), ("2.9.1", True), ("2.7.1", False)])
def test_variants_that_differ_in_a_number_alone(knowledge: Knowledge, version: str, fits: bool) -> None:
    """Seen: mooncake brings pg_2_11_0 to pg_2_13_0; all of them together fit no torch, the right one does."""
    wheel = facts(
        "ext", "1",
        library("ext/pg_2_8_0.so", needed=("libc10.so",), undefined=(COMMON, SYM_NE, NEW_STRING)),
        library("ext/pg_2_9_0.so", needed=("libc10.so",), undefined=(COMMON, NEW_STRING)),
        requires=("torch",),
    )  # fmt: skip
    report = judged(knowledge, torch(version), cudart(), wheel)

    assert (Verdict.OK if fits else Verdict.WARN) is report.verdict
    assert fits is (not any("brings libraries for torch 2.8, 2.9" in item.message for item in found(report, "L9")))


def test_variants_for_another_cuda_do_not_count(knowledge: Knowledge) -> None:
    """Seen: torch-memory-saver brings _cu12, _cu13, and the same without either for older loaders."""
    names = {"hook.abi3.so": "12", "hook_cu12.abi3.so": "12", "hook_cu13.abi3.so": "13"}
    wheel = facts(
        "ext", "1",
        *(library(f"ext/{name}", needed=(f"libcudart.so.{major}",), defined=("PyInit_hook",))
          for name, major in names.items()),
    )  # fmt: skip
    new = cudart().model_copy(update={"libraries": (library("nvidia/libcudart.so.13", soname="libcudart.so.13"),)})
    thirteen = [item.model_copy(update={"needed": ("libcudart.so.13",) if item.name == "libtorch_global_deps.so"
                                        else tuple(name for name in item.needed if "cudart" not in name),
                                        "rpath": ("$ORIGIN/../../nvidia",)}) for item in torch().libraries]  # fmt: skip
    report = judged(
        knowledge,
        torch().model_copy(update={"libraries": tuple(thirteen), "cuda": "13.0", "requires_dist": ()}),
        new,
        wheel,
    )

    assert not found(report, "L10")
    assert not found(report, "L1")
    alone = wheel.model_copy(update={"libraries": wheel.libraries[:1]})
    assert found(judged(knowledge, torch().model_copy(update={"cuda": "13.0"}), new, alone), "L1")


def test_symbols_of_torch_that_are_there_but_out_of_reach_are_no_error(knowledge: Knowledge) -> None:
    wheel = facts("ext", "1", library("ext/_bridge.abi3.so", undefined=("aoti_torch_new",)), requires=("torch",))
    report = judged(knowledge, torch("2.9.1", more=("aoti_torch_new",)), cudart(), wheel)

    assert [Severity.WARNING] == [finding.severity for finding in found(report, "L3")]

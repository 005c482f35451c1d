"""Questions about wheels: what nobody said comes from the wheels themselves, and is said to have come from there."""

from __future__ import annotations

from pathlib import Path

import pytest
from shelf import Shelf
from wheels import facts, library

from assay.adapters.files.knowledge import load_knowledge
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.formats import text
from assay.audit.history import TorchHistory
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import Knowledge
from assay.audit.promised import promised
from assay.cli.asking import Asker, Question
from assay.cli.audit_wheels import WheelQuestion, answer_grid, answer_one, questions
from assay.errors import PackageIndexError, QuestionError, UsageError
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.cards import Named
from assay.pipeline.audit import Auditor
from assay.wheels.facts import WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode
from assay.wheels.tags import fits_platform, platform_of, platform_words, python_of

ROOT = Path(__file__).parents[2]
NOWHERE = Base(name="not given", known=False)
SM120 = TargetGpu(name="sm_120", capability=120)
COMMON, OLD = "_ZN3c105checkEv", "_ZN2at4goneEv"


def knowledge() -> Knowledge:
    real = load_knowledge()
    history = TorchHistory.build({"2.8.0": ("12.8", [COMMON, OLD]), "2.9.1": ("12.8", [COMMON])})
    return Knowledge(sonames=real.sonames, ptx=real.ptx, needs=real.needs, dispatch=real.dispatch, history=history,
                     companions=real.companions, toolkit=real.toolkit)  # fmt: skip


def asker(*wheels: WheelFacts, base: Base = NOWHERE) -> Asker:
    shelf = Shelf(*wheels)
    auditor = Auditor(index=shelf, wheels=shelf, facts=shelf, knowledge=knowledge())  # type: ignore[arg-type]
    return Asker(auditor, shelf, base)


def wheel(
    name: str, version: str, *libraries: object, tag: str = "cp312-cp312-manylinux_2_28_x86_64", **more: object
) -> WheelFacts:
    made = facts(name, version, *libraries, **more)  # type: ignore[arg-type]
    filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    return made.model_copy(update={"filename": filename, "sha256": f"{abs(hash(filename)):064x}"[:64]})


def torch(version: str, tag: str = "cp312-cp312-manylinux_2_28_x86_64", *, cuda: bool = True) -> WheelFacts:
    own = (COMMON, OLD) if version.startswith("2.8") else (COMMON,)
    gpu = [library("torch/lib/libtorch_cuda.so", soname="libtorch_cuda.so", sass=("90", "120"))] if cuda else []
    return wheel(
        "torch",
        version,
        library("torch/_C.cpython-312-x86_64-linux-gnu.so", needed=("libc10.so",), rpath=("$ORIGIN/lib",)),
        library("torch/lib/libtorch_cpu.so", soname="libtorch_cpu.so"),
        library("torch/lib/libc10.so", soname="libc10.so", defined=own),
        *gpu,
        tag=tag,
        requires=("nvidia-cuda-runtime-cu12==12.8.90",),
    )


def extension(
    *undefined: str, needed: tuple[str, ...] = ("libc10.so",), tag: str = "cp312-cp312-manylinux_2_28_x86_64",
    requires: tuple[str, ...] = (), sass: tuple[str, ...] = ("90", "120"), **more: object,
) -> WheelFacts:  # fmt: skip
    own = library("my_ext/_C.abi3.so", needed=needed, undefined=undefined, defined=("PyInit__C",), sass=sass)
    return wheel("my-ext", "1.0", own, tag=tag, requires=requires, **more)


def ask(asking: Asker, **more: object) -> object:
    return asking.answer(Question(**{"words": ("my-ext==1.0",), "targets": (SM120,), **more}))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ what the wheel itself says


@pytest.mark.parametrize(
    ("requires", "expected", "why"),
    [
        (("torch==2.8.0",), "2.8.0", "my-ext 1.0 requires torch==2.8.0"),
        (("torch>=2.8,<3",), "2.9.1", "my-ext 1.0 requires torch<3,>=2.8"),
        (("torch",), "2.9.1", "my-ext 1.0 requires torch"),
        (
            ("torch==2.8.0; platform_machine == 'aarch64'", "torch==2.9.1; platform_machine == 'x86_64'"),
            "2.9.1",
            "2.9.1",
        ),
    ],
)
def test_torch_is_the_one_that_the_wheel_asks_for(requires: tuple[str, ...], expected: str, why: str) -> None:
    newest = torch("2.10.0.dev20260101", "cp312-cp312-manylinux_2_28_x86_64")
    report = asker(extension(COMMON, requires=requires), torch("2.8.0"), torch("2.9.1"), newest).answer(
        Question(words=("my-ext==1.0",))
    )

    assert report.packages["torch"] == expected
    assert any(why in line for line in report.assumed)
    assert report.asked == ("my-ext 1.0",)


def test_without_a_requirement_the_symbols_say_which_torch() -> None:
    report = asker(extension(COMMON, OLD), torch("2.8.0"), torch("2.9.1")).answer(Question(words=("my-ext==1.0",)))

    assert report.packages["torch"] == "2.8.0"
    assert "torch 2.8.0: by its symbols my-ext was built for torch 2.8" in report.assumed


def test_torch_is_not_added_where_it_is_named_or_nothing_asks_for_it() -> None:
    plain = asker(extension(needed=()), torch("2.9.1"))

    assert "torch" not in plain.answer(Question(words=("my-ext==1.0",))).packages
    named = asker(extension(COMMON, requires=("torch",)), torch("2.8.0"), torch("2.9.1"))
    assert named.answer(Question(words=("my-ext==1.0",), torch="2.8.0")).packages["torch"] == "2.8.0"
    assert named.answer(Question(words=("my-ext==1.0",), others=("torch==2.8.0",))).packages["torch"] == "2.8.0"
    assert named.answer(Question(words=("torch==2.8.0",))).packages == {"torch": "2.8.0"}


def test_what_torch_requires_counts_as_there() -> None:
    needs = extension(COMMON, needed=("libc10.so", "libcudart.so.12"), requires=("torch==2.8.0",))
    report = asker(needs, torch("2.8.0")).answer(Question(words=("my-ext==1.0",), targets=(SM120,)))

    assert report.verdict is not Verdict.FAIL
    assert not [item for item in report.findings if "libcudart" in item.message and item.severity is Severity.ERROR]


@pytest.mark.parametrize(
    ("filename", "requires", "expected"),
    [
        ("a-1-cp311-cp311-linux_x86_64.whl", None, "3.11"),
        ("a-1-cp311.cp312-cp311.cp312-linux_x86_64.whl", None, "3.12"),
        ("a-1-cp39-abi3-linux_x86_64.whl", None, "3.9"),
        ("a-1-cp38-abi3-linux_x86_64.whl", ">=3.10,<3.15", "3.10"),
        ("a-1-py3-none-any.whl", None, None),
        ("a-1-py3-none-manylinux_2_28_x86_64.whl", None, None),
        ("nothing.whl", None, None),
    ],
)
def test_the_python_that_a_file_is_for(filename: str, requires: str | None, expected: str | None) -> None:
    assert python_of(filename, requires) == expected


def test_python_is_the_wheels_own() -> None:
    cp311 = extension(tag="cp311-cp311-manylinux_2_28_x86_64")
    report = asker(cp311).answer(Question(words=("my-ext==1.0",)))

    assert report.python == "3.11"
    assert "Python 3.11, as my_ext-1.0-cp311-cp311-manylinux_2_28_x86_64.whl says" in report.assumed
    with pytest.raises(PackageIndexError, match=r"Python 3\.12 on Linux x86_64"):
        asker(cp311).answer(Question(words=("my-ext==1.0",), python="3.12"))


def test_with_the_stable_abi_it_is_the_oldest_python_that_torch_has_a_wheel_for() -> None:
    abi3 = extension(COMMON, tag="cp310-abi3-manylinux_2_28_x86_64", requires=("torch==2.8.0",))
    report = asker(abi3, torch("2.8.0")).answer(Question(words=("my-ext==1.0",)))

    assert report.python == "3.12"
    assert "Python 3.12, the oldest that both have a wheel for" in report.assumed
    assert not [line for line in report.assumed if "says" in line]


def test_a_wheel_without_libraries_is_judged_with_what_it_requires() -> None:
    meta = wheel("meta", "1.0", tag="py3-none-any", requires=("my-ext==1.0", "gone==1.0", "pure>=1"))
    pure = wheel("pure", "1.0", tag="py3-none-any")
    report = asker(meta, pure, extension(needed=("libcudart.so.13",))).answer(Question(words=("meta==1.0",)))

    assert report.verdict is Verdict.FAIL
    assert "judged with my-ext 1.0, which meta requires" in report.assumed
    assert any(line.startswith("not judged: gone, which meta requires") for line in report.assumed)
    assert "pure" not in report.packages
    assert set(report.asked) == {"meta 1.0", "my-ext 1.0"}


def test_what_is_not_judged_is_said() -> None:
    many = extension(requires=("one", "two", "three", "four", "five", "six; extra == 'x'"))
    report = asker(many).answer(Question(words=("my-ext==1.0",)))

    assert report.assumed[-1] == "not judged: five, four, one and 2 more, which my-ext requires (name them with --with)"


# ---------------------------------------------------------------------------------------------------------- platforms


@pytest.mark.parametrize(
    ("filename", "platform", "words"),
    [
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "x86_64", "Linux x86_64"),
        ("a-1-cp312-cp312-manylinux2014_aarch64.whl", "aarch64", "Linux aarch64"),
        ("a-1-cp312-cp312-linux_aarch64.whl", "aarch64", "Linux aarch64"),
        ("a-1-cp312-cp312-win_amd64.whl", None, "Windows (win_amd64)"),
        ("a-1-cp312-cp312-macosx_11_0_arm64.whl", None, "macOS (macosx_11_0_arm64)"),
        ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", None, "Linux with musl"),
        ("a-1-py3-none-any.whl", None, "any"),
    ],
)
def test_the_platform_that_a_file_is_for(filename: str, platform: str | None, words: str) -> None:
    assert platform_of(filename) == platform
    assert platform_words(filename).startswith(words)


@pytest.mark.parametrize(
    ("tag", "machine", "fits"),
    [
        ("any", "aarch64", True),
        ("linux_x86_64", "x86_64", True),
        ("manylinux1_x86_64", "x86_64", True),
        ("manylinux_2_28_aarch64", "x86_64", False),
        ("musllinux_1_2_x86_64", "x86_64", False),
        ("win_amd64", "x86_64", False),
    ],
)
def test_which_platforms_fit(tag: str, machine: str, fits: bool) -> None:
    assert fits_platform(tag, machine) is fits


@pytest.mark.parametrize(
    ("tag", "machine", "message"),
    [
        ("cp312-cp312-win_amd64", "x86_64", "is for Windows (win_amd64); this is Linux x86_64"),
        ("cp312-cp312-macosx_11_0_arm64", "aarch64", "is for macOS"),
        ("cp312-cp312-manylinux_2_28_aarch64", "x86_64", "is for Linux aarch64"),
        ("cp312-cp312-manylinux_2_28_x86_64", "aarch64", "is for Linux x86_64"),
    ],
)
def test_a_wheel_for_another_platform_fails(tag: str, machine: str, message: str) -> None:
    one = wheel("a", "1.0", library("a/_C.so"), tag=tag)
    installation = Installation(wheels=(one,), python="3.12", base=NOWHERE, complete=False, machine=machine)
    found = [item for item in audit(installation, knowledge(), name="x").report.findings if item.rule == "R2"]

    assert [item.severity for item in found] == [Severity.ERROR]
    assert message in found[0].message
    assert machine in found[0].fix


def test_markers_are_for_the_machine() -> None:
    only = wheel("a", "1.0", tag="py3-none-any", requires=("b; platform_machine == 'aarch64'",))
    for machine, expected in (("x86_64", []), ("aarch64", ["R1"])):
        installation = Installation(wheels=(only,), python="3.12", base=NOWHERE, machine=machine)
        assert [item.rule for item in audit(installation, knowledge(), name="x").report.findings] == expected


def test_a_card_brings_its_platform() -> None:
    arm = extension(COMMON, tag="cp312-cp312-manylinux_2_28_aarch64", requires=("torch==2.9.1",))
    both = (extension(COMMON, requires=("torch==2.9.1",)), arm, torch("2.9.1"),
            torch("2.9.1", "cp312-cp312-manylinux_2_28_aarch64", cuda=False))  # fmt: skip
    spark = (Named(target="sm_121", title="DGX Spark", platform="aarch64"), TargetGpu(name="sm_121", capability=121))
    desk = (Named(target="sm_120", title="RTX 5090", platform=None), SM120)
    report = answer_one(asker(*both), ("my-ext==1.0",), WheelQuestion(gpus=(spark,)))
    answer = answer_grid(asker(*both), ("my-ext==1.0",), WheelQuestion(gpus=(desk, spark)), ("my-ext==1.0",))

    assert report.platform == "aarch64"
    assert report.titles == {"sm_121": "DGX Spark"}
    assert answer is not None
    assert [column.platform for column in answer.grid.columns] == ["x86_64", "aarch64"]
    (row,) = answer.grid.rows
    assert [cell.state for cell in row.cells] == ["native", "fails"]
    assert "torch 2.9.1 is built without CUDA" in row.cells[1].reason


# --------------------------------------------------------------------------------------------------------------- grids


def gpus(*names: str) -> tuple[tuple[Named, TargetGpu], ...]:
    return tuple(
        (Named(target=name, title=name, platform=None), TargetGpu(name=name, capability=int(name[3:])))
        for name in names
    )


def test_a_grid_has_a_row_for_each_torch_and_a_column_for_each_card() -> None:
    asking = asker(extension(COMMON, OLD), torch("2.8.0"), torch("2.9.1"))
    asked = WheelQuestion(torches=("2.8.0", "2.9.1", "9.9.9"), gpus=gpus("sm_90", "sm_120", "sm_70"))
    answer = answer_grid(asking, ("my-ext==1.0",), asked, ("my-ext==1.0",))

    assert answer is not None
    states = {row.torch: [cell.state for cell in row.cells] for row in answer.grid.rows}
    assert states == {
        "2.8.0": ["native", "native", "fails"],
        "2.9.1": ["fails", "fails", "fails"],
        "9.9.9": ["unanswered"] * 3,
    }
    assert answer.grid.rows[1].cells[0].symbol == OLD
    assert answer.grid.rows[0].cells[2].reason.startswith("no code for sm_70")
    assert answer.grid.exit_code == 1
    assert len(answer.reports) == 2


def test_a_question_that_nothing_answers_is_an_error_of_its_own() -> None:
    for asked in (WheelQuestion(torches=("9.9.9",)), WheelQuestion(torches=("9.9.9", "9.9.8"))):
        with pytest.raises(QuestionError, match=r"torch==9\.9\.9.*no such version") as told:
            (answer_grid if len(asked.torches) > 1 else answer_one)(
                asker(extension(COMMON), torch("2.9.1")), ("my-ext==1.0",), asked,
                *((("my-ext==1.0",),) if len(asked.torches) > 1 else ()),
            )  # fmt: skip
        assert told.value.exit_code == 2
        assert "2.9.1" in (told.value.hint or "")


def test_files_of_one_distribution_are_questions_of_their_own() -> None:
    names = ("my_ext-1.0-cp311-cp311-linux_x86_64.whl", "my_ext-1.0-cp312-cp312-linux_aarch64.whl")

    assert questions(names) == [(names[0],), (names[1],)]
    assert questions((names[0], "other==1.0")) == [(names[0], "other==1.0")]
    with pytest.raises(UsageError, match=r"a-1\.whl"):
        questions(("a-1.whl",))


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_no_ok_stands_above_something_wrong_in_the_wheel_asked_about() -> None:
    code = GpuCode(groups=(CodeGroup(sass=("90",), ptx=("80@8.0",), containers=1, kernels=("_Z6marlinv",)),))
    moe = library("vllm/_moe_C.abi3.so").model_copy(update={"gpu": code})
    one = wheel("vllm", "0.11.0", moe)
    for asked, verdict in ((frozenset({"vllm"}), Verdict.WARN), (frozenset[str](), Verdict.OK)):
        installation = Installation(wheels=(one,), python="3.12", base=NOWHERE, complete=False, asked=asked)
        report = audit(installation, knowledge(), targets=(SM120,), name="vllm 0.11.0").report

        assert Outcome.WRONG in {item.outcome for item in report.predictions if item.feature == "marlin-moe"}
        assert (report.verdict, report.verdict_on("sm_120")) == (verdict, verdict)
        assert ("warn: marlin-moe wrong" in next(text(report))) is bool(asked)


def test_code_that_was_not_read_is_said_in_the_verdict_line() -> None:
    large = library("a/lib.so", scope="listed").model_copy(update={"size": 80 << 20})
    small = library("b/lib.so", scope="prefix").model_copy(update={"size": 100_000})
    for item, unread in ((large, True), (small, False)):
        one = wheel("static", "1.0", item)
        installation = Installation(
            wheels=(one,), python="3.12", base=NOWHERE, complete=False, asked=frozenset({"static"})
        )
        report = audit(installation, knowledge(), targets=(SM120,), name="static 1.0").report
        first = next(text(report))
        assert ("GPU code of static 1.0 not read" in first) is unread


def test_when_all_alternatives_fail_that_is_an_error() -> None:
    def codec(number: int, *undefined: str) -> object:
        name = f"torchcodec/libtorchcodec_core{number}.so"
        return library(name, needed=("libc10.so",), undefined=undefined, defined=("PyInit_x",))

    for symbols, fails in (((OLD, OLD), True), ((OLD, COMMON), False)):
        one = wheel("torchcodec", "9.0", codec(4, symbols[0]), codec(5, symbols[1]), requires=("torch",))
        installation = Installation(wheels=(one, torch("2.9.1")), python="3.12", base=NOWHERE, complete=False)
        report = audit(installation, knowledge(), name="x").report
        said = [item for item in report.of(Severity.ERROR) if "none of the 2 libraries" in item.message]
        assert bool(said) is fails, report.findings


# ----------------------------------------------------------------------------------------------------------- companions


def test_cuda_devel_bases_bring_the_libraries_that_count_by_themselves() -> None:
    toolkit = load_knowledge().toolkit

    assert {"libcufft.so.11", "libcusolver.so.11", "libcurand.so.10", "libcusparse.so.12"} <= toolkit.of("12.9")
    assert {"libcufft.so.12", "libcusolver.so.12", "libcurand.so.10", "libcusparse.so.12"} <= toolkit.of("13.0")
    assert "libcufft.so.12" not in toolkit.of("12.9")
    assert "libcudart.so.13" in toolkit.of("13.0")


@pytest.mark.parametrize(
    ("requires", "there", "absent"),
    [
        ("cuda-toolkit[cufft]==13.*", "libcufft.so.12", "libcufft.so.11"),
        ("cuda-toolkit[cufft]==12.*", "libcufft.so.11", "libcufft.so.12"),
        ("cuda-toolkit[cufft]==13.*; extra == 'ctk'", None, "libcufft.so.12"),
        ("nvidia-cufft; platform_machine == 'aarch64'", None, "libcufft.so.12"),
    ],
)
def test_what_requirements_would_bring(requires: str, there: str | None, absent: str) -> None:
    found = promised((wheel("a", "1", requires=(requires,)),), knowledge())

    assert there is None or there in found
    assert absent not in found


def test_torch_that_is_named_may_need_a_newer_python_than_the_wheel_admits() -> None:
    abi3 = extension(COMMON, tag="cp310-abi3-manylinux_2_28_x86_64")
    there = asker(abi3, torch("2.9.1"))

    report = there.answer(Question(words=("my-ext==1.0",), torch="2.9.1"))
    assert report.python == "3.12"
    assert "Python 3.12, the oldest that both have a wheel for" in report.assumed
    with pytest.raises(PackageIndexError, match=r"Python 3\.10"):
        ask(there, torch="2.9.1", python="3.10")


def test_wheel_beside_may_need_a_newer_python_too() -> None:
    abi3 = extension(COMMON, tag="cp310-abi3-manylinux_2_28_x86_64")
    beside = wheel("beside", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    there = asker(abi3, torch("2.9.1"), beside)

    report = there.answer(Question(words=("my-ext==1.0",), torch="2.9.1", others=("beside==1.0",)))
    assert ("3.12", "1.0") == (report.python, report.packages["beside"])
    with pytest.raises(PackageIndexError, match=r"Python 3\.11"):
        there.answer(Question(words=("my-ext==1.0",), python="3.11", others=("beside==1.0",)))

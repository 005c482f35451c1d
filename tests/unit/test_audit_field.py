"""Audits of real wheels that once gave a false alarm or missed a fault: each has the right answer now."""

from __future__ import annotations

import field_audits
import pytest
from field_audits import Asked
from wheels import facts, library

from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.audit.audit import audit
from assay.audit.findings import AuditReport, Finding
from assay.audit.formats import text
from assay.audit.installation import Base, Installation
from assay.foundation.outcome import Severity, Verdict
from assay.pipeline.bases import base_of
from assay.wheels.facts import Library, WheelFacts, is_own_name

BASE = Base(name="slim", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=frozenset())


def judged(*wheels: WheelFacts, python: str = "3.11", base: Base = BASE, machine: str = "x86_64") -> AuditReport:
    installation = Installation(wheels=wheels, python=python, base=base, complete=False, machine=machine)
    return audit(installation, load_knowledge(), name="here").report


def found(report: AuditReport, rule: str) -> list[Finding]:
    return [item for item in report.findings if item.rule == rule]


@pytest.mark.parametrize("asked", field_audits.ASKED, ids=lambda asked: asked.name.replace(" ", "-"))
def test_real_wheels_get_the_right_answer(asked: Asked) -> None:
    report = field_audits.recorded(asked)
    errors = [(item.rule, item.message) for item in report.of(Severity.ERROR)]

    assert asked.verdict is report.verdict, report.findings
    for rule, words in asked.errors:
        assert any(rule == had and words in message for had, message in errors), errors
    assert asked.unread is bool(report.code_unread)
    assert asked.unread is ("not read (--full reads it)" in next(text(report)))


def test_dgx_spark_gets_the_wheels_for_its_platform() -> None:
    report = field_audits.recorded(field_audits.ASKED[0])

    assert report.platform == "aarch64"
    assert {"sglang-kernel 0.4.10"} == set(report.asked)


def module(name: str, machine: str = "x86_64", **more: object) -> Library:
    return library(name, defined=("PyInit_m",), **more).model_copy(update={"machine": machine})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "python", "told"),
    [
        (("312", "314t", "315t"), "3.12", 0),
        (("314", "314t"), "3.14", 0),
        (("314t",), "3.14", 1),
        (("312", "314t"), "3.13", 2),
    ],
)
def test_modules_for_a_python_without_gil_are_siblings(there: tuple[str, ...], python: str, told: int) -> None:
    wheel = facts("a", "1", *(module(f"a/m.cpython-{tag}-x86_64-linux-gnu.so") for tag in there))

    assert told == len(
        found(judged(wheel.model_copy(update={"filename": "a-1-py3-none-any.whl"}), python=python), "L5")
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_module_for_another_machine_inside_a_fitting_wheel_is_an_error(machine: str) -> None:
    wheel = facts("a", "1", module("a/m.abi3.so", machine)).model_copy(update={"filename": "a-1-py3-none-any.whl"})
    report = judged(wheel)

    assert [Severity.ERROR] * (machine == "aarch64") == [item.severity for item in found(report, "R2")]
    assert not found(judged(wheel, machine=machine), "R2")


def test_stub_for_another_machine_that_nobody_loads_is_no_finding() -> None:
    stub = library("a/stubs/aarch64/libx.so").model_copy(update={"machine": "aarch64"})

    assert not found(judged(facts("a", "1", stub, module("a/m.abi3.so"))), "R2")


@pytest.mark.parametrize(
    ("soname", "file", "own"),
    [
        ("libonnxruntime.so.1", "libonnxruntime.so.1.31.1", True),
        ("onnxruntime_pybind11_state.so", "onnxruntime_pybind11_state.cpython-312-x86_64-linux-gnu.so", True),
        ("_C.so", "_C.abi3.so", True),
        ("libcudart.so.1", "libcudart.so.13", False),
        ("libb.so", "liba.so", False),
    ],
)
def test_own_soname_among_the_strings_of_a_prefix_is_not_needed(soname: str, file: str, own: bool) -> None:
    assert own is is_own_name(soname, file)


def test_toolkit_of_a_base_and_what_a_hint_names_come_from_one_table() -> None:
    found = load_knowledge()

    for line in found.toolkit.libraries:
        assert line.wheel in found.brings[line.soname].split(" or ")
    assert "libnvToolsExt.so.1" in found.toolkit.of("12.8")
    assert "libnvToolsExt.so.1" not in found.toolkit.of("12.9")
    assert found.toolkit.of("13.5") == found.toolkit.of("14.0") == found.toolkit.of("13.9")
    assert not found.toolkit.of("11.8")


def test_base_image_of_nvidia_brings_what_its_name_says() -> None:
    matrix, found = ProjectFiles(field_audits.ROOT).load().matrix, load_knowledge()
    devel = base_of(matrix.bases["cuda12.9.devel"], "cuda12.9.devel", (), found)

    assert {"libnccl.so.2", "libcudnn.so.9", "libcufft.so.11", "libnppig.so.12"} <= devel.sonames
    assert not {"libcufft.so.12", "libnvToolsExt.so.1"} & devel.sonames
    assert frozenset() == found.sonames.brought_by_image("docker.io/library/debian:12")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("cupy-cuda12x", "add nvidia-nccl-cu12 to the requirements"),
        ("cupy-cuda13x", "add nvidia-nccl-cu13 to the requirements"),
        ("a", "add nvidia-nccl-cu12 or nvidia-nccl-cu13 to the requirements"),
    ],
)
def test_hint_names_the_distribution_for_the_cuda_of_the_package(name: str, fix: str) -> None:
    report = judged(facts(name, "1", module("m/nccl.abi3.so", needed=("libnccl.so.2",))))

    assert [fix] == [item.fix for item in found(report, "L1")]


def test_text_tells_every_library_that_one_module_lacks() -> None:
    needed = ("libcublas.so.13", "libcudart.so.13", "libcufft.so.12")
    lines = "\n".join(text(judged(facts("a", "1", module("a/m.abi3.so", needed=needed)))))

    assert all(name in lines for name in needed)


def test_two_files_that_differ_are_reported_by_the_library_among_them() -> None:
    def of(name: str, digest: str) -> WheelFacts:
        return facts(name, "1", files={"bin": f"tool {digest}", "n": f"m.so {digest}"}, sha256=name)

    (finding,) = found(judged(of("a", "1"), of("b", "2")), "R6")

    assert finding.library == "n/m.so"
    assert finding.severity is Severity.ERROR


def test_verdict_is_a_failure_where_versions_are_known_not_to_work_together() -> None:
    for tilelang, ffi, verdict in (
        ("0.1.8", "0.1.9", Verdict.OK), ("0.1.8", "0.1.12", Verdict.FAIL), ("0.1.11", "0.1.12", Verdict.FAIL),
        ("0.1.12", "0.1.11", Verdict.OK), ("0.1.13", "0.1.12", Verdict.OK),
    ):  # fmt: skip
        report = judged(facts("tilelang", tilelang), facts("apache-tvm-ffi", ffi))
        assert verdict is report.verdict, (tilelang, ffi)


def test_unknown_library_may_come_with_what_is_required_and_was_not_named() -> None:
    needs = module("a/m.abi3.so", needed=("liba_ops.so",))
    for requires, severity, fix in (
        ((), Severity.ERROR, ""),
        (("torch",), Severity.ERROR, ""),
        (("a-ops==1",), Severity.WARNING, "it may come with a-ops, which a requires: name them with --with"),
    ):
        report = judged(facts("a", "1", needs, requires=requires))
        assert [(severity, fix)] == [(item.severity, item.fix) for item in found(report, "L1")]

    whole = Installation(wheels=(facts("a", "1", needs, requires=("a-ops==1",)),), python="3.11", base=BASE)
    assert Severity.ERROR in {item.severity for item in found(audit(whole, load_knowledge()).report, "L1")}


def test_library_of_the_system_is_missing_whatever_is_required() -> None:
    report = judged(facts("a", "1", module("a/m.abi3.so", needed=("libGL.so.1", "libz.so.1")), requires=("numpy",)))

    assert {Severity.ERROR} == {item.severity for item in found(report, "L1")}


def test_facts_of_an_older_reader_have_no_false_need() -> None:
    old = module("a/m.abi3.so", needed=("m.so", "libz.so.1"), scope="prefix")
    whole = module("a/m.abi3.so", needed=("m.so", "libz.so.1"))

    assert (("libz.so.1",), ("m.so", "libz.so.1")) == (old.needs, whole.needs)

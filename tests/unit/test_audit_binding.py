"""What a library asks for, and what of it nothing in its reach has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wheels import library

from assay.audit.binding import asked_of, left
from assay.wheels.facts import AskedNames, Library
from assay.wheels.facts_file import brief_library
from assay.wheels.symbols import Owner, is_of_cuda

RUNTIME = frozenset({"libc.so.6", "libstdc++.so.6"})
PYTHON = frozenset({"PyList_New", "_Py_NoneStruct", "malloc"})


def asks(*lines: str, requires: dict[str, tuple[str, ...]] | None = None) -> Library:
    return library("a/asks.so", undefined=lines, requires=requires or {})


def names_of(groups: Sequence[AskedNames]) -> dict[tuple[Owner, str | None], tuple[str, ...]]:
    found: dict[tuple[Owner, str | None], tuple[str, ...]] = {}
    for group in groups:
        key = group.owner, group.version
        found[key] = tuple(sorted((*found.get(key, ()), *group.names)))
    return found


def test_what_python_and_the_runtime_have_is_not_looked_up() -> None:
    one = asks(
        "PyList_New", "malloc", "memcpy@GLIBC_2.2.5", "_ZSt4cout@GLIBCXX_3.4", "_Znobodys@NOWHERE_1",
        requires={"libc.so.6": ("GLIBC_2.2.5",), "libstdc++.so.6": ("GLIBCXX_3.4",)},
    )  # fmt: skip

    assert () == asked_of(one, PYTHON, RUNTIME, unsure=True)
    assert () == asked_of(asks(), PYTHON, RUNTIME, unsure=True)
    beside = one.model_copy(update={"requires": {**one.requires, "libx.so": ("V1",)}})
    assert () == asked_of(beside, PYTHON, RUNTIME, unsure=True)


def test_references_are_sorted_by_whose_they_are_and_by_version() -> None:
    one = asks(
        "PyNew_InThis", "cuLaunchKernel", "_ZN2at4copyEv", "aoti_torch_empty", "_ZN3foo3barEv", "cudaMalloc@V1",
        "cudaFree", "plain_c", "other_c@V1", "PyList_New@V1",
        requires={"libcudart.so.12": ("V1",), "libc.so.6": ("GLIBC_2.2.5",)},
    )  # fmt: skip
    found = asked_of(one, PYTHON, RUNTIME, unsure=False)

    assert {
        (Owner.PYTHON, None): ("PyNew_InThis",),
        (Owner.DRIVER, None): ("cuLaunchKernel",),
        (Owner.TORCH, None): ("_ZN2at4copyEv", "aoti_torch_empty"),
        (Owner.OTHER, None): ("_ZN3foo3barEv", "cudaFree"),
        (Owner.OTHER, "V1"): ("cudaMalloc",),
    } == names_of(found)
    assert {(None, None), ("V1", "libcudart.so.12")} == {(group.version, group.file) for group in found}
    assert names_of(found) | {
        (Owner.OTHER, None): ("_ZN3foo3barEv", "cudaFree", "plain_c"),
        (Owner.OTHER, "V1"): ("cudaMalloc", "other_c"),
    } == names_of(asked_of(one, PYTHON, RUNTIME, unsure=True))


def test_of_a_python_that_is_not_known_nothing_is_reported() -> None:
    assert () == asked_of(asks("PyNew_InThis", "PyList_New"), None, RUNTIME, unsure=True)


@pytest.mark.parametrize(
    ("name", "of_cuda"),
    [("cudaMalloc", True), ("cublasLtCreate", True), ("cublas_x", True), ("ncclAllReduce", True), ("cudamalloc", False),
     ("xcudaMalloc", False), ("nvrtcVersion", True)],
)  # fmt: skip
def test_cudas_names_are_known_by_their_families(name: str, of_cuda: bool) -> None:
    assert of_cuda == is_of_cuda(name)


def test_of_a_name_that_is_asked_for_in_two_versions_the_one_that_is_there_is_found() -> None:
    asking = asks("_Zboth@V1", "_Zboth@V2", "_Zplain", "_Zother@V1", requires={"libgives.so": ("V1", "V2")})
    giving = library("a/gives.so").model_copy(
        update={"defined": {"global": "_Zboth@@V1\n_Zplain", "weak": "_Zother"}, "provides": ("V1",)}
    )
    groups = asked_of(asking, PYTHON, RUNTIME, unsure=False)

    assert {(Owner.OTHER, "V2"): ("_Zboth",)} == names_of(left(asking, groups, [giving]))
    assert {"_Zboth", "_Zplain", "_Zother"} == set(giving.exports)
    assert {"_Zboth": frozenset({"V1"})} == giving.versioned


NAMES = st.lists(st.sampled_from([f"_Z{number}" for number in range(12)]), unique=True)
VERSIONS = st.sampled_from(["", "V1", "V2"])
REFERENCES = st.lists(st.tuples(st.sampled_from([f"_Z{number}" for number in range(8)]), VERSIONS), unique=True)


@given(REFERENCES, st.lists(st.tuples(REFERENCES, st.booleans(), st.booleans()), max_size=4))
def test_what_nothing_has_is_what_a_search_of_every_library_for_every_reference_does_not_find(
    asked: list[tuple[str, str]], exporters: list[tuple[list[tuple[str, str]], bool, bool]]
) -> None:
    def spelled(name: str, version: str, mark: str) -> str:
        return f"{name}{mark}{version}" if version else name

    asking = asks(*(spelled(*one, "@") for one in asked), requires={"libx.so": ("V1", "V2")})
    plain = [
        library(
            f"a/{at}.so",
            defined=tuple(spelled(*one, "@@") for one in symbols),
            provides=("V1", "V2") if strict else (),
        )
        for at, (symbols, strict, _) in enumerate(exporters)
    ]
    some = [
        brief_library(item, least=0) if brief and item.defined else item
        for item, (_, _, brief) in zip(plain, exporters, strict=True)
    ]

    def binds(name: str, version: str, to: int) -> bool:
        symbols, strict, _ = exporters[to]
        return any(name == there and (not at or not version or not strict or at == version) for there, at in symbols)

    groups = asked_of(asking, PYTHON, RUNTIME, unsure=False)
    found = left(asking, groups, some)
    expected = {one for one in asked if not any(binds(*one, at) for at in range(len(exporters)))}

    assert expected == {(name, group.version or "") for group in found for name in group.names}
    assert names_of(found) == names_of(left(asking, groups, plain))

"""Facts: kept, moved, never mixed up; the table of torch's exports; the reports' formats; the knowledge files."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import xml.etree.ElementTree as ET
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wheels import facts, library

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.host.demangle import demangle
from assay.audit.findings import AuditReport, Finding, Prediction, verdict_of
from assay.audit.formats import junit, sarif, text
from assay.audit.history import TorchHistory
from assay.audit.installation import Base, Installation
from assay.audit.rules import ALL, RULES
from assay.cli import main
from assay.diagnose import default_library
from assay.errors import WheelError
from assay.evidence.suite import declarations
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.wheels.bytes_at import FileImage
from assay.wheels.elf import read_elf
from assay.wheels.exports import ExportTable
from assay.wheels.facts import READER, WheelFacts
from assay.wheels.facts_file import NAMED, brief_facts, dump_brief, dump_facts, filled, load_facts
from assay.wheels.gpu_code import CodeGroup, GpuCode
from assay.wheels.library_facts import library_facts
from assay.wheels.symbols import SymbolKind, is_driver_symbol, is_python_symbol, is_torch_symbol

ROOT = Path(__file__).parents[2]
ELF = ROOT / "tests" / "fixtures" / "elf"
SHA = "a" * 64
HERE = "https://index.example/simple"


def test_facts_of_a_real_library_come_back_as_they_were() -> None:
    elf = read_elf(FileImage((ELF / "libprovider.so.1").read_bytes()))
    made = facts("a", "1", library_facts("a/libprovider.so.1", 1, elf, scope="full"))
    back = load_facts(dump_facts(made), source="here")

    assert made == back
    assert frozenset({"PROV_1.0", "PROV_2.0"}) == back.libraries[0].versioned["versioned"]
    assert "hidden" not in back.libraries[0].exports
    assert dump_facts(made) == dump_facts(back)


@pytest.mark.parametrize("data", [b"", b"rubbish", dump_facts(facts("a", "1"))[:-9]])
def test_what_holds_no_facts_is_reported(data: bytes) -> None:
    with pytest.raises(WheelError):
        load_facts(data, source="here")


def test_facts_of_a_newer_reader_are_refused() -> None:
    with pytest.raises(WheelError, match="newer"):
        load_facts(dump_facts(facts("a", "1", reader=99)), source="here")


def test_facts_of_an_older_reader_are_as_good_as_none(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    cache.put(facts("a", "1", sha256=SHA, reader=READER - 1))
    cache.put(facts("b", "1", sha256="b" * 64))

    assert FactsCache(tmp_path).get(SHA) is None
    assert FactsCache(tmp_path).get("b" * 64) is not None


def test_complete_facts_are_never_replaced_by_incomplete_ones(tmp_path: Path) -> None:
    whole, part = facts("a", "1", sha256=SHA), facts("a", "1", sha256=SHA, complete=False, tags=("x",))
    cache = FactsCache(tmp_path)
    cache.put(part)
    cache.put(whole)
    cache.put(part)

    assert whole == FactsCache(tmp_path).get(SHA)
    assert [("a", "1", SHA)] == [row[:3] for row in cache.listed()]


def test_damaged_or_foreign_facts_are_as_good_as_none(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    cache.put(facts("a", "1", sha256=SHA))
    (path,) = tmp_path.glob("a/*.gz")
    other = path.with_name(f"1-{'b' * 64}.facts.json.gz")
    other.write_bytes(path.read_bytes())
    path.write_bytes(b"rubbish")

    assert FactsCache(tmp_path).get(SHA) is None
    assert FactsCache(tmp_path).get("b" * 64) is None
    cache.put(facts("a", "1", sha256="image:here/a"))
    assert FactsCache(tmp_path).get("image:here/a") is None


def test_an_export_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    here, there = FactsCache(tmp_path / "here"), FactsCache(tmp_path / "there")
    for number, sha in enumerate(("a" * 64, "b" * 64)):
        here.put(facts(f"p{number}", "1.0+cu128", library("x.so", defined=("f",)), sha256=sha))
    data = b"".join(here.export([row[2] for row in here.listed()]))

    with pytest.raises(WheelError, match="cut short"):
        there.take(data[:-3], source="x")
    with pytest.raises(WheelError, match=r"damaged|not an export"):
        there.take(b"{}\n", source="x")
    assert [] == there.listed()
    assert 2 == there.take(data, source="x")
    assert [row[:3] for row in here.listed()] == [row[:3] for row in FactsCache(tmp_path / "there").listed()]


def large(name: str = "torch", version: str = "2.8.0", sha256: str = SHA) -> WheelFacts:
    """Return facts of which the names of symbols are most: hardly compressible ones, as a cache sees their size."""
    source = random.Random(1)
    names = [f"_ZN2at{source.getrandbits(256):064x}Ev" for _ in range(4000)]
    core = library("torch/lib/libtorch_cpu.so", defined=(*names, "both@@V1", "PyInit_x", "_ZN7__cxx11E"))
    kernels = tuple(sorted([f"_Z6Marlin{source.getrandbits(64):016x}" for _ in range(60)]))
    groups = (
        CodeGroup(sass=("90",), containers=3, kernels=kernels),
        CodeGroup(sass=("80",), containers=1, kernels=kernels[:3]),
        CodeGroup(ptx=("80@8.7",), containers=1, kernels=(*kernels[:40], "_Zz\u00e9")),
        CodeGroup(sass=("120",), containers=1, kernels=("_Z4last", *kernels[30:])),
        CodeGroup(sass=("100",), containers=1),
    )
    code = library("torch/lib/libtorch_cuda.so", defined=tuple(names[:1000])).model_copy(
        update={"gpu": GpuCode(groups=groups)}
    )
    return facts(name, version, core, library("torch/lib/libc10.so", defined=("one",)), code, sha256=sha256)


def test_json_of_facts_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = FactsCache(tmp_path)
    for sha256 in (SHA, "b" * 64):
        cache.put(facts("kern", "1.0", library("kern/a.so"), sha256=sha256))
    there = ["--facts", str(tmp_path), "--format", "json"]

    assert 2 == main(["facts", "show", "kern==1.0", *there])
    assert "names 2 wheels" in capsys.readouterr().out
    assert 0 == main(["facts", "show", SHA[:12], *there])
    assert SHA == json.loads(capsys.readouterr().out)["sha256"]


def test_an_audit_gets_large_facts_without_the_names_and_others_get_them_whole(tmp_path: Path) -> None:
    whole = large()
    FactsCache(tmp_path).put(whole)
    first, second = FactsCache(tmp_path).get(SHA), FactsCache(tmp_path).get(SHA)

    assert first is not None
    assert first.is_brief
    assert first == second
    assert whole == FactsCache(tmp_path).whole(SHA)
    assert [(SHA, 1)] == [(row[2], len(FactsCache(tmp_path).listed())) for row in FactsCache(tmp_path).listed()]
    brief, plain = first.libraries[0], whole.libraries[0]
    assert all(brief.has(name) for name in plain.exports)
    assert not brief.has("_ZN2at4nopeEv")
    assert brief.extension
    assert plain.versioned == brief.versioned
    assert plain.exports_cxx11
    assert brief.exports_cxx11
    assert whole.libraries[1] == first.libraries[1]
    few, all_of = first.libraries[2].gpu, whole.libraries[2].gpu
    assert few is not None
    assert all_of is not None
    assert [NAMED, 3, 41, NAMED, 0] == [len(group.kernels) for group in few.groups]
    assert [True, False, False, True, False] == [bool(group.size) for group in few.groups]
    for kernels in ("", "marlin", "last", "^_Z4last$", "marlin[0-9]+a", "\u00e9", "nope"):
        found = first.libraries[2].groups_with(kernels), whole.libraries[2].groups_with(kernels)
        assert [group.sass for group in found[0]] == [group.sass for group in found[1]]
    assert [("120",)] == [group.sass for group in first.libraries[2].groups_with("^_Z4last$")]


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_table_of_exports_has_what_stands_in_it_and_nothing_else(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are numbers here, and their own hashes."""
    monkeypatch.setattr("assay.wheels.exports.hash_of", int)
    source = random.Random(size)
    there = {source.getrandbits(64) for _ in range(size)} | ({0, 2**64 - 1} if size == 1000 else set())
    table = ExportTable(count=len(there), cxx11=False, hashes=array("Q", sorted(there)).tobytes())
    near = {key + 1 for key in there if key < 2**64 - 1} | {key - 1 for key in there if key} | {0, 5, 2**64 - 1}

    for asked in (near, there, near | there, set[int]()):
        assert {str(key) for key in asked & there} == table.having(set(map(str, asked)))


def test_the_brief_form_of_facts_is_made_when_they_are_kept(tmp_path: Path) -> None:
    FactsCache(tmp_path).put(large())
    (place,) = tmp_path.glob("torch/.brief/*.facts")
    (path,) = tmp_path.glob("torch/*.facts.json.gz")
    path_bytes, state = path.read_bytes(), path.stat()
    # Read is the brief form alone: facts of the same size and time are not looked at.
    path.write_bytes(bytes(len(path_bytes)))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert brief_facts(large()) == FactsCache(tmp_path).get(SHA)
    more = large().model_copy(update={"tags": ("other",)})
    FactsCache(tmp_path / "there").put(large())
    FactsCache(tmp_path / "there").put(more)
    assert 1 == len(list((tmp_path / "there").glob("torch/.brief/*.facts")))
    assert brief_facts(more) == FactsCache(tmp_path / "there").get(SHA)
    assert place.exists()


def test_brief_facts_that_are_damaged_or_of_others_that_were_replaced_are_made_again(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    cache.put(large())
    expected = FactsCache(tmp_path).get(SHA)
    (path,) = tmp_path.glob("torch/.brief/*.facts")
    for damaged in (b"rubbish", b"", path.read_bytes()[:-8], path.read_bytes() + bytes(8)):
        path.write_bytes(damaged)
        assert expected == FactsCache(tmp_path).get(SHA)
    path.write_bytes(dump_brief(brief_facts(large(sha256="b" * 64))))
    assert expected == FactsCache(tmp_path).get(SHA)
    cache.put(large().model_copy(update={"tags": ("other",)}))
    found = FactsCache(tmp_path).get(SHA)
    assert found is not None
    assert ("other",) == found.tags
    assert 1 == len(list(tmp_path.glob("torch/.brief/*")))


def test_brief_facts_are_never_kept_or_shared_in_place_of_whole_ones(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    cache.put(large())
    brief = FactsCache(tmp_path).get(SHA)
    assert brief is not None
    FactsCache(tmp_path).put(brief)

    assert large() == FactsCache(tmp_path).whole(SHA)
    with pytest.raises(WheelError, match="leave out names"):
        load_facts(gzip.compress(dump_brief(brief).partition(b"\n")[0]), source="somebody's")
    with pytest.raises(WheelError, match="has no wheel facts"):
        load_facts(gzip.compress(dump_brief(brief)), source="somebody's")
    with pytest.raises(AssertionError, match="do not say all"):
        dump_facts(brief)
    taken = FactsCache(tmp_path / "there")
    taken.take(b"".join(cache.export([SHA])), source="x")
    assert large() == taken.whole(SHA)


def test_later_facts_are_added_to_brief_facts_without_their_names(tmp_path: Path) -> None:
    """Wheels that were read in part are brief too, and the audit may read one of their libraries afterwards."""
    partly = large().model_copy(update={"complete": False, "origin": HERE})
    unread = library("torch/lib/libother.so", scope="listed")
    FactsCache(tmp_path).put(partly.model_copy(update={"libraries": (*partly.libraries, unread)}))
    cache = FactsCache(tmp_path)
    brief = cache.get(SHA, origins={HERE})
    assert brief is not None
    assert brief.is_brief
    read = library("torch/lib/libother.so", defined=("other",))
    more = brief.model_copy(update={"libraries": (*brief.libraries[:-1], read)})
    cache.put(more)

    assert partly.model_copy(update={"libraries": (*partly.libraries, read)}) == cache.whole(SHA)
    assert more == cache.get(SHA, origins={HERE}) == FactsCache(tmp_path).get(SHA, origins={HERE})


def test_facts_without_most_names_of_kernels_are_brief_too() -> None:
    whole = large()
    code = whole.libraries[2].model_copy(update={"defined": {}})
    brief = brief_facts(whole.model_copy(update={"libraries": (code,)}))

    assert brief.libraries[0].table is None
    assert brief.is_brief
    with pytest.raises(AssertionError, match="do not say all"):
        dump_facts(brief)
    assert whole.libraries[2] == filled(brief_facts(whole), whole).libraries[2]


def test_copies_derive_anew_what_follows_from_their_fields() -> None:
    one = facts("a", "1", library("a/a.so", defined=("x",)))
    assert {"x": None} == one.libraries[0].plain
    before = one.content
    other = library("a/b.so")

    for deep in (False, True):
        changed = one.model_copy(update={"libraries": (other,)}, deep=deep)
        assert before != changed.content
        assert frozenset({"a/b.so"}) == changed.paths
        assert before == one.content == one.model_copy(deep=deep).content
        renamed = one.libraries[0].model_copy(update={"defined": {"global": "y"}}, deep=deep)
        assert {"y": None} == renamed.plain


def test_the_content_of_facts_covers_what_stands_behind_the_json() -> None:
    brief = brief_facts(large())
    table = brief.libraries[0].table
    assert table is not None
    other = table.model_copy(update={"hashes": table.hashes[::-1]})
    changed = brief.libraries[0].model_copy(update={"table": other})

    assert brief.content == brief_facts(large()).content
    assert brief.content != brief.model_copy(update={"libraries": (changed, *brief.libraries[1:])}).content


def test_of_a_distribution_that_is_there_twice_the_last_version_counts() -> None:
    twice = Installation(
        wheels=(facts("a", "2"), facts("b", "1"), facts("a", "1")), python="3.12", base=Base(name="some")
    )

    assert {"a": "1", "b": "1"} == twice.versions


def test_facts_are_listed_newest_first(tmp_path: Path) -> None:
    cache = FactsCache(tmp_path)
    for number, version in enumerate(("2.9.1", "2.10.0", "2.8.0+cu128")):
        cache.put(facts("torch", version, sha256=f"{number}" * 64))

    assert ["2.10.0", "2.9.1", "2.8.0+cu128"] == [found.version for found in cache.named("torch")]


@given(st.dictionaries(st.sampled_from(["1.0", "2.0", "3.0", "4.0"]), st.frozensets(st.text(max_size=8)), min_size=1))
def test_the_history_says_who_exports_what(exports: dict[str, frozenset[str]]) -> None:
    history = TorchHistory.load(TorchHistory.build({v: ("12", names) for v, names in exports.items()}).dump())
    for name in {name for names in exports.values() for name in names} | {"nowhere at all"}:
        assert tuple(v for v, names in exports.items() if name in names) == history.having(name)


def test_the_history_that_ships_tells_the_measured_break() -> None:
    history = load_knowledge().history

    assert history.having("_ZNK3c106SymInt6sym_neERKS0_")[-1] == "2.8.0"
    assert ("_ZNK3c106SymInt6sym_neERKS0_",) == history.lacks("2.9.1", ["_ZNK3c106SymInt6sym_neERKS0_", "no symbol"])
    assert () == history.having("no symbol")


@pytest.mark.parametrize("data", [b"", b"assay torch exports 1\n", b"assay torch exports 1\nrubbish"])
def test_a_damaged_history_is_reported(data: bytes) -> None:
    with pytest.raises(WheelError):
        TorchHistory.load(data)


@pytest.mark.parametrize(
    ("name", "torch", "python", "driver"),
    [
        ("_ZNK3c106SymInt6sym_neERKS0_", True, False, False),
        ("_ZN2at4_ops3add4callE", True, False, False),
        ("_ZTVN5torch8autograd4NodeE", True, False, False),
        ("_ZTIN3c105ErrorE", True, False, False),
        ("_ZNSt6vectorIN3c108ArgumentESaIS1_EE7reserveEm", False, False, False),
        ("PyObject_Call", False, True, False),
        ("_Py_Dealloc", False, True, False),
        ("_PyThreadState_UncheckedGet", False, True, False),
        ("Pythia", False, False, False),
        ("cuLaunchKernel", False, False, True),
        ("cudaMalloc", False, False, False),
        ("curl_easy_init", False, False, False),
        ("nvmlInit_v2", False, False, True),
    ],
)
def test_whose_symbol_it_is(name: str, torch: bool, python: bool, driver: bool) -> None:
    assert (torch, python, driver) == (is_torch_symbol(name), is_python_symbol(name), is_driver_symbol(name))


@pytest.mark.parametrize(
    ("undefined", "kind"),
    [
        (("malloc",), SymbolKind.NONE),
        (("aoti_torch_empty_strided",), SymbolKind.STABLE),
        (("aoti_torch_empty_strided", "_ZN3c105ErrorE"), SymbolKind.UNSTABLE),
        (("_ZN5torch6stable6TensorE", "aoti_torch_get_dim"), SymbolKind.STABLE),
    ],
)
def test_how_a_library_is_bound_to_torch(undefined: tuple[str, ...], kind: SymbolKind) -> None:
    assert kind is library("a.so", undefined=undefined).torch_kind


def test_names_are_told_as_people_write_them() -> None:
    assert "c10::SymInt::sym_ne(c10::SymInt const&) const" == demangle("_ZNK3c106SymInt6sym_neERKS0_")
    assert "plain" == demangle("plain")
    assert "_Zrubbish" == demangle("_Zrubbish")


REPORT = AuditReport(
    subject="wheels",
    name="cell <1>",
    python="3.11",
    base="slim",
    targets=("sm_120",),
    verdict=Verdict.FAIL,
    findings=(
        Finding(
            rule="L3", severity=Severity.ERROR, package="a 1", library="a/_C.so", message="lacks f<int>\x07", fix="b"
        ),
        Finding(rule="L3", severity=Severity.WARNING, package="b 1", message="lacks g"),
        Finding(rule="G3", severity=Severity.INFO, package="c 1", message="parts"),
    ),
    predictions=(
        Prediction(target="sm_120", feature="marlin", outcome=Outcome.WORKS, verdict=Verdict.OK, reason="machine code"),
    ),
)  # fmt: skip


def test_text_tells_what_decides_and_counts_the_rest() -> None:
    lines = list(text(REPORT))

    assert lines[0] == "cell <1>: fail  (Python 3.11, base slim on sm_120)"
    assert any("L3  a 1 a/_C.so: lacks f<int>" in line for line in lines)
    assert any("1 note" in line for line in lines)
    assert any("predicted on sm_120, not measured" in line for line in lines)
    assert any("G3" in line for line in text(REPORT, verbose=True))


def test_one_of_many_reports_counts_what_works_and_tells_the_rest() -> None:
    fails = Prediction(
        target="sm_120", feature="numa", outcome=Outcome.BROKEN, verdict=Verdict.FAIL, reason="no libnuma"
    )
    lines = list(text(REPORT.model_copy(update={"predictions": (*REPORT.predictions, fails)}), brief=True))

    at = lines.index("  predicted on sm_120, not measured: 1 of 2 features work (--verbose tells each)")
    assert ["numa", "✗", "broken", "no", "libnuma"] == lines[at + 1].split()
    assert not any("marlin" in line for line in lines)


def test_text_tells_many_of_a_kind_as_one() -> None:
    """Seen: fbgemm-gpu lacks the same things in fourteen libraries."""
    some = tuple(
        Finding(rule="G1", severity=Severity.WARNING, package="a 1", library=f"a/{name}.so", message=f"lacks {name}")
        for name in "bcdefgh"
    )
    lines = list(text(REPORT.model_copy(update={"findings": some})))

    assert "  warning G1  a 1 a/b.so: lacks b" == lines[1]
    assert "likewise c.so, d.so, e.so, f.so and 2 more (--verbose tells each)" == lines[2].strip()
    assert not any("lacks c" in line for line in lines)
    assert 7 == sum("lacks" in line for line in text(REPORT.model_copy(update={"findings": some}), verbose=True))
    assert 2 == sum("lacks" in line for line in text(REPORT.model_copy(update={"findings": some[:2]})))


def test_junit_is_xml_with_a_case_for_each_rule() -> None:
    (suite,) = ET.fromstring(junit([REPORT]))

    assert (str(len(RULES)), "1") == (suite.get("tests"), suite.get("failures"))
    assert ["lacks f<int>\\x07"] == [failure.get("message") for failure in suite.iter("failure")]


def test_sarif_has_a_result_for_each_finding() -> None:
    log = json.loads(json.dumps(sarif([REPORT])))
    (run,) = log["runs"]

    assert ["error", "warning", "note"] == [result["level"] for result in run["results"]]
    assert "a-1/a/_C%20x.so" == sarif([REPORT.model_copy(update={"findings": (
        REPORT.findings[0].model_copy(update={"library": "a/_C x.so"}),
    )})])["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]  # fmt: skip
    for result in run["results"]:
        assert result["ruleId"] == run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"]


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [((), Verdict.OK), ((Severity.INFO,), Verdict.OK), ((Severity.WARNING, Severity.INFO), Verdict.WARN),
     ((Severity.WARNING, Severity.ERROR), Verdict.FAIL)],
)  # fmt: skip
def test_the_worst_finding_is_the_verdict(severities: tuple[Severity, ...], verdict: Verdict) -> None:
    assert verdict is verdict_of(Finding(rule="L1", severity=severity, message="x") for severity in severities)


def test_every_cause_is_a_known_failure() -> None:
    """What a finding calls its cause must be found by `assay diagnose`."""
    known = set(default_library().entries)
    used = {need.cause for need in load_knowledge().needs.needs if need.cause}
    for path in (ROOT / "src" / "assay" / "audit").rglob("*.py"):
        used |= set(re.findall(r'"((?:abi|arch|lib|res|audit|drv)-[a-z0-9-]+)"', path.read_text()))

    assert set() == used - known


def test_every_rule_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "audit-rules.md").read_text()

    assert [] == [rule.id for rule in ALL if f"| {rule.id} | {rule.text} | {rule.known_by} |" not in page]


def test_features_need_features_that_exist() -> None:
    features = load_knowledge().dispatch.features

    assert set() == {need for feature in features.values() for need in feature.needs} - set(features)


def test_every_feature_with_a_probe_is_predicted() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "probes" / "features").glob("*.py")}
    features = load_knowledge().dispatch.features

    assert set() == set(declarations(files)) - set(features)
    assert [] == [name for name, feature in features.items() if not feature.dispatch and not feature.soname]


def test_kernel_patterns_are_regular_expressions() -> None:
    for feature in load_knowledge().dispatch.features.values():
        for entry in feature.dispatch:
            re.compile(entry.kernels)


@pytest.mark.parametrize(
    "kernels",
    [
        "marlin",
        "6marlin(?!_moe)|marlin_gemm|[0-9]+Marlin",
        "cutlass.*(?:e4m3|float_e4m3)",
        "rms_?norm",
        "a[^b]c",
        "x$",
        "(?:x|MARLIN)",
        "(?:(?:x|y)?marlin|nope)_gemm",
        "mar(?=lin_g)",
        "nope|",
        "norms?|q+",
        "a?bc",
        "m[a|b]r",
        "nope",
    ],
)
def test_groups_with_a_kernel_are_those_in_which_one_name_matches_whatever_the_case(kernels: str) -> None:
    names = (
        ("_Z6marlin_moe", "_Z7MARLIN_GEMMv"),
        ("cutlass", "float_e4m3"),
        ("XCutlass_E4M3",),
        ("rmsnorm", "abc"),
        (),
    )
    groups = tuple(CodeGroup(sass=(str(index),), containers=1, kernels=each) for index, each in enumerate(names))
    code = library("a/b.so").model_copy(update={"gpu": GpuCode(groups=groups)})
    wanted = re.compile(kernels, re.IGNORECASE)
    expected = tuple(group for group in groups if any(wanted.search(name) for name in group.kernels))

    assert expected == code.groups_with(kernels)

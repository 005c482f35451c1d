"""Every entry recognises its examples and leaves its near misses alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.diagnose import CauseClass, FailureEntry, FailureKind, default_library, examine, parse_library
from assay.diagnose.tables import TableError, expand
from assay.errors import ConfigError

LIBRARY = default_library()
STARTING_MATERIAL = Path(__file__).parents[1] / "data" / "diagnose" / "starting-material.json"


def recognised(log: str) -> list[str]:
    """Return the ids of everything that a log is said to show, causes first."""
    report = examine(log.encode(), library=LIBRARY)
    return [d.cause for d in report.diagnoses] + [via.id for d in report.diagnoses for via in d.via]


EXAMPLES = [(entry, example) for entry in LIBRARY.entries.values() for example in entry.examples]
NEAR_MISSES = [(entry, near) for entry in LIBRARY.entries.values() for near in entry.near_misses]


@pytest.mark.parametrize(("entry", "example"), EXAMPLES, ids=[f"{e.id}-{i}" for i, (e, _) in enumerate(EXAMPLES)])
def test_examples_are_recognised(entry: FailureEntry, example: str) -> None:
    assert entry.id in recognised(example)


@pytest.mark.parametrize(("entry", "near"), NEAR_MISSES, ids=[f"{e.id}-{i}" for i, (e, _) in enumerate(NEAR_MISSES)])
def test_near_misses_are_left_alone(entry: FailureEntry, near: str) -> None:
    assert entry.id not in recognised(near)


@pytest.mark.parametrize(("entry", "example"), EXAMPLES, ids=[f"{e.id}-{i}" for i, (e, _) in enumerate(EXAMPLES)])
def test_an_example_is_reported_as_its_own_cause_and_as_no_other(entry: FailureEntry, example: str) -> None:
    """An entry that takes another's example says so: by its kind, or by what it gives way to."""
    told = [d.cause for d in examine(example.encode(), library=LIBRARY).diagnoses if d.cause != "unknown"]

    if told[:1] == [entry.id]:
        assert [name for name in told[1:] if LIBRARY.entries[name].kind is FailureKind.CAUSE] == []
    else:
        assert entry.kind is not FailureKind.CAUSE or set(told) & set(entry.gives_way_to)


def quoted_everywhere(example: str) -> str:
    """Return a log that quotes a line where nothing failed: as a prompt, an answer, a command, a traceback's source."""
    return "\n".join(
        [
            f"[2026-06-01 10:00:12] Receive: obj=GenerateReqInput(rid='7c', text={example!r}, image_data=None)",
            json.dumps({"role": "assistant", "content": f"You see {example} because of this:"}),
            f"#8 [stage-1  2/9] RUN foo || echo {example!r}",
            "Traceback (most recent call last):",
            '  File "/srv/check.py", line 3, in check',
            f"    raise ValueError({example!r})",
            "KeyError: 'frob'",
            "",
        ]
    )


@pytest.mark.parametrize("entry", LIBRARY.entries.values(), ids=lambda entry: entry.id)
def test_no_entry_takes_its_own_words_where_they_are_only_quoted(entry: FailureEntry) -> None:
    lines = [example for example in entry.examples if "\n" not in example]

    assert [example for example in lines if entry.id in recognised(quoted_everywhere(example))] == []


@pytest.mark.parametrize("entry", LIBRARY.entries.values(), ids=lambda entry: entry.id)
def test_every_match_is_found_through_an_anchor(entry: FailureEntry) -> None:
    """An expression that can match where no anchor stands would never be tried."""
    for signature in entry.signatures:
        for anchor in signature.anchors:
            assert len(anchor) >= 4
    for example in entry.examples:
        assert any(anchor in example for signature in entry.signatures for anchor in signature.anchors)


@pytest.mark.parametrize("line", json.loads(STARTING_MATERIAL.read_text()), ids=lambda item: item["id"])
def test_the_starting_material_is_recognised(line: dict[str, str]) -> None:
    """The first lines that the library was written from: (id of the line, the line, the entry that knows it)."""
    assert line["entry"] in recognised(line["example"])


def test_every_class_has_an_entry() -> None:
    assert set(CauseClass) == {entry.cause_class for entry in LIBRARY.entries.values()}


def test_sources_are_addresses() -> None:
    assert [s for e in LIBRARY.entries.values() for s in e.sources if not s.startswith("https://")] == []


WRONG = """\
- id: one
  class: abi
  stage: import
  signatures:
    - anchors: [undefined]
      regex: 'undefined (symbol'
  cause: "{what} is missing"
  fix: f
  sources: [https://example.org]
  date: 2026-11-20
  examples: [undefined symbol]
  near_misses: [defined]
- id: two
  class: colour
  stage: import
- id: one
  class: abi
  stage: import
  signatures: [{anchors: [abc], regex: abc}]
  cause: c
  fix: f
  gives_way_to: [three]
  sources: [https://example.org]
  date: 2026-11-20
  examples: [abc]
  near_misses: [ab]
"""


def test_all_problems_of_a_library_are_reported_at_once_with_their_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_library({"f.yaml": WRONG.encode()})

    told = [(problem.line, problem.message) for problem in caught.value.problems]
    text = str(caught.value)
    assert "does not compile" in text
    assert "{what}" in text
    assert "stands already in line 1" in text
    assert "'three', which does not exist" in text
    assert "'abc' is shorter than 4" in text
    assert {line for line, _ in told} >= {13, 16}


def test_yaml_that_is_broken_or_of_another_shape_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="must be a list"):
        parse_library({"f.yaml": b"a: 1\n"})
    with pytest.raises(ConfigError):
        parse_library({"f.yaml": b"- [unclosed\n"})


def test_ids_are_unique_across_the_files_of_a_library() -> None:
    [entry, *_] = WRONG.split("- id: two")
    good = entry.replace("'undefined (symbol'", "undefined symbol").replace("{what} is", "it is").encode()

    with pytest.raises(ConfigError) as caught:
        parse_library({"a.yaml": good, "b.yaml": b"# a comment\n" + good})

    assert [str(problem) for problem in caught.value.problems] == ["b.yaml:2:1: one stands already in line 1 of a.yaml"]


def test_a_key_that_occurs_twice_is_reported() -> None:
    with pytest.raises(ConfigError, match="the key 'cause' occurs twice"):
        parse_library({"f.yaml": b"- {id: a, cause: b, cause: c}\n"})


def test_wrappers_say_so() -> None:
    assert {e.id for e in LIBRARY.entries.values() if e.kind is FailureKind.WRAPPER} >= {
        "g-generic",
        "arch-sgl-no-common-ops",
    }


TABLE = {
    "table": "xid",
    "stage": "serve",
    "date": "2026-11-30",
    "sources": ["https://example.org/catalogue"],
    "groups": {"reset": {"class": "driver", "kind": "cause", "fix": "Reset it."}},
    "rows": [["46", "reset", "GPU_TIMEOUT", "the GPU stopped"]],
    "more": {"46": {"sources": ["https://example.org/thread"], "fix": "Reboot."}},
}


def test_table_row_becomes_an_entry_with_its_extra_fields() -> None:
    (row,) = expand(TABLE)
    entry = FailureEntry.model_validate(row)

    assert (entry.id, entry.kind, entry.fix) == ("xid-46", FailureKind.CAUSE, "Reboot.")
    assert entry.sources == ("https://example.org/catalogue", "https://example.org/thread")
    assert "the GPU stopped" in entry.cause


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"table": "dogs"}, "'dogs' is not known"),
        ({"rows": "none"}, "has groups"),
        ({"rows": [["46", "reset"]]}, "is not \\[number, group, name, meaning\\]"),
        ({"rows": [["46", "cut", "GPU_TIMEOUT"]]}, "one of the groups reset"),
        ({"more": {"47": {}}}, "more names 47"),
    ],
)
def test_a_table_that_is_wrong_says_where(change: dict[str, object], told: str) -> None:
    with pytest.raises(TableError, match=told):
        expand({**TABLE, **change})


def test_a_wrong_table_is_a_config_error_with_its_file() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:1.*'dogs' is not known"):
        parse_library({"x.yaml": b"table: dogs\nrows: []\n"})


def test_each_xid_number_matches_its_own_entry_only() -> None:
    numbers = [int(name.removeprefix("xid-")) for name in LIBRARY.entries if name.startswith("xid-")]
    assert set(range(1, 173)) <= set(numbers)
    for number in numbers:
        told = recognised(f"kernel: NVRM: Xid (PCI:0000:3b:00): {number}, pid=42, name=python3")
        assert [name for name in told if name.startswith("xid-")] == [f"xid-{number}"]

"""The corpus of labelled logs: what the diagnosis says of it, and that it stays a corpus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from assay import resources
from assay.diagnose import CauseClass, DiagnosisReport, default_library, examine
from assay.diagnose.calibration import Calibration, Counts, calibration, confidence
from assay.diagnose.corpus import Case, CaseVerdict, Label, cases, judged

CORPUS = Path(__file__).parents[1] / "data" / "field"
SEEN, UNSEEN = list(cases(CORPUS, "seen")), list(cases(CORPUS, "unseen"))
MOST_WRONG = 0.03
"""Share of the unseen half that may be answered wrongly and with certainty."""
MOST_MISLEADING = 0.12
"""Share of the unseen half that may be answered wrongly with "may be"."""
LEAST_RIGHT = 0.65


def told(report: DiagnosisReport) -> list[tuple[str, float]]:
    return [(diagnosis.cause, diagnosis.confidence) for diagnosis in report.diagnoses]


@pytest.mark.parametrize("case", SEEN, ids=lambda case: f"{case.family}-{case.name}")
def test_every_log_that_entries_were_written_from_is_answered_rightly(case: Case) -> None:
    report = examine(case.log.read_bytes())

    assert (judged(report, case.label), told(report)) == (CaseVerdict.RIGHT, told(report))


def test_the_unseen_half_is_seldom_answered_wrongly() -> None:
    verdicts = {case.name: judged(examine(case.log.read_bytes()), case.label) for case in UNSEEN}
    counts = Counter(verdicts.values())
    total = len(UNSEEN)

    assert counts[CaseVerdict.WRONG] <= MOST_WRONG * total, [n for n, v in verdicts.items() if v is CaseVerdict.WRONG]
    assert counts[CaseVerdict.MISLEADING] <= MOST_MISLEADING * total
    assert counts[CaseVerdict.RIGHT] >= LEAST_RIGHT * total


def test_harmless_logs_of_both_halves_give_no_cause() -> None:
    harmless = [case for case in (*SEEN, *UNSEEN) if case.label.harmless]

    assert len(harmless) >= 15
    assert {case.name: told(examine(case.log.read_bytes())) for case in harmless} == {c.name: [] for c in harmless}


def test_the_corpus_is_large_and_its_halves_share_no_thread() -> None:
    seen, unseen = ({s for case in half for s in case.label.source} for half in (SEEN, UNSEEN))

    assert len(SEEN) + len(UNSEEN) >= 250
    assert seen & unseen == set()
    assert not any(case.label.cause for case in UNSEEN)
    assert not unseen & {source for entry in default_library().entries.values() for source in entry.sources}


def test_labels_name_classes_and_entries_that_exist() -> None:
    known = {*default_library().entries, "unknown"}
    classes = {*map(str, CauseClass), "none"}
    labels = [(case.name, case.label) for case in (*SEEN, *UNSEEN)]

    assert [(name, label.cause) for name, label in labels if not set(label.cause) <= known] == []
    assert [name for name, label in labels if not {label.cause_class, *label.also_class} <= classes] == []


def test_a_log_without_its_label_is_reported(tmp_path: Path) -> None:
    (tmp_path / "seen" / "a").mkdir(parents=True)
    (tmp_path / "seen" / "a" / "x.log").write_text("")

    with pytest.raises(ValueError, match="one is missing of"):
        list(cases(tmp_path))


# ---------------------------------------------------------------------------------------------------- verdicts

OOM = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


def label(**given: object) -> Label:
    return Label.model_validate({"class": "none", **given})


@pytest.mark.parametrize(
    ("log", "truth", "verdict"),
    [
        (OOM, label(cause=("h-oom",)), CaseVerdict.RIGHT),
        (OOM, label(cause=("arch-wgmma",)), CaseVerdict.WRONG),
        (OOM, label(**{"class": "capacity", "fix_words": (("smaller", "?"), ("MAX-", "--mem-"))}), CaseVerdict.RIGHT),
        (OOM, label(**{"class": "capacity", "fix_words": (("a bigger boat",),)}), CaseVerdict.WRONG),
        (OOM, label(**{"class": "driver", "also_class": ("capacity",)}), CaseVerdict.RIGHT),
        (OOM, label(harmless=True), CaseVerdict.WRONG),
        (b"all is well\n", label(harmless=True), CaseVerdict.RIGHT),
        (b"frob.BentError: the frob is bent\n", label(**{"class": "abi"}), CaseVerdict.UNKNOWN),
        (b"frob.BentError: the frob is bent\n", label(cause=("unknown",)), CaseVerdict.RIGHT),
        (b"ncclInternalError: Internal check failed.\n", label(cause=("h-oom",)), CaseVerdict.MISLEADING),
    ],
)  # fmt: skip
def test_an_answer_is_compared_with_its_label(log: bytes, truth: Label, verdict: CaseVerdict) -> None:
    assert judged(examine(log), truth) is verdict


# ------------------------------------------------------------------------------------------------- calibration


def test_the_calibration_that_ships_is_of_this_library() -> None:
    kept = json.loads(resources.find("knowledge", "failures/calibration.json").read_text())

    assert set(kept["entries"]) <= set(default_library().entries)
    assert Calibration.model_validate(kept) == calibration()


def test_an_entry_that_was_wrong_is_believed_less() -> None:
    library = default_library().entries
    wrong = [library[name] for name, count in calibration().entries.items() if count.wrong > count.right]

    assert wrong
    assert all(confidence(entry) < 0.6 for entry in wrong if entry.kind.value != "cause")
    assert all(confidence(entry) < confidence(entry, without_one=True) for entry in wrong)


def test_the_log_that_an_entry_was_written_from_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = default_library().entries["h-oom"]
    found = []
    for right in (0, 1, 8):
        measured = Calibration(entries={"h-oom": Counts(right=right)})
        monkeypatch.setattr("assay.diagnose.calibration.calibration", lambda measured=measured: measured)
        found.append(confidence(entry))

    assert found[0] == found[1] < found[2]

"""The reports of recorded sets of wheels stay byte for byte what they were."""

from __future__ import annotations

import json

import audit_corpus
import pytest


@pytest.fixture(scope="module")
def now() -> dict[str, dict[str, object]]:
    return audit_corpus.reports()


def test_every_recorded_set_gets_the_report_that_was_recorded(now: dict[str, dict[str, object]]) -> None:
    """Run `python tests/support/audit_corpus.py reports` after a change that is meant to change reports."""
    recorded = audit_corpus.recorded_reports()

    assert recorded.keys() == now.keys()
    assert [] == [name for name, report in recorded.items() if json.dumps(report) != json.dumps(now[name])]


def test_reports_do_not_depend_on_which_sets_were_judged_before(now: dict[str, dict[str, object]]) -> None:
    known = audit_corpus.releases()
    sets = list(audit_corpus.cases())[::-3]

    assert [now[case.name] for case in sets] == [audit_corpus.report_of(case, known) for case in sets]


def test_recorded_sets_show_every_rule_of_wheels() -> None:
    shown = {
        finding["rule"]
        for one in audit_corpus.recorded_reports().values()
        for finding in one["report"].get("findings", ())
    }

    assert {"R1", "R2", "R3", "R4", "R6", "R7", "L1", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "G1", "G2", "G3",
            "F1"} == shown  # fmt: skip

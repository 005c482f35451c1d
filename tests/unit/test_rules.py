"""Rules of the audit: one file each, pure functions, nothing remembered between two questions."""

from __future__ import annotations

import ast
import re
from functools import cached_property
from pathlib import Path

import audit_corpus
import pytest

from assay.audit.context import Context
from assay.audit.rule import AuditRule
from assay.audit.rules import ALL, RULES
from assay.foundation.derived import Deriving
from assay.foundation.outcome import Severity
from assay.foundation.strict import Value
from assay.foundation.versions import fits

SOURCE = Path(__file__).parents[2] / "src" / "assay"
AUDIT = [path for room in ("audit", "wheels", "foundation") for path in sorted((SOURCE / room).rglob("*.py"))]
WEIGHT = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


def test_each_rule_has_a_file_named_after_it() -> None:
    files = {path.stem.partition("_")[0].upper() for path in (SOURCE / "audit" / "rules").glob("*_*.py")}

    assert {rule.id for rule in ALL} == files - {""}
    assert [rule.id for rule in ALL] == list(RULES)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.id)
def test_a_rule_gives_its_own_findings_twice_alike_and_none_heavier_than_it_says(rule: AuditRule) -> None:
    for case in list(audit_corpus.cases())[::7]:
        context = Context(installation=case.installation, knowledge=audit_corpus.knowledge(), targets=case.targets)
        alone = list(rule.findings(context))

        assert alone == list(rule.findings(context))
        assert {rule.id} >= {finding.rule for finding in alone}
        assert all(WEIGHT[finding.severity] <= WEIGHT[rule.severity] for finding in alone)


def test_rules_give_the_same_in_any_order() -> None:
    for case in list(audit_corpus.cases())[::9]:
        made = [
            Context(installation=case.installation, knowledge=audit_corpus.knowledge(), targets=case.targets)
            for _ in range(2)
        ]
        there = {rule.id: list(rule.findings(made[0])) for rule in ALL}
        back = {rule.id: list(rule.findings(made[1])) for rule in reversed(ALL)}

        assert there == back


@pytest.mark.parametrize("path", AUDIT, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_is_kept_by_the_identity_of_an_object(path: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id"
    ]

    # The loader of YAML looks for anchors that hold themselves.
    assert not calls or path.name == "yamltext.py"


def test_the_collector_is_left_as_python_sets_it() -> None:
    assert [] == [
        path for path in SOURCE.rglob("*.py") if re.search(r"\bgc\.(?:set_threshold|disable|freeze)", path.read_text())
    ]


def _subclasses(one: type) -> set[type]:
    return {one}.union(*map(_subclasses, one.__subclasses__()))


def test_only_values_that_derive_anew_when_copied_keep_what_they_derive() -> None:
    import assay.cli.audit  # noqa: F401 - brings the values of all rooms

    keeping = {
        one for one in _subclasses(Value) if any(isinstance(item, cached_property) for item in vars(one).values())
    }

    assert keeping
    assert keeping <= _subclasses(Deriving)
    assert {"model_copy", "__copy__", "__deepcopy__"}.isdisjoint(vars(Value))


def test_whether_a_version_meets_a_specifier_is_decided_in_one_place() -> None:
    """What asks for the newest build, or for a Python without its pre-releases, says so in its own words."""
    own = {"foundation/versions.py", "pipeline/lock.py", "wheels/tags.py", "audit/rules/r2_python.py"}
    asking = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"SpecifierSet\([^)]*\)\.contains|\bspec\.contains", path.read_text())
    }

    assert own >= asking


@pytest.mark.parametrize(
    ("version", "specifier", "unknown", "expected"),
    [
        ("2.8.0", ">=2.8,<3", None, True),
        ("2.8.0+cu128", "==2.8.0", None, True),
        ("2.9.0.dev20261101", ">=2.8", None, True),
        ("2.7.1", ">=2.8", None, False),
        ("nightly", "", None, True),
        ("nightly", ">=1", None, False),
        ("nightly", ">=1", True, True),
        ("nightly", "", False, False),
        ("1.0", "no specifier", None, False),
    ],
)
def test_a_version_meets_a_specifier(version: str, specifier: str, unknown: bool | None, expected: bool) -> None:
    assert expected is fits(version, specifier, unknown=unknown)

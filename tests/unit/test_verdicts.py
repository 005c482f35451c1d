"""Verdicts of the audit are kept by the digest of all they rest on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from wheels import facts, library

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.verdicts import KEPT, VerdictFiles
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.findings import Finding
from assay.audit.installation import Base, Installation
from assay.audit.knowledge import Knowledge
from assay.foundation.outcome import Severity
from assay.pipeline.audit import Auditor
from assay.pipeline.obtain import Obtained
from assay.pipeline.verdicts import Verdicts
from assay.ports.index import IndexFile

ROOT = Path(__file__).parents[2]
BASE = Base(name="slim", glibc="2.36", sonames=frozenset({"libz.so.1"}))
WHEEL = facts("one", "1.0", library("one/m.abi3.so", needed=("libnowhere.so",)), sha256="1" * 64)
CELL = Installation(wheels=(WHEEL, facts("two", "1.0", sha256="2" * 64)), python="3.11", base=BASE)
SM120 = TargetGpu(name="sm_120", capability=120)
TROUBLE = Finding(rule="F1", severity=Severity.WARNING, package="one 1.0", message="cut short")


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return load_knowledge(ROOT)


def auditor(folder: Path, knowledge: Knowledge) -> Auditor:
    return Auditor(
        index=SimpleIndex(),
        wheels=WebWheels(),
        facts=FactsCache(folder / "facts"),
        knowledge=knowledge,
        verdicts=VerdictFiles(folder / "verdicts"),
    )


def obtained(cell: Installation) -> list[Obtained]:
    return [Obtained(facts=wheel) for wheel in cell.wheels]


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the rules were applied again")


def test_the_same_question_is_answered_without_applying_a_rule(
    tmp_path: Path, knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = auditor(tmp_path, knowledge).installation(CELL, obtained(CELL), [SM120], name="first")
    monkeypatch.setattr("assay.pipeline.audit.audit", refuse)
    again = auditor(tmp_path, knowledge).installation(CELL, obtained(CELL), [SM120], name="again")

    assert first.findings
    assert first.model_copy(update={"name": "again", "seconds": again.seconds}) == again
    with pytest.raises(AssertionError, match="applied again"):
        auditor(tmp_path, knowledge).installation(CELL, obtained(CELL), [], name="without a GPU")


def test_a_damaged_verdict_is_made_again(tmp_path: Path, knowledge: Knowledge) -> None:
    first = auditor(tmp_path, knowledge).installation(CELL, obtained(CELL), [], name="x")
    (place,) = (tmp_path / "verdicts").glob("*.json")
    place.write_bytes(place.read_bytes()[:-20])

    assert first.findings == auditor(tmp_path, knowledge).installation(CELL, obtained(CELL), [], name="x").findings


Asked = dict[str, Any]


@pytest.mark.parametrize(
    "changed",
    [
        lambda asked: {"installation": replace(CELL, python="3.12")},
        lambda asked: {"installation": replace(CELL, complete=False)},
        lambda asked: {"installation": replace(CELL, named=True)},
        lambda asked: {"installation": replace(CELL, installed=True)},
        lambda asked: {"installation": replace(CELL, machine="aarch64")},
        lambda asked: {"installation": replace(CELL, overridden=frozenset({"one"}))},
        lambda asked: {"installation": replace(CELL, elsewhere=frozenset({"one"}))},
        lambda asked: {"installation": replace(CELL, asked=frozenset({"one"}))},
        lambda asked: {"installation": replace(CELL, base=replace(BASE, glibc="2.31"))},
        lambda asked: {"installation": replace(CELL, base=replace(BASE, sonames=frozenset()))},
        lambda asked: {"installation": replace(CELL, base=replace(BASE, environment=frozenset()))},
        lambda asked: {"installation": replace(CELL, wheels=CELL.wheels[::-1])},
        lambda asked: {"installation": replace(CELL, wheels=CELL.wheels[:1])},
        lambda asked: {
            "installation": replace(CELL, wheels=(WHEEL.model_copy(update={"cuda": "12.8"}), *CELL.wheels[1:]))
        },
        lambda asked: {"targets": [SM120]},
        lambda asked: {"targets": [replace(SM120, driver_cuda="12.4")]},
        lambda asked: {"problems": [TROUBLE]},
        lambda asked: {"knowledge": replace(asked["knowledge"], python={})},
        lambda asked: {"demangle": str.upper},
        lambda asked: {"known": facts("one", "2.0", sha256="3" * 64)},
    ],
)
def test_each_thing_that_a_report_rests_on_is_in_the_key(
    tmp_path: Path, knowledge: Knowledge, changed: Callable[[Asked], Asked]
) -> None:
    asked: Asked = {"installation": CELL, "targets": [], "problems": [], "knowledge": knowledge, "demangle": str,
                    "known": WHEEL}  # fmt: skip

    def key(asked: Asked, folder: Path) -> str:
        cache = FactsCache(folder)
        cache.put(asked["known"])
        verdicts = Verdicts(
            VerdictFiles(folder), knowledge=asked["knowledge"], facts=cache, index=NoIndex(), demangle=asked["demangle"]
        )
        return verdicts.key(asked["installation"], asked["targets"], asked["problems"])

    assert key(asked, tmp_path / "one") == key(asked, tmp_path / "other")
    assert key(asked, tmp_path / "one") != key({**asked, **changed(asked)}, tmp_path / "changed")


class NoIndex:
    """An index that has nothing."""

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        return ()

    def origins(self, index: str | None = None) -> frozenset[str]:
        return frozenset()


def test_an_uncertain_verdict_counts_as_long_as_no_more_can_be_read(tmp_path: Path, knowledge: Knowledge) -> None:
    verdicts = Verdicts(
        VerdictFiles(tmp_path), knowledge=knowledge, facts=FactsCache(tmp_path), index=NoIndex(), demangle=str
    )
    unsure = replace(audit(CELL, knowledge), uncertain=frozenset({(WHEEL.sha256, "one/m.abi3.so")}))
    verdicts.put("a" * 40, unsure)

    assert unsure == verdicts.get("a" * 40, name="", readable=())
    assert None is verdicts.get("a" * 40, name="", readable={WHEEL.sha256})
    assert None is verdicts.get("b" * 40, name="", readable=())


def test_the_oldest_half_goes_when_there_are_too_many_verdicts(tmp_path: Path) -> None:
    for number in range(KEPT):
        (tmp_path / f"{number}.json").write_text("{}")
        os.utime(tmp_path / f"{number}.json", (number, number))
    store = VerdictFiles(tmp_path)
    store.put("new", b"{}")
    store.put("newer", b"{}")

    assert KEPT // 2 + 2 == len(list(tmp_path.glob("*.json")))
    assert not (tmp_path / "0.json").exists()
    assert b"{}" == store.get("new")
    assert None is store.get("other")


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = VerdictFiles(tmp_path / "file" / "verdicts")
    store.put("key", b"{}")

    assert None is store.get("key")

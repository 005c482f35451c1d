"""Many cells: what is not known is read once, ahead of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from project_tools import Project
from wheels import FileServer, facts, library, serving, wheel_bytes

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import Addresses, SimpleIndex, WebWheels
from assay.audit.audit import Audited, audit
from assay.audit.findings import AuditReport
from assay.audit.installation import Installation
from assay.cli.audit_composition import make_auditor
from assay.cli.common import load
from assay.errors import AssayError
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedWheel
from assay.matrix.model import Matrix
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_many import SHARE, audit_many
from assay.pipeline.obtain import Obtained, WheelReader
from assay.ports.index import IndexFile
from assay.wheels.facts import Library

ROOT = Path(__file__).parents[2]
ELF = ROOT / "tests" / "fixtures" / "elf"
NATIVE = {f"thing/{name}": (ELF / name).read_bytes() for name in ("libprovider.so.1", "libconsumer.so")}


@pytest.fixture
def server() -> Iterator[tuple[FileServer, str]]:
    """A package index on loopback."""
    with serving() as found:
        yield found


class Wheels:
    """Wheels on that index."""

    def __init__(self, server: tuple[FileServer, str]) -> None:
        self.state, self.address = server

    def add(self, name: str, version: str = "1.0", *, native: bool = False) -> LockedWheel:
        data = wheel_bytes(name, version, NATIVE if native else {f"{name}/__init__.py": version.encode()})
        filename = f"{name}-{version}-{'cp311-cp311-linux_x86_64' if native else 'py3-none-any'}.whl"
        sha256 = hashlib.sha256(data).hexdigest()
        page = self.state.files.get(f"/simple/{name}/", b"")
        self.state.files[f"/simple/{name}/"] = page + f'<a href="/{filename}#sha256={sha256}">x</a>'.encode()
        self.state.files[f"/{filename}"] = data
        return LockedWheel(name=name, version=version, filename=filename, sha256=sha256)


@pytest.fixture
def wheels(server: tuple[FileServer, str]) -> Wheels:
    return Wheels(server)


@pytest.fixture
def auditor(server: tuple[FileServer, str], tmp_path: Path) -> Auditor:
    return Auditor(
        index=SimpleIndex(default=Addresses(simple=(f"{server[1]}/simple",))),
        wheels=WebWheels(),
        facts=FactsCache(tmp_path / "facts"),
        knowledge=load_knowledge(),
    )


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return load(Project(tmp_path / "project").root)[1].project.matrix


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return list(load(Project(tmp_path / "project").root)[1].cells)


def locked(cells: Sequence[Cell], *wheels: Sequence[LockedWheel]) -> list[tuple[Cell, Lock]]:
    return [
        (
            cell,
            Lock(
                cell=cell.id,
                python="3.11",
                platform="x86_64-manylinux_2_36",
                requirements=(),
                base="tiny",
                wheels=tuple(some),
            ),
        )
        for cell, some in zip(cells, wheels, strict=True)
    ]


def audited(auditor: Auditor, matrix: Matrix, asked: Sequence[tuple[Cell, Lock]]) -> list[AuditReport]:
    ahead = auditor.read_ahead(lock for _, lock in asked)
    return [auditor.cell(cell, lock, matrix, ahead=ahead) for cell, lock in asked]


def said(reports: Sequence[AuditReport]) -> list[AuditReport]:
    """Reports without what they cost."""
    return [report.model_copy(update={"seconds": 0.0, "fetched_bytes": 0}) for report in reports]


def test_each_wheel_is_read_once_for_all_cells(
    auditor: Auditor, wheels: Wheels, cells: list[Cell], matrix: Matrix
) -> None:
    thing, pure = wheels.add("thing", native=True), wheels.add("pure")
    asked = locked(cells, [thing, pure], [thing, pure], [thing])
    pages = sum(len(wheels.state.files[f"/simple/{name}/"]) for name in ("thing", "pure"))

    first = audited(auditor, matrix, asked)
    fetched = wheels.state.sent
    again = audited(auditor, matrix, asked)

    assert fetched - pages == first[0].fetched_bytes > 0
    assert fetched == wheels.state.sent
    assert [0] * 5 == [report.fetched_bytes for report in (*first[1:], *again)]
    assert said(first) == said(again)
    assert [{"thing": "1.0", "pure": "1.0"}, {"thing": "1.0", "pure": "1.0"}, {"thing": "1.0"}] == [
        report.packages for report in first
    ]


def test_cells_read_ahead_are_told_as_those_that_are_read_one_after_the_other(
    auditor: Auditor, wheels: Wheels, cells: list[Cell], matrix: Matrix
) -> None:
    thing, pure = wheels.add("thing", native=True), wheels.add("pure")
    asked = locked(cells, [thing], [thing, pure], [pure])
    alone = [auditor.cell(cell, lock, matrix) for cell, lock in asked]

    assert all(report.fetched_bytes for report in alone[:2])
    assert said(alone) == said(audited(auditor, matrix, asked))


def test_a_wheel_that_an_index_lacks_is_reported_for_each_cell_and_requested_once(
    auditor: Auditor, wheels: Wheels, cells: list[Cell], matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = wheels.add("pure")
    gone = LockedWheel(name="gone", version="1.0", filename="gone-1.0-py3-none-any.whl", sha256="0" * 64)
    asked_for: list[str] = []
    real = WheelReader.locked

    def noted(self: WheelReader, wheel: LockedWheel) -> Obtained:
        asked_for.append(wheel.name)
        return real(self, wheel)

    monkeypatch.setattr(WheelReader, "locked", noted)
    reports = audited(auditor, matrix, locked(cells, [good, gone], [gone], [good]))

    assert [["gone 1.0"], ["gone 1.0"], []] == [
        [finding.package for finding in report.findings if finding.rule == "F1"] for report in reports
    ]
    assert ["gone", "pure"] == sorted(asked_for)


def test_facts_read_for_one_cell_are_reused_by_the_next(
    auditor: Auditor, wheels: Wheels, cells: list[Cell], matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of wheels that were read ahead: a library on which a verdict hangs is read once."""
    thing, read = wheels.add("thing", native=True), list[str]()

    def doubting(installation: Installation, *rest: Any, **more: Any) -> Audited:
        (wheel,) = installation.wheels
        unsure = {(wheel.sha256, item.path) for item in wheel.libraries if "read" not in item.notes}
        return replace(audit(installation, *rest, **more), uncertain=frozenset(unsure))

    def reading(file: IndexFile, source: object, path: str, progress: object) -> Library:
        read.append(path)
        return library(path).model_copy(update={"notes": {"read": "wholly"}})

    monkeypatch.setattr("assay.pipeline.audit.audit", doubting)
    monkeypatch.setattr("assay.pipeline.obtain.read_library", reading)
    audited(auditor, matrix, locked(cells, [thing], [thing], [thing]))

    assert sorted(NATIVE) == sorted(read)


def test_many_cells_are_judged_alike_in_one_process_and_in_several(tmp_path: Path, matrix: Matrix) -> None:
    cache = FactsCache(tmp_path / "facts")
    cell = load(Project(tmp_path / "other").root)[1].cells[0]
    asked = []
    for number in range(2 * SHARE + 3):
        found = facts("thing", f"1.{number}", library("thing/_C.abi3.so", needed=(f"libgone{number}.so",)),
                      sha256=f"{number:064x}")  # fmt: skip
        cache.put(found)
        wheel = LockedWheel(name="thing", version=found.version, filename=found.filename, sha256=found.sha256)
        asked += locked([cell], [wheel])
    make = partial(make_auditor, {}, facts=tmp_path / "facts")

    alone = list(audit_many(cast("Auditor", Unkept(make())), asked, matrix, make=make, cores=1))
    shared = list(audit_many(cast("Auditor", Unkept(make())), asked, matrix, make=make, cores=2))
    again = list(audit_many(make(), asked, matrix, make=make, cores=2))

    def reports(found: list[tuple[Cell, AuditReport | AssayError]]) -> list[AuditReport]:
        return said([report for _, report in found if isinstance(report, AuditReport)])

    assert len(asked) == len(reports(alone))
    assert reports(alone) == reports(shared) == reports(again)
    assert {f"libgone{number}.so" in str(report.findings) for number, report in enumerate(reports(shared))} == {True}


class Unkept:
    """An auditor that has no kept verdicts."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._auditor, name)

    def kept_report(self, *_: object, **__: object) -> None:
        return None

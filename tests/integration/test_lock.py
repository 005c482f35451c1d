"""Locking with the real resolver against indexes on loopback: nightlies by date, and the three ways to have no lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from local_index import LocalIndex, served

from assay.adapters.index.simple import versions
from assay.adapters.index.uv import UvResolver
from assay.audit.findings import Finding
from assay.errors import PackageIndexError
from assay.foundation.outcome import Severity
from assay.matrix import loading as matrix
from assay.matrix import lockfile, plan
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.pipeline.lock import Judge, LockOptions, LockPorts, LockResult, LockStatus, lock

MATRIX = """\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  slim: {{kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36}}
  devel: {{kind: registry, image: "docker.io/nvidia/cuda:13.0.2-devel", python: 3.11, glibc: 2.39, cuda: 13.0}}
indexes:
  pypi: {{}}
  torch-nightly: {{url: "{nightly}", nightly: true, keeps_days: 60}}
axes:
  torch:
    label: torch
    values:
      - 2.8.0
      - {{id: nightly, spec: ">=2.15.0.dev0", index: torch-nightly, date: latest}}
      - {{id: n20261101, spec: ">=2.15.0.dev0", index: torch-nightly, date: 2026-11-01}}
  kernel: {{label: k, values: [1.0, 2.0]}}
"""
IMAGE = """\
description: an image
engine: none
targets: [sm_120]
id: [torch, kernel]
defaults: {base: slim}
axes: {torch: [2.8.0, nightly, n20261101], kernel: [1.0, 2.0]}
requirements: ["torch{{ torch.pin }}", "kernel{{ kernel.pin }}"]
"""
TAG = "cp311-cp311-manylinux_2_28_x86_64"


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    """The default index: torch 2.8.0, and two kernels, of which the second wants exactly that torch."""
    index = LocalIndex(tmp_path / "default")
    index.add("torch", "2.8.0", tag=TAG, requires=["numpy"])
    index.add("torch", "2.8.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    index.add("numpy", "2.0")
    index.add("kernel", "1.0")
    index.add("kernel", "2.0", requires=["torch==2.8.0"])
    with served(index) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        monkeypatch.setenv("UV_NO_CACHE", "1")
        for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        yield index


@pytest.fixture
def nightly(tmp_path: Path) -> Iterator[tuple[LocalIndex, str]]:
    """A nightly index that still has three nights."""
    index = LocalIndex(tmp_path / "nightly")
    for night in ("20261101", "20261110", "20261118"):
        index.add("torch", f"2.15.0.dev{night}+cu130", tag=TAG, requires=["numpy"])
    # A nightly index mirrors common packages, often old ones.
    index.add("numpy", "1.0")
    with served(index) as address:
        yield index, address


class Cells:
    """The cells of a project and their locks."""

    def __init__(self, address: str, image: str = IMAGE, *, judge: Judge | None = None, repair: bool = False) -> None:
        project = matrix.load(MATRIX.format(nightly=address), {"i": image})
        self.matrix = project.matrix
        self.cells = {cell.id: cell for cell in plan.make(project).cells}
        self.repair = repair
        self.ports = LockPorts(
            resolver=UvResolver(),
            versions=versions,
            digests=lambda reference, platform: "sha256:" + "c" * 64,
            commits=lambda address, tag: "e" * 40,
            judge=judge,
        )

    def lock(self, identifier: str, old: Lock | None = None, *, refresh: bool = False) -> LockResult:
        cell: Cell = self.cells[identifier]
        options = LockOptions(refresh=refresh, repair=self.repair)
        return next(lock([LockedCell(cell=cell, lock=old)], self.matrix, self.ports, options))


def test_a_lock_holds_the_exact_files_and_no_address(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    result = Cells(nightly[1]).lock("i-torch2.8.0-k2.0")

    assert result.status is LockStatus.LOCKED, result.explanation
    assert result.lock is not None
    assert [(w.name, w.version, w.index) for w in result.lock.wheels] == [
        ("kernel", "2.0", "pypi"),
        ("numpy", "2.0", "pypi"),
        ("torch", "2.8.0", "pypi"),
    ]
    torch = result.lock.wheel("torch")
    assert torch is not None
    assert (torch.filename, torch.size is not None) == (f"torch-2.8.0-{TAG}.whl", True)
    assert "127.0.0.1" not in lockfile.dump(result.lock)


@pytest.mark.parametrize(
    ("cell", "night"), [("i-torchnightly-k1.0", "20261118"), ("i-torchn20261101-k1.0", "20261101")]
)
def test_a_nightly_is_locked_by_its_date(
    default: LocalIndex, nightly: tuple[LocalIndex, str], cell: str, night: str
) -> None:
    result = Cells(nightly[1]).lock(cell)

    assert result.status is LockStatus.LOCKED, result.explanation
    assert result.lock is not None
    torch = result.lock.wheel("torch")
    assert torch is not None
    assert (torch.version, torch.index) == (f"2.15.0.dev{night}+cu130", "torch-nightly")
    assert result.lock.nightlies == {"torch": night}
    assert result.lock.wheel("numpy") == next(w for w in result.lock.wheels if w.version == "2.0")


def test_a_lock_stays_until_it_is_refreshed(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    cells = Cells(nightly[1])
    first = cells.lock("i-torchnightly-k1.0")
    nightly[0].add("torch", "2.15.0.dev20261119+cu130", tag=TAG)
    kept = cells.lock("i-torchnightly-k1.0", first.lock)
    fresh = cells.lock("i-torchnightly-k1.0", first.lock, refresh=True)

    assert kept.status is LockStatus.FRESH
    assert fresh.status is LockStatus.LOCKED
    assert "- torch 2.15.0.dev20261118+cu130" in fresh.changes
    assert "+ torch 2.15.0.dev20261119+cu130" in fresh.changes


def test_a_pruned_night_is_missing_and_says_what_is_left(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    nightly[0].prune("torch", "2.15.0.dev20261101+cu130")
    result = Cells(nightly[1]).lock("i-torchn20261101-k1.0")

    assert result.status is LockStatus.MISSING
    assert "keeps no build as old as 2026-11-01; its oldest is of 20261110" in result.explanation


def test_lock_keeps_resolver_explanation_when_unsatisfiable(
    default: LocalIndex, nightly: tuple[LocalIndex, str]
) -> None:
    result = Cells(nightly[1]).lock("i-torchnightly-k2.0")

    assert result.status is LockStatus.CONFLICT
    assert "kernel>=2.0 depends on torch==2.8.0" in " ".join(result.explanation.split())


def test_override_replaces_requirements_of_packages(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    image = IMAGE + 'overrides: [{match: {torch: nightly}, forced_requirements: ["torch{{ torch.pin }}"]}]\n'
    result = Cells(nightly[1], image).lock("i-torchnightly-k2.0")

    assert result.status is LockStatus.LOCKED, result.explanation
    assert result.lock is not None
    torch = result.lock.wheel("torch")
    assert torch is not None
    assert torch.version == "2.15.0.dev20261118+cu130"


def test_package_missing_from_the_index_is_reported_as_missing(
    default: LocalIndex, nightly: tuple[LocalIndex, str]
) -> None:
    default.prune("kernel", "2.0")
    result = Cells(nightly[1]).lock("i-torch2.8.0-k2.0")

    assert result.status is LockStatus.MISSING
    assert "no version of kernel==2.0" in result.explanation


def test_unreachable_index_keeps_the_existing_lock(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    cells = Cells(nightly[1])
    first = cells.lock("i-torch2.8.0-k2.0")
    default.prune("kernel", "2.0")
    again = cells.lock("i-torch2.8.0-k2.0", first.lock, refresh=True)

    assert again.status is LockStatus.MISSING
    assert again.lock == first.lock
    assert "stays" in again.explanation


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """An index that answers everything with one status; gives its address, with a password in it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://me:s3cret-word@127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, LockStatus.UNREACHABLE),
        (304, LockStatus.UNREACHABLE),
        (401, LockStatus.UNREACHABLE),
        (403, LockStatus.UNREACHABLE),
        (404, LockStatus.MISSING),
        (429, LockStatus.UNREACHABLE),
        (503, LockStatus.UNREACHABLE),
    ],
)
def test_an_index_that_refuses_is_not_one_that_lacks(
    status: int,
    expected: LockStatus,
    monkeypatch: pytest.MonkeyPatch,
    default: LocalIndex,
    nightly: tuple[LocalIndex, str],
) -> None:
    cells = Cells(nightly[1])
    first = cells.lock("i-torch2.8.0-k1.0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with refusing(status) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        result = cells.lock("i-torch2.8.0-k1.0", first.lock, refresh=True)

    assert result.status is expected, result.explanation
    assert result.lock == first.lock
    assert "s3cret-word" not in result.explanation
    # The address helps whoever mends the way there; an explanation that is kept beside the recipe has none.
    assert ("127.0.0.1" in result.explanation) == (expected is LockStatus.UNREACHABLE)


def test_an_invalid_answer_of_an_index_is_requested_again(
    monkeypatch: pytest.MonkeyPatch, default: LocalIndex, nightly: tuple[LocalIndex, str]
) -> None:
    whole = SimpleHTTPRequestHandler.do_GET
    asked: list[str] = []

    def first_answer_without_a_type(self: SimpleHTTPRequestHandler) -> None:
        asked.append(self.path)
        if len(asked) > 1:
            return whole(self)
        self.send_response(200)
        return self.end_headers()

    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", first_answer_without_a_type)
    result = Cells(nightly[1]).lock("i-torch2.8.0-k1.0")

    assert result.status is LockStatus.LOCKED, result.explanation
    assert asked.count(asked[0]) == 2


@pytest.mark.parametrize("cell", ["i-torch2.8.0-k1.0", "i-torchnightly-k1.0"])
def test_an_index_that_does_not_answer_is_unreachable(
    cell: str, monkeypatch: pytest.MonkeyPatch, default: LocalIndex
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    result = Cells("http://127.0.0.1:9/simple").lock(cell)

    assert result.status is LockStatus.UNREACHABLE, result.explanation


def test_a_registry_base_is_locked_by_digest(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    result = Cells(nightly[1], IMAGE.replace("base: slim", "base: devel")).lock("i-torch2.8.0-k1.0")

    assert result.lock is not None
    assert result.lock.base_digest == "sha256:" + "c" * 64


def test_constraint_limits_versions_of_required_packages(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    default.add("numpy", "1.9")
    cells = Cells(nightly[1], IMAGE + 'constraints: ["numpy<2", "absent==1"]\n')
    result = cells.lock("i-torch2.8.0-k1.0")

    assert result.lock is not None
    assert {"torch": "2.8.0", "numpy": "1.9", "kernel": "1.0"} == {w.name: w.version for w in result.lock.wheels}
    assert "# constrain: numpy<2\n" in lockfile.dump(result.lock)
    assert lockfile.parse(lockfile.dump(result.lock), file="lock.txt") == result.lock
    unlimited = Cells(nightly[1]).cells["i-torch2.8.0-k1.0"]
    assert "the constraints are different: - numpy<2" in str(
        lockfile.stale_reason(result.lock, unlimited, glibc="2.36")
    )


def numpy_of_two(constraint: str) -> Judge:
    """Return an audit that refuses numpy 2.0 and proposes a constraint."""

    def judge(cell: Cell, lock: Lock) -> list[Finding]:
        numpy = lock.wheel("numpy")
        wrong = Finding(rule="R7", severity=Severity.ERROR, package="numpy", message="no", constraint=constraint)
        return [wrong] if numpy is not None and numpy.version == "2.0" else []

    return judge


def test_lock_with_failed_audit_reports_its_findings(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    result = Cells(nightly[1], judge=numpy_of_two("numpy<2")).lock("i-torch2.8.0-k1.0")

    assert LockStatus.FAILING is result.status
    assert ["numpy<2"] == [finding.constraint for finding in result.findings]
    assert result.lock is not None


def test_repair_adds_the_constraint_and_locks_again(default: LocalIndex, nightly: tuple[LocalIndex, str]) -> None:
    default.add("numpy", "1.9")
    result = Cells(nightly[1], judge=numpy_of_two("numpy<2"), repair=True).lock("i-torch2.8.0-k1.0")

    assert LockStatus.LOCKED is result.status
    assert ["numpy<2"] == [finding.constraint for finding in result.repairs]
    assert ("numpy<2",) == result.cell.constraints
    assert result.lock is not None
    assert ("numpy<2",) == result.lock.constraints
    numpy = result.lock.wheel("numpy")
    assert numpy is not None
    assert "1.9" == numpy.version


def test_a_repair_that_cannot_be_resolved_leaves_the_lock_and_says_why(
    default: LocalIndex, nightly: tuple[LocalIndex, str]
) -> None:
    result = Cells(nightly[1], judge=numpy_of_two("numpy<1"), repair=True).lock("i-torch2.8.0-k1.0")

    assert LockStatus.FAILING is result.status
    assert () == result.repairs
    assert "no lock with numpy<1" in result.warning
    assert result.lock is not None


def test_an_audit_that_cannot_read_anything_refuses_nothing(
    default: LocalIndex, nightly: tuple[LocalIndex, str]
) -> None:
    def judge(cell: Cell, lock: Lock) -> list[Finding]:
        raise PackageIndexError("the index is down")

    result = Cells(nightly[1], judge=judge).lock("i-torch2.8.0-k1.0")

    assert LockStatus.LOCKED is result.status
    assert "the lock was not audited: the index is down" == result.warning

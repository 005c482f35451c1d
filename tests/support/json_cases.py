"""What commands write with `--format json`: for each schema, command lines and calls that write such documents.

What needs an index, a registry, an engine or a GPU is called below its ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from assembly_bench import TWO, Bench
from publish_tools import both, candidate, gear, policy, proposed
from publish_tools import publish as carry_out
from registry_tools import put_image
from terminal_tools import CELL, DIGEST, OTHER, VERSION, WHY, benched, probed, report, served

from assay.adapters.files.project import ProjectFiles
from assay.adapters.registry.fake import FakeRegistry
from assay.audit.coverage import Coverage, CoverageRow
from assay.audit.found import Attempt, FindDocument, MissingFeature, Search
from assay.cli import assemble, bench, build, probe, publish, serve_check, status, update
from assay.cli.console import document as write
from assay.errors import AssayError, PolicyRefused, RegistryError, UsageError
from assay.evidence.record import BuildRecord, BuildStatus
from assay.evidence.reference import Reference, Repository
from assay.foundation.outcome import Outcome
from assay.matrix import plan
from assay.matrix.bisection import BisectDocument, Trial, answer, begin
from assay.matrix.cell import Cell
from assay.matrix.lock import LockedCell
from assay.pipeline.assembly.assembled import Assembled
from assay.pipeline.build_jobs import PreparedBuild
from assay.pipeline.documents import AssembleDocument, CollectDocument, PoolCheck, PoolsDocument
from assay.pipeline.lock import LockResult, LockStatus
from assay.pipeline.lock_documents import LockDocument, LockEnd
from assay.pipeline.propose import ProposedCell
from assay.pipeline.publishing.proposal import Proposal
from assay.pipeline.publishing.tags import PublishPorts
from assay.pipeline.rebuild import Rebuilt
from assay.pipeline.revoke import RevokeDocument
from assay.pipeline.verify import document
from assay.ports.services import KeptServer

__all__ = ["CASES"]

HOST: Final = "registry.test"
SERVER: Final = KeptServer(
    name="qwen",
    container="assay-up-qwen",
    image=OTHER,
    running=True,
    state="Up 3 minutes",
    labels={"assay.up.model": "Qwen/Qwen3-0.6B"},
)
SEARCH: Final = Search(
    asked="vllm>=0.30",
    platform="x86_64",
    targets=("sm_120",),
    titles={"sm_120": "RTX 5090"},
    base="slim",
    attempts=(
        Attempt(
            version="0.33.0",
            outcome="fails",
            lacking=(MissingFeature(target="sm_120", feature="marlin", outcome=Outcome.BROKEN, reason=WHY),),
            features={"sm_120": {"marlin": Outcome.BROKEN}},
        ),
        Attempt(version="0.32.0", outcome="fits", packages={"torch": "2.14.0"}, main=("torch",)),
    ),
)


def cells(*names: str) -> list[Cell]:
    """Return cells of the project in the current folder."""
    made = plan.make(ProjectFiles(Path()).load())
    return [cell for cell in made.cells if cell.id in names]


def publishing() -> PublishPorts:
    registry = FakeRegistry()
    put_image(registry, Repository(host=HOST, path="team/staging/demo"), "key")
    return gear(registry, Path())


def verified() -> None:
    write(document(carry_out(candidate(), policy(HOST), both, publishing())))


def refused() -> None:
    tools = publishing()
    results: dict[str, Proposal | AssayError] = {
        "good": proposed(candidate(), policy(HOST), both, tools),
        "bad": proposed(candidate(), policy(HOST), lambda _: [], tools),
        "edited": PolicyRefused("records were edited\nafter they were written"),
        "gone": RegistryError("no answer"),
    }
    publish._write(results, ["plain-multi-verified"], level="verified", dry_run=True)


def rebuilt() -> None:
    layers = (("COPY /out/ /opt/venv/", DIGEST, ""), ("LABEL", "", DIGEST))
    place = Reference.parse(f"{HOST}/team/demo@{DIGEST}")
    write(Rebuilt(reference=place, cell=CELL, published=DIGEST, rebuilt=DIGEST[:-1] + "0", differing=layers).document())


class Assembling(assemble._Cells):
    """Assembles two wheels, and fails to assemble any other cell."""

    def __init__(self) -> None:
        self._destinations = ()

    def _assemble(self, cell: Cell) -> Assembled:
        if cell.id != OTHER:
            raise UsageError(f"{cell.id} has no lock", hint=f"assay lock {cell.id}")
        return Bench(Path("bench")).assemble(TWO)


def assembled() -> None:
    write(AssembleDocument(images=tuple(Assembling().one(cell) for cell in cells(CELL, OTHER))))


def forecast() -> None:
    one, other = cells(CELL, OTHER)
    lock = ProjectFiles(Path()).lock(other)
    assert lock is not None
    prepared = [PreparedBuild(cell=other, lock=lock, dockerfile="", key="k", stale=why) for why in (None, "new lock")]
    build._dry_run([LockedCell(cell=one, lock=None, unresolved=WHY), *prepared], None, "json")


def built() -> None:
    record = BuildRecord(created=probed().created, run="run1", cell=OTHER, status=BuildStatus.FAILED, reason=WHY)
    build._result(cells(OTHER), {OTHER: record}, ProjectFiles(Path()), "json")


def locked() -> list[LockResult]:
    one, other = cells(CELL, OTHER)
    lock = ProjectFiles(Path()).lock(other)
    failing = report().findings
    return [
        LockResult(cell=one, status=LockStatus.CONFLICT, explanation=WHY),
        LockResult(
            cell=other, status=LockStatus.FAILING, lock=lock, changes=("+ torch 2.8.0",), findings=failing,
            repairs=failing[:1],
        ),
    ]  # fmt: skip


def updated() -> None:
    like, new = cells(CELL, OTHER)
    found = ProposedCell(
        like=like, search=SEARCH, cell=new, result=LockResult(cell=new, status=LockStatus.LOCKED),
        changes={"vllm": ("0.32.0", "0.33.0")}, held=("torch 2.15.0 is available",),
    )  # fmt: skip
    update._write([found, ProposedCell(like=like, changes={}, refused=WHY)], locked())


def bisected() -> None:
    state = begin(["2.8.0", "2.9.1", "2.14.0"], known={"2.9.1": Trial.SKIP})
    write(BisectDocument(axis="torch", state=state, answer=answer(state)))


def probe_records() -> None:
    probe._show_all([probed()], "json", plan.Plan.__new__(plan.Plan), Path(), None)  # type: ignore[arg-type]


def covered() -> None:
    rows = [
        CoverageRow(
            distribution="vllm", version="0.33.0", platform="x86_64", uploaded="2026-11-20",
            targets={"sm_120": {"marlin": "works"}},
        ),
        CoverageRow(distribution="vllm", version="0.34.0", platform="any", uploaded="2026-11-21", problem="gone"),
    ]  # fmt: skip
    write(Coverage(made="2026-11-30", since="2026-01-01", rows=tuple(rows)))


CASES: Final[Mapping[str, tuple[str | Callable[[], object], ...]]] = {
    "assemble": (assembled,),
    "audit": ("audit plain-1.0-py3-none-any.whl --facts facts --no-record",),
    "bench": (lambda: bench._show([benched()], "json"),),
    "bisect": (bisected,),
    "build": (built,),
    "build-dry-run": (forecast,),
    "collect": ("collect", lambda: write(CollectDocument(records=(probed(),), open=1))),
    "coverage": (covered,),
    "diagnose": ("diagnose server.log",),
    "diagnose-known": ("diagnose --known",),
    "diagnose-run": ("diagnose run1",),
    "diff": (f"diff {CELL} {OTHER}",),
    "doctor": ("doctor",),
    "doctor-pools": (
        lambda: write(PoolsDocument(exit_code=0, pools=(PoolCheck(pool="x", name="a", ok=None, found=""),))),
    ),
    "facts-list": ("facts list --facts facts",),
    "facts-show": (f"facts show torch=={VERSION} --facts facts",),
    "find": (lambda: write(FindDocument(searches=(SEARCH,))),),
    "jobs": ("jobs --all",),
    "lock": (f"lock --check {OTHER}", lambda: write(LockDocument(locks=tuple(map(LockEnd.of, locked()))))),
    "plan": ("plan",),
    "probe": (probe_records,),
    "probe-list": ("probe --list",),
    "publish": (refused,),
    "publish-revoke": (
        lambda: write(RevokeDocument(dry_run=False, revoked=DIGEST, reason=WHY, aliases={"a": DIGEST, "b": None})),
    ),
    "recommend": ("recommend --target sm_120", "recommend --target sm_90 --offline"),
    "report": ("report",),
    "serve-record": (lambda: serve_check._show(served(), "json"),),
    "status": (lambda: status._show([], "json"), lambda: status._show([(SERVER, "healthy")], "json")),
    "update": (updated,),
    "verify": (verified,),
    "verify-rebuild": (rebuilt,),
}
"""Schema -> what writes such a document, in the project of `terminal_tools`."""

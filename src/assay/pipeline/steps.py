"""The pipeline on one page: every step, what it takes, and what it gives.

    Project                          matrix.yaml and images/*/image.yaml
      plan     -> Plan               the cells, and the excluded ones with the reason
      lock     -> LockResult         the exact wheels of each cell, or why there are none
      audit    -> AuditReport        findings and predictions, from the wheels alone
      build    -> BuildRecord        the image of each cell, by digest
      probe    -> ProbeRecord        the outcome of each feature on a GPU
      serve    -> ServeRecord        whether a server starts, and which checks of its API pass
      publish  -> Proposal           the tags that evidence supports
      verify   -> Verification       the verdict on anybody's reference, from the registry alone

A step is a function from values of the steps before to its own. It meets the world through ports alone, which
`assay.cli.composition` fills with adapters. Values stay on disk between two commands (locks in images/, records in
build_logs/), so every command can begin with the step that it needs. `tests/unit/test_steps.py` holds this page to the
signatures of the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assay.audit.findings import AuditReport
from assay.evidence.judging import Verification
from assay.evidence.record import BuildRecord, ProbeRecord, ServeRecord
from assay.evidence.reference import Reference
from assay.matrix.cell import Cell
from assay.matrix.loading import Project
from assay.matrix.lock import LockedCell
from assay.matrix.plan import Plan, make
from assay.pipeline.audit_cells import audit
from assay.pipeline.build import build
from assay.pipeline.build_jobs import BuildItem, prepare
from assay.pipeline.cell_files import locked_cells
from assay.pipeline.lock import LockResult, lock
from assay.pipeline.probe import ProbeFlow, ProbeSubject
from assay.pipeline.probe_subjects import subjects_of
from assay.pipeline.publish import publish
from assay.pipeline.publishing.proposal import Proposal
from assay.pipeline.serve_check import ServeRequest, serve_check
from assay.pipeline.verify import verify

__all__ = ["STEPS", "Step", "step"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the pipeline."""

    name: str
    text: str
    """What it does, in one line."""
    function: Callable[..., Any]
    takes: Any
    """The type of the value that the function works on."""
    gives: Any
    """The type of the value that it returns."""
    after: tuple[str, ...] = ()
    """The steps whose values it uses; empty where it begins with what a person names."""
    prepare: Callable[..., Any] | None = None
    """Makes what the function takes from values of the steps before."""


STEPS: Final = (
    Step(
        name="plan",
        text="Expand the matrix into cells.",
        function=make,
        takes=Project,
        gives=Plan,
    ),
    Step(
        name="lock",
        text="Resolve each cell to exact wheels.",
        function=lock,
        takes=Sequence[LockedCell],
        gives=Iterator[LockResult],
        after=("plan",),
        prepare=locked_cells,
    ),
    Step(
        name="audit",
        text="Check the wheels of each lock for incompatibilities.",
        function=audit,
        takes=Sequence[LockedCell],
        gives=Iterator[AuditReport],
        after=("lock",),
    ),
    Step(
        name="build",
        text="Build the images that are missing and that the audit does not refuse.",
        function=build,
        takes=Sequence[BuildItem],
        gives=Iterator[BuildRecord],
        after=("lock",),
        prepare=prepare,
    ),
    Step(
        name="probe",
        text="Test each feature of an image on a GPU.",
        function=ProbeFlow.run,
        takes=Sequence[ProbeSubject],
        gives=list[ProbeRecord],
        after=("plan", "build"),
        prepare=subjects_of,
    ),
    Step(
        name="serve",
        text="Start the server of an image and check its API.",
        function=serve_check,
        takes=ServeRequest,
        gives=ServeRecord,
    ),
    Step(
        name="publish",
        text="Give an image the tags that its evidence supports.",
        function=publish,
        takes=Cell,
        gives=Proposal,
        after=("plan", "audit", "build", "probe"),
    ),
    Step(
        name="verify",
        text="Judge a reference by the evidence in its registry.",
        function=verify,
        takes=Reference,
        gives=Verification,
    ),
)


def step(name: str) -> Step:
    """Return a step by name."""
    return next(found for found in STEPS if found.name == name)

"""The composition root of probes: the suite, the executors and the flow that runs them.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from assay.adapters.files.project import ProjectFiles
from assay.adapters.files.records import FileStore

if TYPE_CHECKING:
    from assay.pipeline.probe import ProbeFlow
    from assay.pipeline.probe_record import ProbeCause
    from assay.ports.executor import Executor

__all__ = ["cause_of_probe", "probe_flow", "probe_programs", "shipped_suite"]


def shipped_suite(root: Path) -> tuple[dict[str, bytes], str]:
    """Return the probe programs of a project, and their digest."""
    from assay.adapters.executors.probe_suite import digest_of_suite, load_suite

    suite = load_suite(root)
    return suite, digest_of_suite(suite)


def probe_programs(files: ProjectFiles) -> dict[str, str]:
    """Return the texts of the probe programs, by path."""
    suite, _ = shipped_suite(files.root)
    return {path: data.decode() for path, data in suite.items() if path.startswith("features/")}


def probe_flow(
    root: Path, *, say: Callable[[str], None], where: str = "docker", interpreter: str | None = None
) -> tuple[ProbeFlow, Executor]:
    """Return what probes images for a project, and the executor that it probes with."""
    from assay.adapters.executors.gpu_leases import FileLeases
    from assay.adapters.executors.probe_executor import ExecutorSettings
    from assay.adapters.executors.probe_suite import ProbeSuites
    from assay.adapters.executors.table import EXECUTORS
    from assay.pipeline.probe import ProbeFlow

    suite, digest = shipped_suite(root)
    store = FileStore(root / "build_logs")
    settings = ExecutorSettings(suites=ProbeSuites(suite), cache=store.root / ".jit", python=interpreter)
    executor = EXECUTORS[where](settings)
    flow = ProbeFlow(
        executor=executor,
        leases=FileLeases(),
        store=store,
        suite=suite,
        suite_digest=digest,
        diagnose=lambda text: cause_of_probe(text, root),
        say=say,
    )
    return flow, executor


def cause_of_probe(text: str, project: Path) -> ProbeCause | None:
    """Return the most likely cause of a failed probe."""
    from assay.diagnose import Stage, default_library, diagnose
    from assay.pipeline.probe_record import ProbeCause

    found = diagnose(text.encode(), library=default_library(project), stage=Stage.PROBE)
    return ProbeCause(found[0].cause, found[0].inconclusive) if found else None

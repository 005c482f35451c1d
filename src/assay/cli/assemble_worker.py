"""Assembles one image and pushes it by digest: `python -m assay.cli.assemble_worker JOB.json FOLDER`.

This is what a pool starts for `assay build --on POOL`. It needs no engine; its credentials for the registry are those
of its account. It writes one sealed document into the folder, whole or not at all.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from assay import __version__
from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.cli.common import load
from assay.cli.pool_composition import pushing_builder
from assay.cli.worker import run_worker
from assay.errors import AssayError, PackageIndexError, StoreError, UsageError
from assay.pipeline.assembly.on_workers import AssembledPart, AssembleJob
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.jobs import seal, unseal
from assay.ports.layers import SourceArchive

__all__ = ["assembled", "main"]


def assembled(job: AssembleJob) -> AssembledPart:
    """Do the job; a failure is what came of it."""
    with tempfile.TemporaryDirectory(prefix="assay-assemble-") as folder:
        log = Path(folder) / "build.log"
        log.touch()
        source = False
        try:
            outcome = _built(job, log)
        except SourceArchive as error:
            outcome, source = BuildOutcome(end=BuildEnd.ENGINE, reason=error.message), True
        except (PackageIndexError, StoreError, UsageError) as error:
            # Disk, network or project of this machine; whether it is the cell is seen elsewhere.
            outcome = BuildOutcome(end=BuildEnd.ENGINE, reason=str(error))
        except AssayError as error:
            outcome = BuildOutcome(end=BuildEnd.FAILED, reason=str(error))
        return AssembledPart(
            name=job.name,
            end=outcome.end,
            digest=outcome.digest,
            seconds=outcome.seconds,
            reason=outcome.reason,
            source=source,
            machine=os.environ.get("SLURMD_NODENAME") or platform.node(),
            log=log.read_text(errors="replace"),
        )


def _built(job: AssembleJob, log: Path) -> BuildOutcome:
    if job.version != __version__:
        raise UsageError(f"this machine has assay {__version__}, and {job.version} is required")
    files, plan = load(Path(job.project))
    task = BuildTask(
        dockerfile=job.dockerfile,
        tags=(job.repository,),
        labels=job.labels,
        log=log,
        timeout=job.seconds,
        progress=lambda words: print(words, flush=True),
    )
    return pushing_builder(files, plan.project.matrix, job).build(task)


def _do(document: Path, results: Path) -> None:
    job = unseal(read_regular(document), AssembleJob, source=document.name)
    write_whole(results / f"{job.name}.json", seal(assembled(job)))


def main(argv: Sequence[str]) -> int:
    """Do the job that the command line names; return the exit code."""
    return run_worker(argv, program="assemble_worker", description="Assemble the image of one job.", do=_do)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

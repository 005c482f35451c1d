"""Batch scripts of Slurm, run by a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from assay.adapters.pools.folder import JobFolder
from assay.adapters.pools.slurm import batch_script
from assay.matrix.pools import SlurmPool
from assay.ports.jobs import Place, ProbeJob
from assay.ports.pools import Submission

DIGEST = f"sha256:{'a' * 64}"
RUNTIME = 'sh -c \'echo "$1"; test -d "$1" && exit 3\' sh "$scratch" {arguments}'


def test_a_jobs_scratch_folder_is_there_for_its_command_alone(tmp_path: Path) -> None:
    place = Place(reference=f"registry.example/team/a@{DIGEST}", digest=DIGEST)
    item = Submission(job=ProbeJob(run="run", place=place, suite=DIGEST, features=("one",)), suite=b"zip")
    pool = SlurmPool(kind="slurm", partition="gpu", folder="/shared/assay", runtime=RUNTIME)
    text = batch_script(item, pool, JobFolder(tmp_path))
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", text], env=env, capture_output=True, text=True, check=False)

    assert 3 == done.returncode
    assert done.stdout.startswith(f"{tmp_path}/")
    assert [] == list(tmp_path.iterdir())

"""Which images `assay probe` selects."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.docker.fake_container import FakeImage
from assay.adapters.docker.fake_engine import FakeEngine
from assay.adapters.executors.docker import DockerTaskHost
from assay.adapters.executors.probe_executor import ProbeExecutor
from assay.adapters.executors.probe_suite import ProbeSuites
from assay.adapters.files.records import FileStore
from assay.cli import console
from assay.errors import NothingSelected
from assay.matrix import loading as matrix
from assay.matrix import plan
from assay.matrix.render import LABEL_PREFIX
from assay.pipeline.probe import ProbeSubject
from assay.pipeline.probe_subjects import subjects_of


@pytest.fixture
def made(matrix_text: str, image_text: str) -> plan.Plan:
    return plan.make(matrix.load(matrix_text, {"serving": image_text}))


def image(cell: str) -> FakeImage:
    labels = {"cell": cell, "lock": "sha256:lock", "content-key": "sha256:key"}
    return FakeImage(labels={f"{LABEL_PREFIX}{name}": value for name, value in labels.items()})


def subjects(words: tuple[str, ...], made: plan.Plan, root: Path, engine: FakeEngine) -> list[ProbeSubject]:
    executor = ProbeExecutor(DockerTaskHost(engine), ProbeSuites())
    return subjects_of(words, made, FileStore(root), executor, warn=console.warn)


def test_cell_built_on_another_machine_is_identified_by_its_image_labels(made: plan.Plan, tmp_path: Path) -> None:
    """The machine with the GPU is not always the one that built: the image was loaded or pulled there."""
    cell = next(cell for cell in made.cells if cell.kind == "build")
    engine = FakeEngine({cell.local_reference: image(cell.id)})

    (subject,) = subjects((cell.id,), made, tmp_path, engine)

    assert (cell.id, cell.image) == (subject.cell, subject.image)
    assert ("sha256:lock", "sha256:key") == (subject.lock_digest, subject.content_key)


@pytest.mark.parametrize("labelled", ["", "another-cell"])
def test_an_image_that_is_not_that_of_the_cell_is_not_probed_for_it(
    made: plan.Plan, tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = next(cell for cell in made.cells if cell.kind == "build")
    engine = FakeEngine({cell.local_reference: image(labelled) if labelled else FakeImage()})

    with pytest.raises(NothingSelected):
        subjects((cell.id,), made, tmp_path, engine)

    assert f"{cell.id}: not built, so not probed" in capsys.readouterr().err

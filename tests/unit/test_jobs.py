"""Jobs and results as documents: they come back as they were, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import StoreError
from assay.evidence.suite import HarnessResult, ProbeEnded, ProbeFacts, read_result
from assay.foundation.foreign import DEPTH
from assay.pipeline import schema
from assay.ports.jobs import (
    Bind,
    DevicesWanted,
    JobLimits,
    JobResult,
    LogReference,
    Place,
    ProbeJob,
    RunEnd,
    seal,
    unseal,
)

# What no UTF-8 can carry (halves of characters) is in no document: the harness replaces it.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DIGEST = st.binary(min_size=32, max_size=32).map(lambda data: "sha256:" + data.hex())
COUNT = st.integers(0, 1 << 62)
SECONDS = st.floats(0, 1e9)
NUMBER = st.floats() | st.integers(-(1 << 53), 1 << 53) | st.booleans() | TEXT
DOCUMENT = st.dictionaries(TEXT, NUMBER | st.dictionaries(TEXT, NUMBER, max_size=3), max_size=4)


def made(kind: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


JOBS = made(
    ProbeJob,
    run=TEXT,
    attempt=st.integers(1, 1 << 30),
    place=made(Place, reference=TEXT, digest=st.none() | DIGEST),
    suite=DIGEST,
    features=st.lists(TEXT, max_size=4).map(tuple),
    devices=made(DevicesWanted, count=st.integers(0, 8), names=st.lists(TEXT, max_size=3).map(tuple)),
    limits=made(JobLimits, memory_bytes=st.none() | COUNT, pids=COUNT, shm_bytes=COUNT, seconds=SECONDS),
    mounts=st.lists(made(Bind, source=TEXT, target=TEXT, read_only=st.booleans()), max_size=2).map(tuple),
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    warm=st.booleans(),
    keep_cache=st.booleans(),
    sabotage=st.dictionaries(TEXT, TEXT, max_size=2),
    seed=COUNT,
)
ENDED = made(
    ProbeEnded,
    feature=TEXT,
    file=TEXT,
    not_run=TEXT,
    exit_code=st.none() | st.integers(-255, 255),
    signal=st.none() | TEXT,
    timed_out=st.booleans(),
    seconds=SECONDS,
    stdout=TEXT,
    stderr=TEXT,
    document=st.none() | DOCUMENT,
)
FACTS = made(
    ProbeFacts,
    devices=st.lists(DOCUMENT, max_size=2).map(tuple),
    driver=TEXT,
    packages=st.dictionaries(TEXT, TEXT, max_size=3),
)
HARNESS = made(
    HarnessResult,
    schema_version=st.just(1),
    suite_digest=TEXT,
    python=TEXT,
    executable=TEXT,
    facts=st.none() | FACTS,
    warm=st.none() | DOCUMENT,
    probes=st.dictionaries(TEXT, ENDED, max_size=3),
    finished=st.booleans(),
    seconds=SECONDS,
)
RESULTS = made(
    JobResult,
    job=DIGEST,
    executor=TEXT,
    ended=st.sampled_from(RunEnd.__args__),  # type: ignore[attr-defined]
    message=TEXT,
    harness=st.none() | HARNESS,
    unreadable=TEXT,
    log=st.none() | made(LogReference, digest=DIGEST, bytes=COUNT),
    seconds=SECONDS,
)
RESULT = JobResult(job="sha256:" + "0" * 64, executor="local", ended="finished")
JOB = ProbeJob(run="r", place=Place(reference="local"), suite="sha256:" + "1" * 64, features=("one",))


@given(JOBS)
def test_a_job_comes_back_as_it_was(job: ProbeJob) -> None:
    again = unseal(seal(job), ProbeJob, source="job.json")

    assert job == again
    assert (job.digest, job.name) == (again.digest, again.name)


@given(RESULTS)
def test_a_result_comes_back_as_it_was(result: JobResult) -> None:
    again = unseal(seal(result), JobResult, source="result.json")

    # NaN is not equal to itself, so the documents are compared.
    assert seal(result) == seal(again)
    assert result.ended == again.ended


def test_numbers_that_json_lacks_come_back() -> None:
    ended = ProbeEnded(feature="f", file="f.py", document={"metrics": {"worst": math.nan, "most": math.inf}})
    harness = HarnessResult(schema_version=1, suite_digest="", python="", executable="", probes={"f": ended})

    again = unseal(seal(RESULT.model_copy(update={"harness": harness})), JobResult, source="result.json")

    assert again.harness is not None
    document = again.harness.probes["f"].document
    assert document is not None
    assert math.isnan(document["metrics"]["worst"])
    assert math.inf == document["metrics"]["most"]


def test_whatever_of_a_harness_can_be_read_comes_back() -> None:
    deep: Any = "x"
    for _ in range(DEPTH - 4):
        deep = [deep]
    ended = {"feature": "f", "file": "f.py", "document": {"metrics": deep}}
    written = {"schema_version": 1, "suite_digest": "", "python": "", "executable": "", "probes": {"f": ended}}
    harness, problem = read_result(json.dumps(written).encode())
    result = RESULT.model_copy(update={"harness": harness})

    assert "" == problem
    assert result == unseal(seal(result), JobResult, source="result.json")


@pytest.mark.parametrize("where", [0, 5, 40, 90, 200, -2])
def test_one_changed_byte_is_found(where: int) -> None:
    data = bytearray(seal(JOB))
    data[where] ^= 1

    with pytest.raises(StoreError, match=r"job\.json"):
        unseal(bytes(data), ProbeJob, source="job.json")


@given(st.integers(0, len(seal(JOB)) - 1))
def test_a_document_that_was_cut_off_is_none(length: int) -> None:
    with pytest.raises(StoreError):
        unseal(seal(JOB)[:length], ProbeJob, source="job.json")


def test_a_document_of_another_kind_or_version_is_refused() -> None:
    with pytest.raises(StoreError, match="not a document that this version reads"):
        unseal(seal(JOB), JobResult, source="result.json")
    with pytest.raises(StoreError, match="schema_version"):
        unseal(seal(JOB.model_copy(update={"schema_version": 2})), ProbeJob, source="job.json")


def test_attempts_of_a_job_have_names_of_their_own() -> None:
    second = JOB.model_copy(update={"attempt": 2})

    assert JOB.name != second.name
    assert JOB.name == JOB.model_copy().name


@pytest.mark.parametrize(("name", "document"), [("job", JOB), ("job-result", RESULT)])
def test_documents_fit_their_published_schemas(root: Path, name: str, document: ProbeJob | JobResult) -> None:
    published = json.loads((root / "schemas" / f"{name}.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(published)

    assert [] == list(validator.iter_errors(json.loads(seal(document))))
    assert json.loads(schema.documents()[f"{name}.schema.json"]) == published
    assert list(validator.iter_errors({**json.loads(seal(document)), "more": 1}))

"""serve-check's checks of an API, each against a server that misbehaves in that respect."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from serve_checked import check, failed

from assay.adapters.files.records import FileStore
from assay.evidence.record import ServeStatus


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "build_logs")


def test_healthy_server_receives_the_expected_requests(store: FileStore) -> None:
    record = check(store)

    details = {one.name: one.detail for one in record.checks}
    names = list(details)
    assert {} == failed(record)
    assert COUNTED < set(names)
    assert names.index("greedy") < names.index("sampling") < names.index("chat")  # a server may die of sampling
    assert ("24 tokens, the same twice", "the same answer as before") == (details["greedy"], details["greedy-after"])
    assert "24 tokens, each of the 2 best" == details["top-k"]
    assert "same seed: another answer" not in details["seed"]
    assert details["seed"].endswith("another seed: another answer")
    assert "of 24 tokens" in details["stop-string"]
    assert "of a context of 4096, in pieces of 2048" in details["long-prompt"]
    assert "HTTP 400" == details["over-long"]


COUNTED = {
    "greedy", "sampling", "top-p", "top-k", "min-p", "penalties", "seed", "logprobs", "two-choices", "stop-string",
    "mixed-users", "long-prompt", "over-long", "abort", "greedy-after",
}  # fmt: skip
"""Checks that also count tokens."""


@pytest.mark.parametrize(
    ("misbehave", "checks"),
    [
        ({"wrong_usage": 3}, {"completions", "chat", "stream-usage", "parallel", *COUNTED} - {"over-long"}),
        ({"cut_streams": 1}, {"stream", "stream-usage", "parallel", "mixed-users"}),
        ({"no_usage": True}, {"stream-usage"}),
        ({"bad_json": True}, {"structured-output"}),
        ({"accepts_anything": True}, {"errors"}),
        (
            {"fail_every": 1},
            {"completions", "chat", "stream", "stream-usage", "structured-output", "parallel", "seed", *COUNTED},
        ),
        ({"fail_on": {"top_p": 500}}, {"sampling", "top-p", "penalties", "mixed-users"}),
        ({"fail_on": {"top_k": 500}}, {"top-k", "mixed-users"}),
        ({"fail_on": {"top_p": 400}}, {"sampling", "top-p", "penalties", "mixed-users"}),
        ({"fail_on": {"min_p": 500}}, {"min-p", "mixed-users"}),
        ({"fail_on": {"repetition_penalty": 500}}, {"penalties", "mixed-users"}),
        ({"fail_on": {"frequency_penalty": 500}}, {"penalties", "mixed-users"}),
        ({"ignore": ["top_p"]}, {"top-p"}),
        ({"ignore": ["top_k"]}, {"top-k"}),
        ({"ignore": ["min_p"]}, {"min-p"}),
        ({"ignore": ["n"]}, {"two-choices"}),
        ({"ignore": ["stop"]}, {"stop-string"}),
        ({"keep_stop": True}, {"stop-string"}),
        ({"stop_reason": "length"}, {"stop-string"}),
        ({"ignore": ["logprobs"]}, {"logprobs", "top-p", "top-k", "min-p"}),
        ({"logprobs": "positive"}, {"logprobs", "top-p", "top-k", "min-p"}),
        ({"logprobs": "nan"}, {"logprobs", "top-p", "top-k", "min-p"}),
        ({"logprobs": "short"}, {"logprobs"}),
        ({"logprobs": "unlisted"}, {"logprobs"}),
        ({"crowd": 6, "tpot": 0.002}, {"mixed-users"}),
        ({"over_long": 500}, {"over-long"}),
        ({"over_long": 413, "no_context": True}, {"long-prompt", "over-long", "abort"}),
        ({"over_long": "accept"}, {"over-long"}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_api_is_found(store: FileStore, misbehave: dict[str, Any], checks: set[str]) -> None:
    record = check(store, misbehave)

    assert ServeStatus.FAILED is record.status
    assert checks == set(failed(record))


def test_parameters_of_another_user_are_found(store: FileStore) -> None:
    """The server may still work for callers that left when the next one comes, whose answer is then wrong too."""
    found = set(failed(check(store, {"leak": True, "tpot": 0.002})))

    assert "mixed-users" in found
    assert found <= {"mixed-users", "abort"}


@pytest.mark.parametrize(
    ("how", "words"), [(True, "the connection was cut"), ("slowly", "HTTP 500: {")], ids=["at-once", "slowly"]
)
def test_a_server_that_dies_at_the_first_sampled_request_is_reported(
    store: FileStore, how: bool | str, words: str
) -> None:
    began = time.monotonic()

    record = check(store, {"die_sampled": how}, request_timeout=60.0)

    details = failed(record)
    assert ServeStatus.FAILED is record.status
    sampling = details.pop("sampling")
    assert sampling.startswith(f"temperature 0.8, top_p 0.9: {words}")
    assert sampling.endswith("; the server died")
    assert len(details) > 15
    assert {"not asked: the server is gone"} == set(details.values())
    assert "died while it was checked (code 1)" in record.reason
    assert "sampling: temperature 0.8, top_p 0.9" in record.reason
    assert "not asked" not in record.reason
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("misbehave", "first", "words"),
    [
        ({"long_prompt": 1000}, "long-prompt", "characters: the connection was cut; the server died"),
        ({"over_long": "die"}, "over-long", "a prompt beyond the context of 4096 tokens: not refused with 4xx, but"),
        ({"after_abort": "die", "tpot": 0.005}, "abort", "the server died"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_server_that_dies_at_its_limits_is_reported(
    store: FileStore, misbehave: dict[str, Any], first: str, words: str
) -> None:
    record = check(store, misbehave)

    details = failed(record)
    assert words in details.pop(first)
    assert {"not asked: the server is gone"} == set(details.values())
    assert "died while it was checked" in record.reason


def test_an_over_long_request_that_hangs_is_reported(store: FileStore) -> None:
    record = check(store, {"over_long": "hang"}, request_timeout=2.0)

    assert {"over-long"} == set(failed(record))
    assert "no answer within 2 s" in failed(record)["over-long"]


def test_server_that_stops_answering_after_an_abort_fails(store: FileStore) -> None:
    record = check(store, {"after_abort": "wedge", "tpot": 0.005}, request_timeout=2.0)

    details = failed(record)
    assert "no answer within 2 s" in details["abort"]
    assert {"abort", "greedy-after", "health-after"} == set(details)
    assert "not asked: the server no longer answers" == details["health-after"]


@pytest.mark.parametrize(
    "name", ["top_k", "min_p", "seed", "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs"]
)
def test_a_parameter_that_is_refused_by_name_is_reported_but_not_judged(store: FileStore, name: str) -> None:
    record = check(store, {"fail_on": {name: 400}})

    assert ServeStatus.OK is record.status, record.reason
    assert any(f"{name} is not supported" in one.detail for one in record.checks if "refused" in one.detail)


@pytest.mark.parametrize(("more", "status"), [({}, ServeStatus.OK), ({"deterministic": True}, ServeStatus.FAILED)])
def test_seeds_are_judged_where_sglang_promises_to_heed_them(
    store: FileStore, more: dict[str, Any], status: ServeStatus
) -> None:
    record = check(store, {"ignore": ["seed"], **more})

    assert status is record.status
    assert set(failed(record)) == ({"seed"} if more else set())


def test_seeds_are_judged_of_vllm(store: FileStore) -> None:
    record = check(store, {"engine": "vllm", "help": "/dev/null", "ignore": ["seed"]}, engine="vllm")

    assert {"seed"} == set(failed(record))
    assert "the answers to the same seed differ" in failed(record)["seed"]


def test_greedy_answers_that_differ_are_reported_but_not_judged(store: FileStore) -> None:
    record = check(store, {"drift": True})

    details = {one.name: one.detail for one in record.checks}
    assert {} == failed(record)
    assert "another answer the second time" in details["greedy"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"context-length": "2048", "chunked-prefill-size": "512"}, "of a context of 2048, in pieces of 512"),
        ({"context-length": "1024", "chunked-prefill-size": "2048"}, "in one piece (of up to 2048)"),
    ],
)
def test_the_long_prompt_fits_the_context(store: FileStore, flags: dict[str, str], words: str) -> None:
    record = check(store, extra=flags)

    (long_prompt,) = [one for one in record.checks if one.name == "long-prompt"]
    assert ServeStatus.OK is record.status, record.reason
    assert words in long_prompt.detail

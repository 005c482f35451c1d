"""The load and its figures."""

from __future__ import annotations

import csv
import io
import statistics
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.evidence.record import BenchRecord
from assay.serving.csvtext import COMPARISON, comparison_csv, labels, series_csv
from assay.serving.load import Sample, Workload, percentile, spread, standard_load, summarise
from assay.serving.plots import PlotLine, line_plot, plots


def sample(started: float, seconds: float, *, first: float | None = 0.1, tokens: int = 10, **more: object) -> Sample:
    fields: dict[str, object] = {"pieces": tokens, "counted": True, **more}
    begun = None if first is None else started + first
    return Sample(started=started, first=begun, ended=started + seconds, tokens=tokens, **fields)  # type: ignore[arg-type]


def load(users: int = 1, max_tokens: int = 10, *, first_apart: bool = False) -> Workload:
    return Workload(name="users", users=users, max_tokens=max_tokens, jobs=(), first_apart=first_apart)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")

    assert pytest.approx(hundredths[49]) == percentile(values, 0.5)
    assert pytest.approx(hundredths[94]) == percentile(values, 0.95)
    assert min(values) == percentile(values, 0.0)
    assert max(values) == percentile(values, 1.0)


def test_a_spread_is_in_milliseconds() -> None:
    found = spread([0.1, 0.2, 0.3])

    assert found is not None
    assert (200.0, 200.0, 100.0, 300.0) == (found.mean, found.p50, found.least, found.most)
    assert spread([]) is None


def test_throughput_is_over_the_whole_time() -> None:
    series = summarise(load(users=2), [sample(0.0, 1.0), sample(0.5, 1.5)])

    assert 2.0 == series.seconds
    assert 1.0 == series.requests_per_second
    assert 10.0 == series.tokens_per_second
    assert series.ttft is not None
    assert 100.0 == series.ttft.p50
    assert series.per_token is not None
    assert 100.0 == series.per_token.least  # (1.0 - 0.1) / 9


def test_failures_count_as_failures_and_in_nothing_else() -> None:
    series = summarise(
        load(), [sample(0.0, 1.0), sample(1.0, 9.0, error="the connection was cut", first=None, tokens=0)]
    )

    assert (2, 1) == (series.requests, series.failed)
    assert {"the connection was cut": 1} == series.errors
    assert 10 == series.completion_tokens
    assert series.latency is not None
    assert 1000.0 == series.latency.most


def test_first_of_repeated_prompts_is_reported_separately() -> None:
    series = summarise(load(first_apart=True), [sample(0, 1.0), sample(1, 0.2, cached_tokens=90), sample(2, 0.2)])

    assert 1000.0 == series.first_ms
    assert series.latency is not None
    assert 200.0 == series.latency.most
    assert 90 == series.cached_tokens


def test_wrong_counts_are_reported() -> None:
    series = summarise(
        load(),
        [sample(0, 1, tokens=13), sample(1, 1, counted=False), sample(2, 1, pieces=12)],
    )

    assert 3 == len(series.notes)
    assert "13 tokens by usage where 10 were asked" in series.notes[1]


def test_nothing_succeeded() -> None:
    series = summarise(load(), [sample(0, 1, error="x", first=None)])

    assert series.latency is None
    assert 0.0 == series.tokens_per_second


def test_the_standard_load_is_that_of_the_documents() -> None:
    loads = standard_load("m")

    assert [10, 50, 100, 500] == [one.max_tokens for one in loads if one.name == "length"]
    assert [1, 5, 10, 20] == [one.users for one in loads if one.name == "users"]
    assert [3, 15, 30, 60] == [len(one.jobs) for one in loads if one.name == "users"]
    (prefix,) = [one for one in loads if one.name == "prefix"]
    assert 100 == len(prefix.jobs)
    prompts = [job.body["prompt"] for job in prefix.jobs]
    assert 100 == len(set(prompts))
    assert 1 == len({prompt.split("\n")[0] for prompt in prompts})


def test_prompts_are_fresh_and_the_same_for_equal_seeds() -> None:
    def prompts(seed: int) -> list[str]:
        return [job.body["prompt"] for one in standard_load("m", seed=seed, questions=0) for job in one.jobs]

    assert len(prompts(0)) == len(set(prompts(0)))
    assert prompts(0) == prompts(0)
    assert set() == set(prompts(0)) & set(prompts(1))


def test_sampled_requests_are_a_series_of_their_own() -> None:
    loads, without = standard_load("m"), standard_load("m", mixed=False)
    (mixed,) = [one for one in loads if one.name == "mixed"]
    sampled = [job.body for job in mixed.jobs if job.body["temperature"]]

    assert without == loads[:-1]  # old records compare: their prompts are the same
    assert (20, 60) == (mixed.users, len(mixed.jobs))
    assert 30 == len(sampled) == len({body["seed"] for body in sampled})
    assert {"top_p", "top_k", "presence_penalty", "frequency_penalty"} <= {name for one in sampled for name in one}
    assert all(set(one) >= {"stream", "ignore_eos"} for one in sampled)
    assert mixed == standard_load("m")[-1]


def test_figures_of_the_documents_leave_sampled_requests_out() -> None:
    plain = record("a")
    mixed = plain.series[-1].model_copy(update={"workload": "mixed", "tokens_per_second": 9e9})
    more = plain.model_copy(update={"series": (*plain.series, mixed)})

    assert comparison_csv([plain]) == comparison_csv([more])
    assert plots([plain]) == plots([more])
    assert "mixed" in series_csv([more])


def record(profile: str, *, users: tuple[int, ...] = (1, 20)) -> BenchRecord:
    series = [
        summarise(load(users=many), [sample(0.0, 1.0 + many / 10) for _ in range(many)]).model_copy(
            update={"workload": "users"}
        )
        for many in users
    ]
    single = summarise(load(), [sample(0.0, 1.0)]).model_copy(update={"workload": "length"})
    return BenchRecord(
        created=datetime(2026, 11, 20, tzinfo=UTC), run="r", cell="c", engine="sglang", executor="local",
        profile=profile, stable=True, series=(single, *series), packages={"sglang": "0.5.14"},
    )  # fmt: skip


def test_names_tell_servers_apart() -> None:
    tiny = record("tiny")
    vllm = tiny.model_copy(update={"engine": "vllm", "packages": {"vllm": "0.24.0"}})
    elsewhere = tiny.model_copy(update={"cell": "d"})
    bare = record("")

    assert ["tiny", "balanced-v2"] == labels([tiny, record("balanced-v2")])
    assert ["tiny, sglang 0.5.14", "tiny, vllm 0.24.0"] == labels([tiny, vllm])
    assert ["tiny, c", "tiny, d"] == labels([tiny, elsewhere])
    assert ["tiny, c, a", "tiny, c, b"] == labels([tiny.model_copy(update={"model": one}) for one in "ab"])
    assert ["tiny, c (1)", "tiny, c (2)"] == labels([tiny, tiny])
    assert ["c"] == labels([bare])


def test_every_length_and_number_of_users_has_its_columns() -> None:
    several = record("a", users=(1, 5, 10, 20))
    lengths = [
        summarise(load(max_tokens=tokens), [sample(0.0, tokens / 10)]).model_copy(update={"workload": "length"})
        for tokens in (10, 50, 100, 500)
    ]
    row = next(
        csv.DictReader(
            io.StringIO(comparison_csv([several.model_copy(update={"series": (*several.series[1:], *lengths)})]))
        )
    )

    assert ["1000", "5000", "10000", "50000"] == [row[f"answer_{tokens}_ms"] for tokens in (10, 50, 100, 500)]
    assert ["1100", "1500", "2000", "3000"] == [row[f"users_{users}_latency_ms"] for users in (1, 5, 10, 20)]
    assert all(
        row[f"users_{users}_{name}"] for users in (1, 5, 10, 20) for name in ("rps", "p95_ms", "tokens_per_second")
    )


def test_csv_has_the_columns_of_the_documents() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv([record("baseline"), record("balanced-v2")]))))

    assert list(COMPARISON) == list(rows[0])
    assert ["baseline", "balanced-v2"] == [row["configuration"] for row in rows]
    assert ("1000", "100", "yes") == (rows[0]["latency_ms"], rows[0]["ttft_ms"], rows[0]["stable"])
    assert "" == rows[0]["users_5_rps"]
    assert 6 == len(list(csv.DictReader(io.StringIO(series_csv([record("a"), record("b")])))))


def test_plots_are_svg_with_every_server() -> None:
    found = plots([record("a<b"), record("other")])

    assert {"latency-over-users.svg", "first-token-over-users.svg", "throughput-over-users.svg"} == set(found)
    for text in found.values():
        root = ET.fromstring(text)
        words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "a<b" in words
        assert 2 == len(list(root.iter("{http://www.w3.org/2000/svg}polyline")))


def test_a_record_without_figures_has_no_plot() -> None:
    assert {} == plots([record("x", users=())])
    with pytest.raises(ValueError, match="nothing to plot"):
        line_plot("t", "x", "y", [PlotLine(name="n", points=())])


def test_a_plot_is_wide_enough_for_its_names() -> None:
    name = "tiny, sglang-blackwell-cu128-torch2.8.0-sglang0.5.2-sglk0.3.9.post2-fi0.3.1"

    root = ET.fromstring(line_plot("t", "x", "y", [PlotLine(name=name, points=((1.0, 2.0),))]))

    width = float(root.attrib["viewBox"].split()[2])
    (text,) = [one for one in root.iter("{http://www.w3.org/2000/svg}text") if one.text == name]
    assert float(text.attrib["x"]) + 7 * len(name) < width

"""The pages as files: nothing escapes, nothing is mixed up, nothing is lost."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
import site_cells as sites
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.diagnose import default_library
from assay.errors import UsageError
from assay.evidence.claims import Claim
from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeRecord,
    ServeStatus,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix.lock import Lock, LockedWheel
from assay.pages import (
    Cause,
    LogExcerpt,
    Site,
    Source,
    badge,
    badges,
    between_markers,
    cell_file,
    gather,
    render,
    table,
)
from assay.pages.answers import answers
from assay.pages.charts import ticks

CELLS = sites.cells(6)
CLAIM = Claim(
    feature="cuda-graphs", outcome=Outcome.BROKEN, says="segfault", source="a report", date="2025-09-16",
    target="sm_120", engine="sglang", versions="<=0.0.0",
)  # fmt: skip


def probe(cell: str, outcome: Outcome, *, day: int = 0, feature: str = "cuda-graphs", run: str = "r") -> ProbeRecord:
    return ProbeRecord(
        created=sites.START + timedelta(days=day),
        run=run,
        cell=cell,
        image="made",
        suite_digest="sha256:" + "0" * 64,
        executor="local",
        devices=(Device(name="RTX 5090", capability="12.0", memory_bytes=1),),
        packages={},
        features={feature: FeatureResult(outcome=outcome, log=f"{run}/{cell}/{feature}.log")},
    )


def predict(cell: str, outcome: Outcome, feature: str = "cuda-graphs") -> AuditRecord:
    return AuditRecord(
        created=sites.START, run="r", cell=cell, subject="wheels", verdict=Verdict.OK,
        predictions={"sm_120": {feature: outcome}},
    )  # fmt: skip


def files(site: Site) -> dict[str, str]:
    return {path: data.decode() for path, data in render(site)}


def test_a_measurement_hides_a_prediction_and_a_prediction_a_claim() -> None:
    cell = CELLS[0].id
    claim_only = gather([], CELLS[:1], made=sites.START, claims=[CLAIM]).cells[0]
    predicted = gather([predict(cell, Outcome.DEGRADED)], CELLS[:1], made=sites.START, claims=[CLAIM]).cells[0]
    records: list[AnyRecord] = [predict(cell, Outcome.DEGRADED), probe(cell, Outcome.WORKS)]
    measured = gather(records, CELLS[:1], made=sites.START, claims=[CLAIM]).cells[0]

    found = [page.best("cuda-graphs", "sm_120") for page in (claim_only, predicted, measured)]
    assert [(r.source, r.outcome) for r in found if r] == [
        (Source.CLAIMED, Outcome.BROKEN),
        (Source.PREDICTED, Outcome.DEGRADED),
        (Source.MEASURED, Outcome.WORKS),
    ]
    assert len(measured.results) == 3


def test_not_run_hides_no_earlier_result() -> None:
    cell = CELLS[0].id
    left_out = probe(cell, Outcome.NOT_RUN, day=1)
    predicted = gather([predict(cell, Outcome.DEGRADED), left_out], CELLS[:1], made=sites.START).cells[0]
    measured = gather([probe(cell, Outcome.WORKS), left_out], CELLS[:1], made=sites.START).cells[0]
    alone = gather([left_out], CELLS[:1], made=sites.START)

    found = [page.best("cuda-graphs", "sm_120") for page in (predicted, measured, alone.cells[0])]
    assert [(r.basis, r.outcome) for r in found if r] == [
        ("predicted", Outcome.DEGRADED),
        ("measured", Outcome.WORKS),
        ("nothing measured", Outcome.NOT_RUN),
    ]
    assert list(badges(alone)) == []
    assert "not run" in table(alone)


@pytest.mark.parametrize(
    ("measured", "against"),
    [
        (Outcome.WORKS, ("the prediction", "the claim")),
        (Outcome.BROKEN, ()),
        (Outcome.DEGRADED, ()),
        (Outcome.INCONCLUSIVE, ()),
    ],
)
def test_measurement_names_the_prediction_and_claim_it_contradicts(measured: Outcome, against: tuple[str, ...]) -> None:
    cell = CELLS[0].id
    records: list[AnyRecord] = [predict(cell, Outcome.BROKEN), probe(cell, measured)]
    site = gather(records, CELLS[:1], made=sites.START, claims=[CLAIM])
    best = site.cells[0].best("cuda-graphs", "sm_120")

    assert best is not None
    assert best.against == against
    assert ("against the prediction and the claim" in files(site)[f"cells/{cell_file(cell)}"]) is bool(against)


def test_the_newest_measurement_counts_and_the_history_keeps_all() -> None:
    cell = CELLS[0].id
    records = [probe(cell, Outcome.WORKS, day=0), probe(cell, Outcome.BROKEN, day=1)]
    site = gather(records, CELLS[:1], made=sites.START)
    page = files(site)["features/cuda-graphs.html"]

    assert [event.outcome for event in site.history] == [Outcome.WORKS, Outcome.BROKEN]
    spans = page[page.index("Last good, first bad</h2>") : page.index("<h2>Cells</h2>")]
    [row] = re.findall(r"<td>sm_120</td><td>(.*?)</td><td>(.*?)</td>", spans)
    assert row[0].startswith("2026-11-01")
    assert "✓ works" in row[0]
    assert row[1].startswith("2026-11-02")
    assert "✗ broken" in row[1]
    best = site.cells[0].best("cuda-graphs", "sm_120")
    assert best is not None
    assert best.outcome is Outcome.BROKEN


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, True),
        ({"versions": ">=99"}, False),
        ({"versions": "nonsense"}, False),
        ({"engine": "vllm"}, False),
        ({"target": "sm_90"}, True),
        ({"target": "sm_89"}, False),
        ({"cell": "elsewhere"}, False),
    ],
)
def test_a_claim_is_shown_only_where_it_is_about(change: dict[str, str], shown: bool) -> None:
    site = gather([], CELLS[:1], made=sites.START, claims=[CLAIM.model_copy(update=change)])

    assert bool(site.cells[0].results) is shown


def test_cells_that_only_records_know_are_shown_as_not_in_the_matrix() -> None:
    site = gather([probe("docker.io/vllm/vllm-openai:nightly", Outcome.WORKS)], [], made=sites.START)

    assert site.cells[0].kind == "not in the matrix"
    assert site.cells[0].commands[1] == "assay probe docker.io/vllm/vllm-openai:nightly"
    path = f"cells/{cell_file('docker.io/vllm/vllm-openai:nightly')}"
    assert path in files(site)
    assert re.fullmatch(r"cells/[A-Za-z0-9._-]+\.html", path)


def test_a_good_and_a_bad_cell_that_differ_in_one_axis_give_the_bisection() -> None:
    made = [sites.cells(29)[i] for i in (0, 28)]
    made[1] = made[1].model_copy(update={"point": {**made[0].point, "torch": made[1].point["torch"]}})
    bad = probe(made[1].id, Outcome.BROKEN)
    page = files(gather([probe(made[0].id, Outcome.WORKS), bad], made, made=sites.START))["features/cuda-graphs.html"]

    assert f"assay bisect --feature cuda-graphs --good {made[0].id} --bad {made[1].id}" in page
    apart = made[1].model_copy(update={"point": sites.cells(2)[1].point})
    others = files(gather([probe(made[0].id, Outcome.WORKS), bad], [made[0], apart], made=sites.START))
    assert "assay bisect" not in others["features/cuda-graphs.html"]


def test_measured_features_sort_first_and_unknown_ones_last() -> None:
    records: list[AnyRecord] = [probe(CELLS[4].id, Outcome.BROKEN), predict(CELLS[2].id, Outcome.WORKS)]
    html = files(gather(records, CELLS, made=sites.START))["index.html"]
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found
    rows = [row[0] for row in json.loads(found[1])["rows"]]

    assert rows[0] == CELLS[4].id
    assert rows[1] == CELLS[2].id
    assert rows[2] == CELLS[0].id
    assert 'class="no-build"' in html


def test_a_cells_page_shows_its_lock_beside_what_was_read_inside() -> None:
    wheel = LockedWheel(name="torch", version="2.8.0", filename="torch-2.8.0.whl", sha256="ab" * 32, size=888_000_000)
    lock = Lock(cell=CELLS[0].id, python="3.12", platform="x86_64-manylinux_2_36", requirements=(), base="slim",
                wheels=(wheel,), nightlies={"torch": "20261118"})  # fmt: skip
    inside = probe(CELLS[0].id, Outcome.WORKS).model_copy(update={"packages": {"torch": "2.9.1"}})
    locked = gather([], CELLS[:1], made=sites.START, locks={CELLS[0].id: lock})
    read = gather([inside], CELLS[:1], made=sites.START, locks={CELLS[0].id: lock})
    path = f"cells/{cell_file(CELLS[0].id)}"

    assert locked.cells[0].packages == {"torch": "2.8.0"}
    assert "torch of 20261118" in files(locked)[path]
    assert "Read inside" not in files(locked)[path]
    assert "<td>2.8.0</td><td>2.9.1</td><td>pypi</td>" in files(read)[path]
    assert "888.0 MB" in files(read)[path]
    assert "ab" * 32 in files(read)[path]


def test_the_page_of_causes_leaves_no_places_open() -> None:
    causes = {
        entry.id: Cause(cause=entry.cause, fix=entry.fix, sources=entry.sources, cause_class=str(entry.cause_class))
        for entry in default_library().entries.values()
    }
    html = files(gather([], [], made=sites.START, causes=causes))["causes.html"]

    assert "{" not in html[html.index("<main") :]
    assert all(f'id="{name}"' in html for name in causes)


@given(st.text(max_size=200), st.text(max_size=200))
@settings(max_examples=100)
def test_names_of_pages_are_harmless_and_differ(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", cell_file(one))
    assert len(cell_file(one)) < 150
    if one != other:
        assert cell_file(one) != cell_file(other)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' & {{ 7 * 7 }} [red] |"


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self.code: list[tuple[str, str]] = []
        self._in: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        assert not [name for name in values if name.startswith("on")]
        assert "style" not in values
        for name in ("src", "href"):
            address = values.get(name) or ""
            assert not address.lower().startswith("javascript:")
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values.get("content") or ""
        if tag == "style" or (tag == "script" and values.get("type") != "application/json"):
            self._in = tag
            self.code.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in:
            tag, text = self.code[-1]
            self.code[-1] = (tag, text + data)


def hostile_site() -> Site:
    cell = CELLS[0].model_copy(update={"reason": HOSTILE})
    records: list[AnyRecord] = [
        BuildRecord(
            created=sites.START, run=HOSTILE, cell=cell.id, status=BuildStatus.FAILED, reason=HOSTILE, cause=HOSTILE,
            log="l",
        ),
        predict(cell.id, Outcome.WRONG).model_copy(update={"summary": (HOSTILE,), "report": "sha256:x"}),
        probe(cell.id, Outcome.BROKEN, feature=HOSTILE),
    ]  # fmt: skip
    return gather(
        records,
        [cell],
        made=sites.START,
        claims=[CLAIM.model_copy(update={"says": HOSTILE, "source": "https://example.org/" + HOSTILE})],
        packages={cell.id: {HOSTILE: HOSTILE}},
        causes={
            HOSTILE: Cause(cause=HOSTILE, fix=HOSTILE, sources=("https://example.org/" + HOSTILE,), cause_class=HOSTILE)
        },
        read_document=lambda _: json.dumps({"findings": [{"rule": HOSTILE, "message": HOSTILE}, 7]}).encode(),
        read_log=lambda path: LogExcerpt(path=path, lines=(HOSTILE,), cut=True),
        title=HOSTILE,
    )


def test_hostile_text_everywhere_stays_text_and_the_policy_allows_only_our_own_code() -> None:
    for path, html in files(hostile_site()).items():
        parser = _Scripts()
        parser.feed(html)

        assert "img" not in parser.tags, path
        assert "default-src 'none'" in parser.policy, path
        assert "unsafe" not in parser.policy
        for tag, code in parser.code:
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in parser.policy, f"{path}: a {tag} that the policy does not know"
        assert "49" not in re.findall(r"\{\{ .*?\}\}|49", html)


@pytest.mark.parametrize("document", [b"not json", b"[]", b'{"findings": null}', b'{"findings": 3}', b"\xff"])
def test_audit_documents_of_any_kind_are_survived(document: bytes) -> None:
    record = predict(CELLS[0].id, Outcome.WORKS).model_copy(update={"report": "sha256:x"})
    site = gather([record], CELLS[:1], made=sites.START, read_document=lambda _: document)

    assert list(render(site))


def test_a_site_of_nothing_is_a_site() -> None:
    site = gather([], [], made=sites.START)

    assert sorted(files(site)) == ["causes.html", "compare.html", "index.html"]
    assert table(site) == "Nothing is recorded yet.\n"
    assert list(badges(site)) == []


def test_the_matrix_has_a_row_for_each_cell_on_each_target() -> None:
    site = gather(sites.records(6), CELLS, made=sites.START)
    html = files(site)["index.html"]
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found
    data = json.loads(found[1])

    assert len(data["rows"]) == sum(len(cell.targets) for cell in CELLS)
    assert all(len(row[6]) == 2 * len(data["features"]) for row in data["rows"])


def test_the_same_records_give_the_same_bytes() -> None:
    one, two = (gather(sites.records(6), CELLS, made=sites.START) for _ in range(2))

    assert list(render(one)) == list(render(two))


def test_markdown_goes_between_the_markers_and_nowhere_else() -> None:
    begin, end = "<!-- assay matrix: begin -->", "<!-- assay matrix: end -->"
    document = f"# Mine\n{begin}\nold\n{end}\ntail\n"
    once = between_markers(document, "| a |\n")

    assert once == f"# Mine\n{begin}\n\n| a |\n\n{end}\ntail\n"
    assert between_markers(once, "| a |\n") == once


@pytest.mark.parametrize(
    "document", ["", "<!-- assay matrix: begin -->", "<!-- assay matrix: end --><!-- assay matrix: begin -->"]
)
def test_markers_that_are_missing_are_asked_for(document: str) -> None:
    with pytest.raises(UsageError, match="markers"):
        between_markers(document, "x")


def test_table_shows_sources_and_escapes_hostile_text() -> None:
    records: list[AnyRecord] = [
        predict(CELLS[0].id, Outcome.WORKS),
        probe(CELLS[1].id, Outcome.BROKEN, feature="a|<b>"),
    ]
    site = gather(
        records,
        CELLS[:2],
        made=sites.START,
        claims=[CLAIM.model_copy(update={"feature": "marlin"})],
    )
    text = table(site)

    assert "✓ works (predicted)" in text
    assert "✗ broken (claimed)" in text
    assert "✗ broken |" in text
    assert "a\\|&lt;b&gt;" in text


def test_badges_are_of_measurements_alone_and_say_symbol_and_word() -> None:
    records: list[AnyRecord] = [
        predict(CELLS[0].id, Outcome.WORKS, "marlin"),
        probe(CELLS[0].id, Outcome.BROKEN, day=1),
    ]
    made = dict(badges(gather(records, CELLS[:1], made=sites.START)))

    assert list(made) == ["badges/sglang-made-sm_120-cuda-graphs.svg"]
    text = next(iter(made.values())).decode()
    assert 'aria-label="cuda-graphs on sm_120: ✗ broken"' in text


def test_a_badge_escapes() -> None:
    text = badge("<a>", '"&', "#000").decode()

    assert "<a>" not in text
    assert "&lt;a&gt;" in text


@pytest.mark.parametrize(("most", "last"), [(0, 1.0), (1.0, 1.0), (97, 100), (1847.1, 2000), (0.03, 0.03)])
def test_ticks_are_round_and_cover(most: float, last: float) -> None:
    found = ticks(most)

    assert found[0] == 0
    assert found[-1] == pytest.approx(last)
    assert len(found) <= 8


def test_measured_table_names_columns_by_version_and_leaves_out_environments() -> None:
    records: list[AnyRecord] = [probe(CELLS[0].id, Outcome.WORKS), probe("local-torch2.11.0", Outcome.BROKEN)]

    text = table(gather(records, CELLS[:1], made=sites.START), measured=True, name=lambda target: f"{target} (a card)")

    assert f": `{CELLS[0].id}`" in text
    assert "local-" not in text
    assert "(a card)**, measured on " in text
    assert max(map(len, text.splitlines())) <= 100


def test_first_screen_of_40_cells_weighs_less_than_100_kilobytes() -> None:
    features = {f"feature-number-{number}": Outcome.WORKS for number in range(40)}
    audits = [
        AuditRecord(
            created=sites.START, run="r", cell=cell.id, image=cell.image, subject="wheels", verdict=Verdict.OK,
            targets=cell.targets, predictions=dict.fromkeys(cell.targets, features),
        )
        for cell in sites.cells(40)
    ]  # fmt: skip

    page = files(gather(audits, sites.cells(40), made=sites.START))["index.html"]

    assert 10_000 < len(page) < 100_000
    assert "http" not in page.replace('rel="', "").split("<main")[0].replace("http-equiv", "")


def test_card_is_answered_from_the_strongest_evidence_and_controls_and_environments_are_apart() -> None:
    one, other, control = sites.cells(3)
    control = control.model_copy(update={"kind": "control"})
    served = ServeRecord(
        created=sites.START, run="r", cell=one.id, engine=one.engine, executor="docker", status=ServeStatus.OK,
        devices=(Device(name="RTX 5090", capability="12.0", memory_bytes=1),),
    )  # fmt: skip
    predicted = AuditRecord(
        created=sites.START, run="r", cell=other.id, subject="wheels", verdict=Verdict.OK, targets=("sm_120",),
        predictions={"sm_120": {f"{other.engine}-engine": Outcome.WORKS}},
    )  # fmt: skip
    hand = served.model_copy(update={"cell": "local-123"})

    site = gather([served, predicted, hand], [other, control, one], made=sites.START, cards={"sm_120": "RTX 5090"})
    (answer,) = (found for found in answers(site) if found.target == "sm_120")

    assert [one.id, other.id] == [image.page.id for image in answer.images]
    assert answer.says.startswith("Yes, measured with")
    assert "assay up MODEL --image " + one.id == answer.images[0].command
    rows = json.loads(files(site)["index.html"].split('id="data">')[1].split("</script>")[0])["rows"]
    assert {control.id, "local-123"} == {row[0] for row in rows if row[7]}


def test_an_audit_for_more_gpus_than_the_cells_own_is_shown_for_each_alone() -> None:
    """A failure on another GPU is not the cell's, and what is only predicted there is no row of the matrix."""
    own = "sm_120"
    cell = sites.cells(1)[0].model_copy(update={"targets": (own,)})
    audit = AuditRecord(
        created=sites.START, run="r", cell=cell.id, subject="wheels", verdict=Verdict.FAIL, targets=(own, "sm_75"),
        verdicts={own: Verdict.WARN, "sm_75": Verdict.FAIL},
        predictions={own: {"marlin": Outcome.WORKS}, "sm_75": {"marlin": Outcome.BROKEN}},
    )  # fmt: skip
    made = gather([audit], [cell], made=sites.START)
    (page,) = made.cells

    assert ("warn", (own,)) == (page.audits[0].verdict, page.shown)
    assert {own, "sm_75"} == set(page.targets), "the answer for the other GPU is there"
    assert (Verdict.WARN, Verdict.FAIL) == (audit.over(cell.targets), audit.over(["sm_75"]))
    text = dict(render(made))["index.html"].decode()
    assert 'aria-rowcount="2"' in text

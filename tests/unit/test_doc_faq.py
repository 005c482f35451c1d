"""The table of GPUs in the FAQ says what records and predictions say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from assay.cli.targets import GPU
from assay.evidence.record import ProbeRecord, parse

ROOT = Path(__file__).parents[2]
FAQ = (ROOT / "docs/faq.md").read_text()
ROWS = re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", FAQ, re.MULTILINE)


def test_every_card_has_a_row() -> None:
    assert ["RTX 5090", "DGX Spark", "RTX PRO 6000", "B200", "H200", "Jetson Thor"] == [row[0] for row in ROWS]


@pytest.mark.parametrize(("card", "target", "_predicted", "measured", "_fails"), ROWS)
def test_a_card_is_measured_where_a_record_is(
    card: str, target: str, _predicted: str, measured: str, _fails: str
) -> None:
    records = [parse(path.read_bytes(), source=path.name) for path in (ROOT / "docs/records").rglob("*.json")]
    probed = {device.target for one in records if isinstance(one, ProbeRecord) for device in one.devices}

    assert target == GPU.convert(card, None, None)
    assert (measured != "nothing") == (target in probed)


@pytest.mark.parametrize(("_card", "target", "predicted", "_measured", "fails"), ROWS)
def test_what_is_predicted_is_in_the_page_of_coverage(
    _card: str, target: str, predicted: str, _measured: str, fails: str
) -> None:
    page = (ROOT / "docs/coverage.md").read_text().partition("## vllm\n")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in page.partition(" on linux/arm64\n")[2].splitlines()]
    column = next(line for line in table if "sm_90" in line).index(target) + 1
    outcomes = {line[0].strip("`"): line[column] for line in table if len(line) > column and line[0].startswith("`")}

    assert outcomes["vllm-engine"] == "✓"
    assert predicted.startswith("vLLM")
    assert outcomes[fails] in {"✗", "−"}

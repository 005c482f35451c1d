"""The pages in a real browser, opened from disk: filters, links, keyboard, names, contrast, console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_cells as sites
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from assay.diagnose import default_library
from assay.evidence.claims import Claim
from assay.evidence.record import BenchRecord, BuildRecord
from assay.foundation.outcome import Outcome
from assay.pages import About, Cause, gather, render

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def write(folder: Path, count: int, *, pages: bool = True) -> Path:
    claims = [
        Claim(feature="cuda-graphs", outcome=Outcome.BROKEN, says=HOSTILE, source=HOSTILE, date="2025-09-16",
              target="sm_120", engine="sglang", versions="<=0.5.2"),
        Claim(feature="hierarchical-cache", outcome=Outcome.DEGRADED, says="slower", source="https://example.org/x",
              date="2025-09-16"),
    ]  # fmt: skip
    causes = {
        entry.id: Cause(cause=entry.cause, fix=entry.fix, sources=entry.sources, cause_class=str(entry.cause_class))
        for entry in default_library().entries.values()
    }
    site = gather(
        sites.records(count), sites.cells(count), made=sites.START, claims=claims, causes=causes, title=HOSTILE,
        cards={"sm_120": "GeForce RTX 5090", "sm_90": "H200"},
        about={"cuda-graphs": About(what="Launches are recorded.", why="Speed.", tested="Replay.", off={"vllm": "-x"})},
    )  # fmt: skip
    for path, data in render(site):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        if not pages:
            break
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("site"), 300)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver (./quickstart tests does it)")
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def open_page(browser: Any, folder: Path, path: str) -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get((folder / path.split("#", 1)[0]).as_uri() + (path[path.index("#") :] if "#" in path else ""))
    if path.startswith(("index", "compare")):
        WebDriverWait(browser, 20).until(
            lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes"
        )


def choose(browser: Any, name: str, value: str) -> None:
    Select(browser.find_element(By.ID, name)).select_by_value(value)


def rows(browser: Any) -> list[Any]:
    found: list[Any] = browser.find_elements(By.CSS_SELECTOR, "#rows tr:not(.gap)")
    return found


def paths(folder: Path) -> list[str]:
    cells = sorted((folder / "cells").iterdir())
    measured = next(path for path in cells if "<figure>" in path.read_text())
    return [
        "index.html", "compare.html", "causes.html", "features/cuda-graphs.html", "features/hierarchical-cache.html",
        f"cells/{cells[0].name}", f"cells/{measured.name}",
    ]  # fmt: skip


def test_no_page_says_anything_on_the_console_and_hostile_text_is_only_text(browser: Any, small: Path) -> None:
    for path in paths(small):
        open_page(browser, small, path)

        assert browser.get_log("browser") == [], path
        assert "taken" != browser.title, path
    open_page(browser, small, "index.html")
    assert browser.title == HOSTILE
    assert HOSTILE in browser.find_element(By.TAG_NAME, "h1").text


def test_filters_choose_rows_and_columns_and_stand_in_the_address(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    assert browser.find_element(By.ID, "count").text == "400 of 400 rows"
    choose(browser, "f-target", "sm_90")
    choose(browser, "f-engine", "vllm")
    choose(browser, "f-feature", "marlin")
    choose(browser, "f-outcome", "works")
    choose(browser, "f-source", "measured")

    shown = rows(browser)
    assert 0 < len(shown) < 100
    for row in shown[:10]:
        columns = row.find_elements(By.CSS_SELECTOR, "th, td")
        assert columns[0].text.startswith("vllm-")
        assert columns[1].text == "sm_90"
        assert columns[4].text.split() == ["✓", "works", "measured"]
        assert len(columns) == 5
    said = browser.find_element(By.ID, "count").text
    address = browser.current_url
    assert "target=sm_90" in address
    assert "outcome=works" in address

    browser.get("about:blank")
    browser.get(address)
    WebDriverWait(browser, 20).until(lambda b: b.find_element(By.ID, "count").text == said)
    browser.find_element(By.ID, "f-reset").click()
    WebDriverWait(browser, 20).until(lambda b: b.find_element(By.ID, "count").text == "400 of 400 rows")
    assert "#" not in browser.current_url


def test_a_part_of_a_name_and_nothing_at_all(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    field = browser.find_element(By.ID, "f-text")
    field.send_keys("N00042")
    assert rows(browser)[0].find_element(By.TAG_NAME, "a").text.endswith("n00042")
    field.send_keys("zzz")
    assert rows(browser) == []
    assert browser.find_element(By.ID, "count").text == "0 of 400 rows"


def test_a_column_without_anything_to_say_is_left_out(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html#source=claimed&feature=")

    heads = "return [...document.querySelectorAll('#matrix thead th')].filter(h => !h.hidden).map(h => h.textContent)"
    assert browser.execute_script(heads)[4:] == ["cuda-graphs", "hierarchical-cache"]
    assert browser.find_element(By.ID, "count").text.endswith("rows, 2 of 11 features")
    browser.find_element(By.ID, "f-reset").click()
    WebDriverWait(browser, 20).until(lambda b: len(b.execute_script(heads)) == 15)


def test_links_lead_to_cells_features_and_causes(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html#text=n00003")
    rows(browser)[0].find_element(By.TAG_NAME, "a").click()
    assert browser.find_element(By.TAG_NAME, "h1").text.endswith("n00003")
    browser.find_element(By.LINK_TEXT, "arch-nvcc-unsupported").click()
    assert browser.current_url.endswith("causes.html#arch-nvcc-unsupported")
    browser.find_element(By.LINK_TEXT, "Matrix").click()
    browser.find_element(By.LINK_TEXT, "marlin").click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "marlin"
    assert "Last good, first bad" in browser.find_element(By.TAG_NAME, "main").text


def test_every_link_inside_the_site_leads_to_a_file(browser: Any, small: Path) -> None:
    for path in paths(small):
        open_page(browser, small, path)
        links = browser.execute_script("return [...document.links].map(a => a.href)")
        inside = [link.split("#")[0] for link in links if link.startswith("file:")]

        assert [link for link in set(inside) if not Path(link.removeprefix("file://")).is_file()] == []


def press(browser: Any, key: str) -> None:
    """Press a key in the rows, once they have the focus and frames were drawn: Chromium drops scroll keys before."""
    area = browser.find_element(By.ID, "scroll")
    browser.execute_async_script(
        "const [area, done] = arguments; area.scrollIntoView(); area.focus();"
        "requestAnimationFrame(() => requestAnimationFrame(done))",
        area,
    )
    area.send_keys(key)


def ends(browser: Any) -> list[str]:
    """Return the numbers of the first and the last row that are there; read at once, for rows are replaced."""
    script = "return [...document.querySelectorAll('#rows tr:not(.gap)')].map(r => r.getAttribute('aria-rowindex'))"
    there = browser.execute_script(script)
    assert len(there) < 120
    return [there[0], there[-1]]


def test_all_rows_can_be_reached_by_scrolling_with_the_keyboard(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    press(browser, Keys.END)
    WebDriverWait(browser, 10).until(lambda b: ends(b)[1] == "401")
    press(browser, Keys.HOME)
    WebDriverWait(browser, 10).until(lambda b: ends(b)[0] == "2")


def test_everything_can_be_reached_and_worked_with_the_tab_key(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    seen = []
    for _ in range(26):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        seen.append(active.get_attribute("id") or active.text)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]

    assert {"f-text", "f-target", "f-engine", "f-feature", "f-outcome", "f-source", "f-reset", "scroll"} <= set(seen)
    assert seen[0] == "Skip to the content"


NAMED = {
    "link",
    "button",
    "combobox",
    "searchbox",
    "textbox",
    "region",
    "image",
    "navigation",
    "form",
    "heading",
}


def test_everything_that_can_be_used_has_an_accessible_name(browser: Any, small: Path) -> None:
    for path in paths(small):
        open_page(browser, small, path)
        nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in NAMED]
        nameless = [node["role"]["value"] for node in found if not node.get("name", {}).get("value", "").strip()]

        assert found, path
        assert nameless == [], path


CONTRAST = """
const lum = (c) => {
  const f = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
};
const parse = (s) => { const m = s.match(/[\\d.]+/g).map(Number); return [m.slice(0, 3), m.length > 3 ? m[3] : 1]; };
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const [c, a] = parse(getComputedStyle(e).backgroundColor);
    if (a > 0.99) return c;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
};
const bad = [];
for (const e of document.querySelectorAll("body *")) {
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!text || !e.getClientRects().length || e.closest("svg, script, noscript, datalist")) continue;
  const x = lum(parse(getComputedStyle(e).color)[0]), y = lum(ground(e));
  const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  if (ratio < 4.5) bad.push(e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 20) + " " + ratio);
}
return [...new Set(bad)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, small: Path, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        for path in paths(small):
            open_page(browser, small, path)

            assert browser.execute_script(CONTRAST) == [], f"{path} in {scheme}"
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1440, 900)])
def test_whether_it_serves_on_a_card_is_seen_without_scrolling(
    browser: Any, small: Path, width: int, height: int, scheme: str
) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        open_page(browser, small, "index.html")

        seen = """
            const inside = (e) => e.getBoundingClientRect().top >= 0 && e.getBoundingClientRect().bottom <= innerHeight;
            const open = document.querySelector('section.gpu:not([hidden])');
            return [open.querySelector('h2').textContent, inside(open.querySelector('.says')),
                    inside(open.querySelector('li .o')), inside(document.getElementById('gpu'))];
        """
        assert ["Does it serve on GeForce RTX 5090?", True, True, True] == browser.execute_script(seen)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(CONTRAST) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_another_card_is_picked_and_stands_in_the_address(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    heads = "return [...document.querySelectorAll('section.gpu:not([hidden]) h2')].map(h => h.textContent)"
    choose(browser, "gpu", "sm_90")
    assert ["Does it serve on H200?"] == browser.execute_script(heads)
    address = browser.current_url
    assert address.endswith("#gpu=sm_90")
    browser.get("about:blank")
    browser.get(address)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(heads) == ["Does it serve on H200?"])


def test_three_images_are_shown_until_all_are_asked_for_and_commands_are_copied(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    section = browser.find_element(By.CSS_SELECTOR, "section.gpu:not([hidden])")
    visible = "return [...arguments[0].querySelectorAll('li')].filter(e => e.getClientRects().length).length"
    assert 3 == browser.execute_script(visible, section)
    copy = section.find_element(By.CSS_SELECTOR, "button.copy")
    copy.click()
    WebDriverWait(browser, 5).until(lambda _: copy.text.startswith(("Copied", "Selected")))
    section.find_element(By.CSS_SELECTOR, "button.all").click()
    assert browser.execute_script(visible, section) > 3


def test_a_feature_page_tells_what_it_is_and_how_to_switch_it_off(browser: Any, small: Path) -> None:
    open_page(browser, small, "features/cuda-graphs.html")
    text = browser.find_element(By.TAG_NAME, "main").text
    for words in ("Launches are recorded.", "Why it matters", "How it is tested", "Off in vllm", "-x"):
        assert words in text


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Any, small: Path) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for path in paths(small):
            open_page(browser, small, path)
            width = browser.execute_script("return document.documentElement.scrollWidth")

            assert width <= 360, path
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_two_cells_and_two_runs_are_compared(browser: Any, small: Path) -> None:
    open_page(browser, small, "compare.html")
    browser.find_element(By.ID, "a").send_keys("20261101T120000-0001")
    browser.find_element(By.ID, "b").send_keys("20261101T120000-0002")
    assert "differences" in browser.find_element(By.ID, "said").text
    address = browser.current_url
    open_page(browser, small, "compare.html#" + address.split("#")[1])
    before = browser.find_element(By.ID, "said").text
    assert "differences" in before
    browser.find_element(By.ID, "swap").click()
    assert browser.find_element(By.ID, "a").get_attribute("value") == "20261101T120000-0002"
    browser.find_element(By.ID, "b").send_keys("x")
    assert browser.find_element(By.ID, "said").text.startswith("Not known")


def test_regressions_come_first_and_include_speeds_and_sizes(browser: Any, tmp_path: Path) -> None:
    one, other = sites.cells(2)
    records = [record for record in sites.records(200) if record.cell == sites.cells(52)[51].id]
    assert any(record.kind == "bench" for record in records)
    slow = [
        record.model_copy(
            update={"series": tuple(series.model_copy(update={"tokens_per_second": series.tokens_per_second / 2})
                                    for series in record.series)}
        )
        if isinstance(record, BenchRecord)
        else record.model_copy(update={"size_bytes": 3_000_000_000})
        if isinstance(record, BuildRecord)
        else record
        for record in records
    ]  # fmt: skip
    moved = [r.model_copy(update={"cell": one.id, "run": "first"}) for r in records]
    moved += [r.model_copy(update={"cell": other.id, "run": "second"}) for r in slow]
    for path, data in render(gather(moved, [one, other], made=sites.START)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    open_page(browser, tmp_path, f"compare.html#a={one.id}&b={other.id}")
    lines = browser.execute_script("return [...document.querySelectorAll('#differences tr')].map(r => r.textContent)")

    worse = [line for line in lines if line.startswith("▼ worse")]
    assert lines[: len(worse)] == worse
    assert len([line for line in worse if "throughput" in line]) == 8
    assert next(line for line in lines if line.startswith("▲ better")).endswith("size4000.1 MB3000.0 MB")
    open_page(browser, tmp_path, "compare.html#a=first&b=second")
    lines = browser.execute_script("return [...document.querySelectorAll('#differences tr')].map(r => r.textContent)")
    wheres = [(cell.id + on, cell is one) for cell in (one, other) for on in ("", " on sm_90")]
    assert sorted(lines) == sorted(
        "only in one" + where + ("known–" if first else "–known") for where, first in wheres
    )  # fmt: skip


def test_filters_are_folded_on_a_phone_and_open_where_they_are_set(browser: Any, small: Path) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, small, "index.html")
        assert not browser.find_element(By.ID, "f-target").is_displayed()
        browser.find_element(By.CSS_SELECTOR, "#box summary").click()
        assert browser.find_element(By.ID, "f-target").is_displayed()
        open_page(browser, small, "index.html#target=sm_90")
        assert browser.find_element(By.ID, "f-target").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_fetched_from_elsewhere(browser: Any, small: Path) -> None:
    open_page(browser, small, "index.html")
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")

    assert [name for name in fetched if not name.startswith(("file:", "data:"))] == []


def test_ten_thousand_cells_are_shown_filtered_and_scrolled_without_a_row_for_each(
    browser: Any, tmp_path: Path
) -> None:
    """How fast is measured by bench/site.py."""
    folder = write(tmp_path, 10_000, pages=False)
    open_page(browser, folder, "index.html")
    count = browser.find_element(By.ID, "count")
    WebDriverWait(browser, 60).until(lambda _: count.text == "13334 of 13334 rows")
    assert 0 < len(rows(browser)) < 120

    choose(browser, "f-outcome", "wrong")
    WebDriverWait(browser, 60).until(lambda _: count.text != "13334 of 13334 rows")
    shown, _, rest = count.text.partition(" ")
    assert 0 < int(shown) < 13334
    assert rest.startswith("of 13334 rows")
    press(browser, Keys.END)
    WebDriverWait(browser, 60).until(lambda b: ends(b)[1] == str(int(shown) + 1))

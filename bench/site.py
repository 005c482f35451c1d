"""Making the site: seconds, files and bytes for growing numbers of cells; and how fast Chromium shows the largest.

python bench/site.py [CELLS...]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import site_cells as sites

from assay.pages import gather, render

PAINT = "return performance.getEntriesByType('paint').find(e => e.name === 'first-contentful-paint')?.startTime"
READY = "return document.documentElement.dataset.ready === 'yes' ? performance.now() : null"
FILTER = """
const field = document.getElementById("f-outcome"), start = performance.now();
field.value = "wrong"; field.dispatchEvent(new Event("input"));
return performance.now() - start;
"""


def in_browser(page: bytes, times: int = 5) -> None:
    """Print the medians of first paint and of a filter; the demand is a first paint under 2 s."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        print("no chromium and chromedriver on PATH: nothing is painted")
        return
    from selenium import webdriver  # noqa: PLC0415 - only here
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = program
    browser = webdriver.Chrome(options=options, service=Service(driver))
    paints, filters = [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.html"
            path.write_bytes(page)
            for _ in range(times):
                browser.get("about:blank")
                browser.get(path.as_uri())
                WebDriverWait(browser, 60).until(lambda b: b.execute_script(READY))
                paints.append(WebDriverWait(browser, 60).until(lambda b: b.execute_script(PAINT)))
                filters.append(browser.execute_script(FILTER))
    finally:
        browser.quit()
    paint, filtered = sorted(paints)[times // 2], sorted(filters)[times // 2]
    print(f"first paint {paint / 1000:.2f} s ({paint / 2000:.2f} of 2 s), a filter {filtered / 1000:.3f} s")


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [100, 1000, 10_000]
    print(f"{'cells':>6} {'gather s':>9} {'render s':>9} {'ms/cell':>8} {'files':>6} {'MB':>7} {'index MB':>9}")
    for count in counts:
        cells, records = sites.cells(count), list(sites.records(count))
        start = time.perf_counter()
        site = gather(records, cells, made=sites.START)
        middle = time.perf_counter()
        sizes: dict[str, int] = {}
        for path, data in render(site):
            sizes[path] = len(data)
            if path == "index.html":
                index = data
        end = time.perf_counter()
        print(
            f"{count:>6} {middle - start:>9.2f} {end - middle:>9.2f} {(end - middle) / count * 1000:>8.2f} "
            f"{len(sizes):>6} {sum(sizes.values()) / 1e6:>7.1f} {sizes['index.html'] / 1e6:>9.2f}"
        )
    in_browser(index)


if __name__ == "__main__":
    main()

"""Take the pictures in docs/images from pages made of the committed records: python docs/screenshots.py

It needs Chromium with its driver, and a font with Hangul (Debian: fonts-nanum), because titles of claims are Korean.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from assay.cli import main as assay

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RECORDS = ROOT / "docs" / "records"
CELL = "local-6880b8fbb279"
OLDER, NEWER = "vllm-blackwell-cu128-torch2.8.0-vllm0.11.0", "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is looked at, and how."""

    page: str
    width: int = 1180
    height: int = 720
    scheme: str = "light"
    phone: bool = False
    before: str = ""
    """JavaScript that is run first."""


PICTURES = {
    "matrix": Picture(page="index.html"),
    "matrix-phone": Picture(page="index.html", width=390, height=760, scheme="dark", phone=True),
    "cell": Picture(page=f"cells/{CELL}.html", height=860),
    "feature": Picture(page="features/cuda-graphs.html", height=760),
    "compare": Picture(page="compare.html#" + urlencode({"a": OLDER, "b": NEWER}), height=640),
}


def serving(site: Path) -> dict[str, Picture]:
    """Return the picture of plots, if a benchmark is among the committed records."""
    records = (json.loads(path.read_bytes()) for path in sorted(RECORDS.rglob("*-bench-*.json")))
    cell = next((record["cell"] for record in records), None)
    page = next((path for path in (site / "cells").glob("*.html") if "<figure>" in path.read_text("utf-8")), None)
    if cell is None or page is None:
        print("no benchmark among the committed records: serving.png is left out", file=sys.stderr)
        return {}
    show = "document.querySelector('figure').scrollIntoView()"
    return {"serving": Picture(page=f"cells/{page.name}", height=620, before=show)}


def take(browser: webdriver.Chrome, site: Path, name: str, picture: Picture) -> None:
    """Write one picture."""
    media = {"features": [{"name": "prefers-color-scheme", "value": picture.scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": picture.width, "height": picture.height, "deviceScaleFactor": 2 if picture.phone else 1,
         "mobile": picture.phone},
    )  # fmt: skip
    path, _, state = picture.page.partition("#")
    browser.get("about:blank")
    browser.get((site / path).as_uri() + (f"#{state}" if state else ""))
    if path in {"index.html", "compare.html"}:
        ready = "return document.documentElement.dataset.ready === 'yes'"
        WebDriverWait(browser, 20).until(lambda b: b.execute_script(ready))
    if picture.before:
        browser.execute_script(picture.before)
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    (IMAGES / f"{name}.png").write_bytes(base64.b64decode(data))


def main() -> int:
    """Make the pages, take every picture."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        print("needs chromium and chromedriver on PATH", file=sys.stderr)
        return 1
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = program
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        if code := assay(
            ["report", "--project", str(ROOT), "--records", str(RECORDS), "--predict", "--html", str(site)]
        ):
            return code
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            for name, picture in {**PICTURES, **serving(site)}.items():
                take(browser, site, name, picture)
        finally:
            browser.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write a picture of every screen of the console, light and dark: `python -m tools.screenshots`."""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from headwater.console.screens import all_screens
from tests.browser.chromium import BINARY, Chromium
from tests.browser.console_house import ROOT, show
from tests.browser.console_pages import find_pages
from tests.browser.lively import serve_applications, wait_for

FOLDER = ROOT / "docs/screenshots"
PAGE = ROOT / "docs/console.md"
HEADING = "## All screens\n"
WIDTH = 1280
FLOW = 'class="current flow'
"""On the map, where something flows."""


def main() -> None:
    if not BINARY:
        sys.exit("there is no Chromium: `apt-get install chromium`")
    with tempfile.TemporaryDirectory(prefix="headwater-") as name:
        folder, profile, pictures = (Path(name) / part for part in ("house", "profile", "pictures"))
        folder.mkdir()
        pictures.mkdir()
        with (
            serve_applications(folder) as house,
            Chromium(profile) as browser,
            httpx.Client(base_url=house.console, timeout=60) as http,
            busy(house.url),
        ):
            pages = find_pages(http, 10, "reporting")
            wait_for(lambda: FLOW in http.get("/").text)
            for screen in all_screens():
                if screen.path not in pages:
                    print(f"the applications have nothing for {screen.path}", file=sys.stderr)
                    continue
                take(browser, house.console + best(pages[screen.path]), pictures / name_of(screen.path))
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(pictures, FOLDER)
    show_all()


@contextmanager
def busy(url: str) -> Iterator[None]:
    """Products come and change all the while."""
    ended = threading.Event()

    def work() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not ended.wait(0.1):
                http.post("/catalog/products", json={"name": "A lamp", "category": "garden", "price_cents": 1990})

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()


def best(addresses: list[str]) -> str:
    """The page with the most to see, as far as an address tells."""
    liked = ("reporting/report", "erasure/deletions", "catalog/products", "ann")
    return next((one for word in liked for one in addresses if word in one), addresses[0])


def name_of(path: str) -> str:
    parts = path.strip("/").split("/")
    named = [part for part in parts if not part.startswith("{")] + ["one"] * parts[-1].startswith("{")
    return "-".join(filter(None, named)) or "map"


def take(browser: Chromium, address: str, name: Path) -> None:
    for scheme in ("light", "dark"):
        browser.open_tab()
        show(browser, WIDTH, scheme)
        browser.open(address)
        browser.until("document.querySelector('[data-live]').dataset.state !== undefined")
        browser.evaluate("document.fonts.ready.then(() => new Promise((done) => setTimeout(done, 300)))")
        picture = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        name.with_name(f"{name.name}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))


def show_all() -> None:
    """The last section of the console's page: a table of all pictures."""
    kept = PAGE.read_text("utf-8").partition(HEADING)[0]
    rows = []
    for screen in all_screens():
        if not (FOLDER / f"{name_of(screen.path)}-light.png").exists():
            continue
        light, dark = (
            f"![{screen.title}, {how}](screenshots/{name_of(screen.path)}-{how}.png)" for how in ("light", "dark")
        )
        rows.append(f"| {screen.title} | {light} | {dark} |")
    lines = [
        "`make screenshots` writes them, on the applications of this repository.",
        "",
        "| Screen | Light | Dark |",
        "| --- | --- | --- |",
        *rows,
    ]
    PAGE.write_text(kept + HEADING + "\n" + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

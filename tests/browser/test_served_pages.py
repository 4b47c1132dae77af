"""The pages that the applications serve to everybody: nothing is fetched from another host, nothing complains."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, show

pytestmark = pytest.mark.needs(*NAMES, package="chromium")
REFERENCES = "[...document.querySelectorAll('[href], [src], [action]')].map((one) => one.href || one.src || one.action)"
CHECKER = (Path(__file__).parent / "accessibility.js").read_text("utf-8")


def test_no_page_refers_to_another_host(house: ConsoleHouse, page: Chromium) -> None:
    apps = httpx.get(f"{house.url}/").json()["apps"]
    assert len(apps) >= 5
    places = [app["docs"] for app in apps.values()] + ["/intake/"]
    for width, place in zip(cycle((1280, 390)), places, strict=False):
        show(page, width, "light" if width == 1280 else "dark")
        page.events.clear()
        page.open(house.url + place)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert len(page.evaluate("document.body.innerText")) > 100
        assert hosts_of(page.requests()) == {urlsplit(house.url).netloc}
        assert hosts_of(page.evaluate(REFERENCES)) <= {urlsplit(house.url).netloc}
        if place.endswith("/docs"):
            assert page.evaluate(f"{CHECKER}()") == [], place
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place


def hosts_of(urls: list[str]) -> set[str]:
    return {urlsplit(url).netloc for url in urls if not url.startswith("data:")}

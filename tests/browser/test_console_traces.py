"""Traces in the browser: found, drawn as a waterfall, explained, copied as a test."""

from __future__ import annotations

import ast

import httpx
import pytest

from tests.browser.chromium import Chromium
from tests.browser.console_house import ConsoleHouse, show

pytestmark = pytest.mark.needs("chromium", "chromium-browser", "google-chrome", package="chromium")


@pytest.fixture
def trace(house: ConsoleHouse) -> str:
    """A product is made, and changed: the trace of the change."""
    with httpx.Client(base_url=f"{house.url}/catalog", timeout=20) as http:
        made = http.post("/products", json={"name": "<b>lamp</b>", "category": "light", "price_cents": 5}).json()
        answer = http.put(f"/products/{made['id']}", json={"name": "lamp", "category": "light", "price_cents": 7})
    assert answer.status_code == 200, answer.text
    return answer.headers["headwater-trace"]


def test_a_trace_is_found_and_shows_hops_and_differences(house: ConsoleHouse, page: Chromium, trace: str) -> None:
    page.open(f"{house.console}/traces?q={trace}")
    page.until("document.querySelectorAll('tbody tr').length === 1")
    page.evaluate("document.querySelector('tbody a').click()")
    page.until(f"location.pathname === '/traces/{trace}'")
    page.until("[...document.querySelectorAll('.hop.message .label')].some(l => l.innerText === 'reporting/reports')")
    assert page.evaluate("document.querySelectorAll('.hop.event .moment').length") >= 2
    page.evaluate("document.querySelector('.hop.event summary').click()")
    told = page.evaluate("document.querySelector('.hop.event .told').innerText")
    assert "price_cents" in told
    assert "<b>lamp</b>" in told
    assert page.evaluate("document.querySelectorAll('.told b').length") == 0


def test_why_names_what_fired_and_what_did_not(house: ConsoleHouse, page: Chromium, trace: str) -> None:
    (root,) = house.ask("trace", id=trace)["roots"]
    page.open(f"{house.console}/events/{root['events'][0]['id']}")
    text = page.evaluate("document.querySelector('[data-part=why]').innerText")
    assert "taken" in text
    assert "catalog/announce" in text
    house.ask("table-put", table="erasure/customers", value={"id": "c1", "name": "x", "consent": "granted"})
    event = house.ask("tail", source="erasure/customers", limit=1)["events"][0]
    page.open(f"{house.console}/events/{event['id']}")
    reasons = page.evaluate("[...document.querySelectorAll('.reason')].map(r => r.innerText).join()")
    assert "type: 'inserted', wanted 'modified'" in reasons


def test_it_is_copied_as_a_test(house: ConsoleHouse, page: Chromium, trace: str) -> None:
    page.open(f"{house.console}/traces/{trace}/test")
    code = page.evaluate("document.querySelector('main pre').innerText")
    ast.parse(code)
    assert "from apps.catalog.app import app as catalog" in code
    page.open(f"{house.console}/traces/{trace}")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    page.until("document.querySelector('[data-live]').dataset.state === 'live'")  # the page's scripts run
    page.evaluate("document.querySelector('[data-copy-test]').click()")
    page.until("window.copied !== undefined")
    assert "async def test_trace_" in page.evaluate("window.copied")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit(house: ConsoleHouse, page: Chromium, trace: str, width: int) -> None:
    show(page, width, "dark" if width == 390 else "light")
    event = house.ask("trace", id=trace)["roots"][0]["events"][0]["id"]
    for path in ("/traces", f"/traces/{trace}", f"/traces/{trace}/test", f"/events/{event}"):
        page.open(house.console + path)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_what_the_server_did_by_itself_has_no_test(house: ConsoleHouse, page: Chromium) -> None:
    house.ask("key-create", name="untested")
    own = next(one["trace"] for one in house.ask("traces")["traces"] if one["source"] == "headwater/keys")
    page.open(f"{house.console}/traces/{own}")
    assert page.evaluate("document.querySelector('[data-copy-test]')") is None
    assert "which no test does again" in page.evaluate("document.querySelector('main').innerText")
    page.open(f"{house.console}/traces/{own}/test")
    assert "There is no test of it: the trace began with the server's own work" in page.evaluate(
        "document.querySelector('main').innerText"
    )

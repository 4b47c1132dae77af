"""Dead letters and the audit in the browser: groups, bulk actions with progress, edit, dry run, who did what."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Chromium
from tests.browser.console_house import ConsoleHouse, show

pytestmark = pytest.mark.needs("chromium", "chromium-browser", "google-chrome", package="chromium")
QUEUE = "catalog/announce"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def letters(house: ConsoleHouse) -> Iterator[list[int]]:
    """Three messages that no handler can decode."""
    for n in range(3):
        house.ask("send", queue=QUEUE, group=str(n), data={"n": n, "text": HOSTILE})
    for _ in range(200):
        found = house.ask("dead-letters", queue=QUEUE)["dead_letters"]
        if len(found) == 3:
            break
    yield [letter["id"] for letter in found]
    house.ask("discard", queue=QUEUE)


def accept(page: Chromium) -> None:
    page.until("document.getElementById('confirm').open")
    page.evaluate("document.querySelector('#confirm button[value=yes]').click()")


def test_groups_lead_to_letters_that_are_discarded_by_selection_and_by_filter(
    house: ConsoleHouse, page: Chromium, letters: list[int]
) -> None:
    page.open(f"{house.console}/letters")
    page.until(f"document.body.innerText.includes('{QUEUE}')")
    page.evaluate("document.querySelector('.died a').click()")
    page.until("document.querySelectorAll('[data-letter]').length === 3")
    page.until("!document.querySelector('button[data-which=all]').disabled")
    assert page.evaluate("document.querySelector('button[data-which=selected]').disabled")
    page.evaluate(f"document.querySelector('[data-letter=\"{letters[0]}\"]').click()")
    page.evaluate("document.querySelector('[name=reason]').value = 'tested by hand'")
    page.until("!document.querySelector('button[data-which=selected]').disabled")
    page.evaluate("document.querySelector('button[name=discard][data-which=selected]').click()")
    accept(page)
    page.until("document.querySelector('[data-progress]').innerText.includes('1 dead letter discarded')")
    page.until("document.querySelectorAll('[data-letter]').length === 2")
    page.until("!document.querySelector('button[data-which=all]').disabled")
    page.evaluate("document.querySelector('button[name=discard][data-which=all]').click()")
    accept(page)
    page.until("document.querySelector('[data-progress]').innerText.includes('2 dead letters discarded')")
    page.until("document.querySelectorAll('[data-letter]').length === 0")
    assert house.ask("dead-letters", queue=QUEUE)["dead_letters"] == []

    page.open(f"{house.console}/audit?of=discard&q=tested")
    page.until("document.querySelectorAll('tbody tr').length === 2")
    assert "console: local" in page.evaluate("document.querySelector('tbody').innerText")
    assert [action["by"] for action in house.ask("audit", of="discard", search="tested")["actions"]] == [
        "console: local",
        "console: local",
    ]


def test_a_letter_is_edited_tried_out_and_redriven(house: ConsoleHouse, page: Chromium, letters: list[int]) -> None:
    page.open(f"{house.console}/letters/{letters[0]}")
    assert page.evaluate("document.querySelectorAll('.failure pre').length") == 1
    page.evaluate(f"document.querySelector('textarea').value = {json.dumps(json.dumps({'n': HOSTILE}))}")
    page.until("!document.querySelector('[data-dry-run]').disabled")
    page.evaluate("document.querySelector('[data-dry-run]').click()")
    page.until("document.querySelector('[data-outcome]').innerText.includes('failed')")
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert [one["id"] for one in house.ask("dead-letters", queue=QUEUE)["dead_letters"]] == letters
    page.evaluate("document.querySelector('form.edit').requestSubmit()")
    page.until("document.getElementById('toasts').innerText.includes('not a Product')")  # and the edit is still there
    product = {"id": "p", "name": HOSTILE, "category": "c", "price_cents": 1}
    page.evaluate(f"document.querySelector('textarea').value = {json.dumps(json.dumps(product))}")
    page.evaluate("document.querySelector('form.edit').requestSubmit()")
    page.until("location.pathname === '/letters'")
    (action, *_) = house.ask("audit", of="redrive", outcome="done")["actions"]
    assert action["parameters"]["ids"] == action["result"]["ids"] == [letters[0]]
    assert HOSTILE not in str(action)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit(house: ConsoleHouse, page: Chromium, letters: list[int], width: int) -> None:
    show(page, width, "dark" if width == 390 else "light")
    for path in ("/letters", f"/letters?queue={QUEUE}", f"/letters/{letters[0]}", "/audit"):
        page.open(house.console + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0

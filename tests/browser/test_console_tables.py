"""The console's tables in a real browser, against a server of all applications."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, show

pytestmark = pytest.mark.needs(*NAMES, package="chromium")
TABLE = "catalog/products"
SAVE = "form[data-row] > .buttons button"
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


def product(id: str, category: str = "kitchen", price: int = 100) -> dict[str, Any]:
    return {"id": id, "name": f"{id} {HOSTILE}", "category": category, "price_cents": price}


def put(house: ConsoleHouse, *products: dict[str, Any]) -> None:
    house.ask("table-import", table=TABLE, rows=list(products))


def row_page(house: ConsoleHouse, id: str) -> str:
    return f"{house.console}/tables/{TABLE}/row?key={quote(json.dumps([id]))}"


def cells(page: Chromium, column: int = 1) -> list[str]:
    selector = f"[aria-label=Rows] tbody td:nth-child({column})"
    found: list[str] = page.evaluate(f"[...document.querySelectorAll('{selector}')].map(cell => cell.textContent)")
    return found


def click(page: Chromium, selector: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def write(page: Chromium, text: str) -> None:
    page.evaluate(f"document.getElementById('document').value = {json.dumps(text)}")


def choose(page: Chromium, selector: str, *files: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])


def value_of(house: ConsoleHouse, id: str) -> dict[str, Any]:
    found: dict[str, Any] = house.ask("table-get", table=TABLE, key=[id])["value"]
    return found


def test_rows_are_browsed_by_key_and_index_with_the_filters_in_the_address(page: Chromium, house: ConsoleHouse) -> None:
    put(house, *(product(f"browse-{n:03}", f"cat-{n % 2}", n) for n in range(60)))
    page.open(f"{house.console}/tables?q=catalog")
    click(page, f"a[href='/tables/{TABLE}']")
    page.until("document.querySelector('h1')?.textContent === 'catalog/products'")
    page.evaluate(
        """const form = document.querySelector('main form.filters');
        form.elements.index.value = 'by-category'; form.elements.partition.value = 'cat-1';
        form.elements.limit.value = '25'; form.requestSubmit(form.querySelector('button')); 0"""
    )
    page.until("location.search.includes('partition=cat-1') && document.readyState === 'complete'")
    assert cells(page) == [f"browse-{n:03}" for n in range(1, 50, 2)]
    click(page, "[aria-label=Rows] .buttons a")
    page.until("location.search.includes('cursor=') && document.readyState === 'complete'")
    assert cells(page) == [f"browse-{n:03}" for n in range(51, 60, 2)]
    page.open(f"{house.console}/tables/{TABLE}?partition=browse-007")
    assert cells(page) == ["browse-007"]
    page.open(f"{house.console}/tables/{TABLE}?q=BROWSE-01")
    assert cells(page) == [f"browse-{n:03}" for n in range(10, 20)]
    assert "rows were searched" in page.evaluate("document.querySelector('[aria-label=Rows]').textContent")
    assert page.evaluate("window.hacked") is None


def test_a_row_is_edited_validated_and_its_history_tells_the_difference(page: Chromium, house: ConsoleHouse) -> None:
    put(house, product("edit-me"))
    page.open(row_page(house, "edit-me"))
    for text, complaint in (
        ('{"id": ', "no JSON"),
        (json.dumps(product("edit-me") | {"price_cents": -5}), "price_cents"),
        (json.dumps({"id": "edit-me"}), "name"),
    ):
        write(page, text)
        click(page, SAVE)
        page.until("!document.getElementById('problem').hidden")
        page.until(f"document.getElementById('problem').textContent.includes({json.dumps(complaint)})")
    assert value_of(house, "edit-me") == product("edit-me")
    write(page, json.dumps(product("edit-me") | {"price_cents": 99_999_999_999}))
    click(page, SAVE)
    page.until("document.querySelectorAll('article.change').length === 2")
    assert value_of(house, "edit-me")["price_cents"] == 99_999_999_999
    newest = page.evaluate(
        "[...document.querySelectorAll('article.change')[0].querySelectorAll('tbody tr')].map(tr => tr.innerText)"
    )
    assert [" ".join(row.split()) for row in newest] == ["price_cents 100 99999999999"]
    page.until("document.querySelector('article.change .messages').textContent.includes('catalog/announce')")
    (change, *_) = house.ask("table-history", table=TABLE, key=["edit-me"])["changes"]
    assert (
        page.evaluate("document.querySelector('article.change a').getAttribute('href')") == f"/traces/{change['trace']}"
    )
    assert page.evaluate("document.getElementById('problem').hidden")
    assert page.evaluate("window.hacked") is None


def test_a_conflict_shows_what_the_row_has_become_and_lets_one_choose(page: Chromium, house: ConsoleHouse) -> None:
    put(house, product("contested"))
    page.open(row_page(house, "contested"))
    mine = product("contested", price=1)
    write(page, json.dumps(mine))
    put(house, product("contested", category="theirs"))
    click(page, SAVE)
    page.until("!document.querySelector('[data-conflict]').hidden")
    assert "theirs" in page.evaluate("document.querySelector('[data-conflict] mark').textContent")
    assert value_of(house, "contested")["category"] == "theirs"
    click(page, "[data-conflict] button:nth-of-type(2)")
    assert page.evaluate("document.querySelector('[data-conflict]').hidden")
    click(page, SAVE)
    page.until("document.querySelectorAll('article.change').length === 3")
    assert value_of(house, "contested") == mine
    write(page, json.dumps(mine | {"price_cents": 2}))
    put(house, product("contested", category="again"))
    click(page, SAVE)
    page.until("!document.querySelector('[data-conflict]').hidden")
    click(page, "[data-conflict] button")
    assert '"again"' in page.evaluate("document.getElementById('document').value")


def test_what_others_write_is_shown_while_nothing_is_typed(page: Chromium, house: ConsoleHouse) -> None:
    put(house, product("live"))
    page.open(row_page(house, "live"))
    page.until("document.querySelector('[data-live]').dataset.state === 'live'")
    put(house, product("live", price=777))
    page.until("document.getElementById('document').value.includes('777')")
    page.until("document.querySelectorAll('article.change').length === 2")


def test_a_row_is_inserted_and_deleted(page: Chromium, house: ConsoleHouse) -> None:
    page.open(f"{house.console}/tables/{TABLE}/new")
    assert '"category"' in page.evaluate("document.getElementById('document').value")
    write(page, json.dumps(product("fresh / ü")))
    click(page, SAVE)
    page.until("document.querySelector('h1')?.textContent.trim() === 'fresh / ü' && document.readyState === 'complete'")
    click(page, "form.action[action$=table-delete] button")
    page.until("document.getElementById('confirm').open")
    click(page, "#confirm button[value=no]")
    assert value_of(house, "fresh / ü") == product("fresh / ü")
    click(page, "form.action[action$=table-delete] button")
    page.until("document.getElementById('confirm').open")
    click(page, "#confirm button[value=yes]")
    page.until(f"location.pathname === '/tables/{TABLE}' && document.readyState === 'complete'")
    page.open(row_page(house, "fresh / ü"))
    assert page.evaluate("document.querySelector('h1 .badge').textContent") == "absent"
    click(page, SAVE)
    page.until("!document.querySelector('h1 .badge')")
    assert value_of(house, "fresh / ü") == product("fresh / ü")


def test_rows_are_imported_and_all_that_match_are_deleted(page: Chromium, house: ConsoleHouse, tmp_path: Path) -> None:
    rows = [product(f"bulk-{n:03}", "bulk") for n in range(430)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:3], "{", "", '{"id": "wrong"}', *lines[3:]]), "utf-8")
    page.open(f"{house.console}/tables/{TABLE}/import")
    choose(page, "input[type=file]", tmp_path / "rows.jsonl")
    click(page, "form[data-import] button")
    page.until("document.querySelector('[data-progress] [role=status]').textContent === '430 rows written, 2 refused'")
    refused = page.evaluate(
        "[...document.querySelectorAll('[data-refused] tbody tr')].map(tr => tr.cells[0].textContent)"
    )
    assert sorted(refused) == ["4", "6"]
    page.open(f"{house.console}/tables/{TABLE}?index=by-category&partition=bulk")
    click(page, "[data-remove-all]")
    page.until("document.getElementById('confirm').open")
    assert "430 rows" in page.evaluate("document.getElementById('confirm-text').textContent")
    click(page, "#confirm button[value=yes]")
    page.until("document.querySelector('[data-progress] [role=status]').textContent === '430 rows deleted'")
    assert house.ask("table-query", table=TABLE, index="by-category", prefix=["bulk"])["items"] == []
    page.until("document.querySelector('[aria-label=Rows] .empty') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "/new", "/import", "/row?key=%5B%22narrow%22%5D"])
def test_pages_fit_a_phone(page: Chromium, house: ConsoleHouse, place: str, scheme: str) -> None:
    put(house, product("narrow") | {"name": "W" * 200})
    show(page, 390, scheme)
    page.open(f"{house.console}/tables/{TABLE}{place}")
    assert page.evaluate("document.documentElement.scrollWidth") == 390

"""Every screen, with something on it: no attack runs, no complaint, a checker of WCAG finds nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from headwater.console.screens import all_screens
from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, show
from tests.browser.console_pages import find_pages
from tests.browser.hostile_app import ATTACKS, UNTOLD
from tests.browser.lively import serve_lively

pytestmark = [pytest.mark.needs(*NAMES, package="chromium"), pytest.mark.timeout(300)]
CHECKER = (Path(__file__).parent / "accessibility.js").read_text("utf-8")
UNSAFE = """[...document.querySelectorAll("[href], [src], [action], [formaction]")]
  .flatMap((one) => ["href", "src", "action", "formaction"].map((name) => one.getAttribute(name) ?? ""))
  .filter((url) => /^\\s*(javascript|vbscript|data:text)/i.test(url) || /^(https?:)?\\/\\/evil/i.test(url))"""
FOREIGN = """[...document.querySelectorAll("iframe:not([sandbox='']), base, style, script:not([src^='/static/']),"
  + "[onerror], [onload], [onfocus], meta[http-equiv], object, embed")].map((one) => one.outerHTML.slice(0, 200))"""
SCREENS = [screen.path for screen in all_screens()]


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleHouse]:
    with serve_lively(tmp_path_factory.mktemp("lively")) as house:
        yield house


@pytest.fixture(scope="module")
def pages(lively: ConsoleHouse) -> dict[str, list[str]]:
    with httpx.Client(base_url=lively.console, timeout=20) as http:
        return find_pages(http, 4, "hostile")


@pytest.mark.parametrize("screen", SCREENS)
def test_links_lead_to_every_screen(pages: dict[str, list[str]], screen: str) -> None:
    assert screen in pages


@pytest.mark.parametrize("screen", SCREENS)
def test_no_attack_runs(page: Chromium, lively: ConsoleHouse, pages: dict[str, list[str]], screen: str) -> None:
    for address in pages[screen]:
        page.open(lively.console + address)
        page.until("document.querySelector('[data-live]').dataset.state !== undefined")
        page.evaluate("document.querySelectorAll('summary').forEach((one) => one.click())")
        page.evaluate("document.querySelectorAll('input, select, textarea').forEach((one) => one.focus())")
        page.evaluate("import('/static/live.js').then((live) => live.refresh())")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")
        assert page.evaluate("window.hacked") is None, address
        assert page.evaluate(UNSAFE) == [], address
        assert page.evaluate(FOREIGN) == [], address
        assert page.evaluate("location.href") == lively.console + address
        assert "1337" not in page.evaluate("document.body.innerText").replace("7 * 191", ""), address
        assert page.complaints() == [], address
        assert [one for one in page.requests() if not one.startswith((lively.console, "data:", "blob:"))] == [], address


def test_the_attacks_are_on_the_pages(lively: ConsoleHouse, pages: dict[str, list[str]]) -> None:
    """As text, so that the test above has something to find."""
    with httpx.Client(base_url=lively.console, timeout=20) as http:
        texts = {screen: "".join(http.get(one).text for one in found) for screen, found in pages.items()}
    attacked = {screen for screen, text in texts.items() if "window.hacked=1" in text}
    assert attacked >= {
        "/letters",
        "/letters/{id}",
        "/queues/{app}/{name}",
        "/tables/{app}/{name}",
        "/tables/{app}/{name}/row",
        "/buckets/{app}/{name}",
        "/mail",
        "/mail/{id}",
        "/operations/{app}/{name}",
        "/traces/{id}",
        "/audit",
        "/keys",
    }
    whole = "".join(texts.values())
    assert UNTOLD not in whole
    assert "(hidden)" in whole
    assert [text for text in ATTACKS if text in whole and "<" in text] == []


class _Actions(HTMLParser):
    """Operations of forms, by whether what sends them tells the command that does the same."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()
        self.untold: set[str] = set()
        self._form: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "form":
            self._form = dict(attrs)
        elif tag == "button" and self._form.get("class") == "action":
            (self.told if dict(attrs).get("data-cli") else self.untold).add(self._form["action"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = {}


def test_every_button_tells_its_command(lively: ConsoleHouse, pages: dict[str, list[str]]) -> None:
    actions = _Actions()
    with httpx.Client(base_url=lively.console, timeout=20) as http:
        for address in (address for addresses in pages.values() for address in addresses):
            text = http.get(address).text
            actions.feed(text)
            assert 'class="command"' in text or 'action="/actions/' not in text, address
    assert actions.untold == set()
    assert {one.removeprefix("/actions/") for one in actions.told} >= {"pause", "purge", "schedule-run", "key-revoke"}


@pytest.mark.parametrize("view", [(1280, "light"), (390, "dark")], ids=["wide light", "narrow dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_accessible(
    page: Chromium, lively: ConsoleHouse, pages: dict[str, list[str]], screen: str, view: tuple[int, str]
) -> None:
    show(page, *view)
    for address in {pages[screen][0], pages[screen][-1]}:
        page.open(lively.console + address)
        page.until("document.querySelector('[data-live]').dataset.state !== undefined")
        assert page.evaluate(f"{CHECKER}()") == [], address


BAD_PAGE = """
<title></title><main></main><main><h1>a</h1><h3>b</h3><input><button></button><a href="/x"></a><img src="data:,">
<p id="i" style="color: #999; background: #fff">pale</p><p id="i">twice</p><table><tr><td>1</td></tr></table>
<svg><text y="10" fill="#ccc">pale too</text></svg><svg><rect width="9" height="9"/></svg>
<ul><p>no item</p></ul><label for="none">x</label>
<div style="overflow: auto; width: 50px"><div style="width: 200px; height: 1px">w</div></div>
<div style="width: 3000px">wide</div><button style="outline: none; box-shadow: none">b</button></main>
"""


def test_the_checker_finds_what_is_wrong(page: Chromium) -> None:
    page.evaluate("document.documentElement.removeAttribute('lang')")
    page.evaluate(f"document.body.innerHTML = {json.dumps(BAD_PAGE)}")
    told = " ".join(page.evaluate(f"{CHECKER}()"))
    for rule in (
        "no language",
        "no title",
        "not one main",
        "a level of headings is left out",
        "field without a label",
        "control without a name",
        "image without alt",
        "drawing without a name",
        "contrast 2.85",
        "contrast 1.6",
        "id twice",
        "for leads nowhere",
        "table without headings",
        "no item of its list",
        "scrolls, but not by keyboard",
        "focus cannot be seen",
        "px wide",
    ):
        assert rule in told

"""The map, queues, topics and workers in a real browser, on the five applications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from headwater.console.drawing import draw
from headwater.console.topology import Answers, live_figures, make_topology
from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, show

pytestmark = pytest.mark.needs(*NAMES, package="chromium")
HOSTILE = "<img src=x onerror='window.hacked=1'>"
INCOMING = "intake/incoming"


@pytest.fixture
def paused(house: ConsoleHouse) -> Iterator[None]:
    """The queue of readings hands out nothing, and is empty."""
    house.ask("pause", queue=INCOMING)
    house.ask("purge", queue=INCOMING)
    yield
    house.ask("purge", queue=INCOMING)
    house.ask("resume", queue=INCOMING)


def send(house: ConsoleHouse, one: str, two: str = "-", **more: Any) -> None:
    house.ask("send", queue=INCOMING, data={"informationOne": one, "informationTwo": two}, **more)


def text_of(page: Chromium, selector: str) -> str:
    return str(
        page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent.replace(/\\s+/g, ' ').trim()")
    )


def press_button(page: Chromium, text: str) -> None:
    page.evaluate(
        f"[...document.querySelectorAll('main button')].find(b => b.textContent.trim() === {json.dumps(text)}).click()"
    )


def say_yes(page: Chromium) -> None:
    page.until("document.getElementById('confirm').open")
    page.evaluate("document.querySelector('#confirm [value=yes]').click()")


def fill(page: Chromium, values: dict[str, str]) -> None:
    """Inputs by name, in the first form that acts and has them."""
    for name, value in values.items():
        where = f"document.querySelector('form[data-action] [name=' + CSS.escape({json.dumps(name)}) + ']')"
        page.evaluate(f"{where}.value = {json.dumps(value)}")


def depth_of(house: ConsoleHouse, queue: str) -> int:
    return next(int(one["depth"]) for one in house.ask("queues")["queues"] if one["name"] == queue)


# The map


def node(name: str) -> str:
    return f"document.querySelector('.map .wide a[href=\"/queues/{name}\"].queue')"


def test_the_map_shows_how_a_queue_fills_without_reloading(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    page.open(f"{house.console}/")
    page.evaluate("window.same = true")
    page.until(f"{node(INCOMING)}.classList.contains('paused')")
    assert page.evaluate(f"{node(INCOMING)}.querySelector('.filled').getBBox().width") == 0
    for n in range(30):
        send(house, f"reading {n}")
    page.until(f"{node(INCOMING)}.textContent.includes('30 waiting')")
    assert page.evaluate(f"{node(INCOMING)}.querySelector('.filled').getBBox().width") > 0
    page.until("[...document.querySelectorAll('.map .wide .rate')].some(rate => rate.textContent.endsWith('/s'))")
    assert page.evaluate("document.querySelectorAll('.map .wide .current.flow').length") > 0
    assert page.evaluate("window.same"), "the page was not loaded again"


def test_the_map_leads_to_what_it_shows(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/?app=catalog")
    names: list[str] = page.evaluate(
        "[...document.querySelectorAll('.map .wide .queue')].map(a => a.getAttribute('href'))"
    )
    assert "/queues/catalog/announce" in names
    assert "/queues/reporting/reports" in names, "a neighbour"
    assert f"/queues/{INCOMING}" not in names
    page.evaluate(
        f"{node('catalog/announce')}.dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))"
    )
    page.until("location.pathname === '/queues/catalog/announce' && document.readyState === 'complete'")
    assert text_of(page, "h1").startswith("catalog/announce")


def test_the_applications_fit_on_the_map(house: ConsoleHouse, page: Chromium) -> None:
    """At 1280 px and on a phone nothing is to be scrolled sideways, and no edges cross."""
    page.open(f"{house.console}/")
    for width in (1280, 390):
        show(page, width, "light")
        assert page.evaluate("document.querySelector('.map').scrollWidth <= document.querySelector('.map').clientWidth")
        shown = (
            "[...document.querySelectorAll('.map svg')].filter((svg) => svg.clientWidth).map((svg) => svg.classList[0])"
        )
        assert page.evaluate(shown) == ["wide" if width > 1000 else "narrow"]
    resources, seen = house.ask("resources"), house.ask("topology")
    figures = {queue["name"]: live_figures(queue) for queue in resources["queues"]}
    assert draw(make_topology(Answers(resources, seen, figures))).crossings == 0


def test_choosing_an_app_and_a_minute_is_in_the_address(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/")
    page.evaluate(
        "(() => { const slider = document.querySelector('[data-scrub]'); slider.value = Number(slider.max) - 30;"
        " slider.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.until("document.querySelector('h1').textContent.includes('as it was at')")
    minute = page.evaluate("document.querySelector('[data-scrub]').value")
    assert page.evaluate("location.search") == f"?at={minute}"
    page.evaluate(
        "(() => { const app = document.querySelector('select[name=app]'); app.value = 'intake';"
        " app.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.until("location.search.includes('app=intake') && document.readyState === 'complete'")
    assert page.evaluate("document.querySelectorAll('.map .wide .queue').length") == 1
    page.evaluate("[...document.querySelectorAll('a')].find(a => a.textContent === 'Back to now').click()")
    page.until("location.search === '?app=intake' && document.readyState === 'complete'")


def test_a_dead_letter_colours_its_queue(house: ConsoleHouse, page: Chromium) -> None:
    queue = "catalog/announce"
    house.ask("send", queue=queue, data={"no": "product"}, group="a")
    page.open(f"{house.console}/?app=catalog")
    page.until(f"{node(queue)}.classList.contains('bad')")
    assert "1 dead letter" in page.evaluate(f"{node(queue)}.getAttribute('aria-label')")
    house.ask("discard", ids=[letter["id"] for letter in house.ask("dead-letters", queue=queue)["dead_letters"]])
    page.until(f"!{node(queue)}.classList.contains('bad')")


# Queues


def test_a_row_is_a_card_on_a_phone(house: ConsoleHouse, page: Chromium) -> None:
    """Every cell is in sight, beside the heading of its column."""
    show(page, 390, "light")
    page.open(f"{house.console}/queues")
    page.until("document.querySelector('.cards td.number') !== null")
    assert page.evaluate(
        "[...document.querySelectorAll('.cards td')].every((one) => one.getBoundingClientRect().right <= 390)"
    )
    waiting = "document.querySelector('.cards td.number')"
    assert page.evaluate(f"getComputedStyle({waiting}, '::before').content") == '"Waiting"'
    page.evaluate("import('/static/live.js').then((live) => live.refresh())")
    assert page.evaluate(f"getComputedStyle({waiting}, '::before').content") == '"Waiting"'


def test_pausing_resuming_and_purging_a_queue(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/queues/{INCOMING}")
    press_button(page, "Pause")
    page.until(f"document.getElementById('toasts').innerText.includes('headwater queue pause {INCOMING}')")
    page.until("document.querySelector('h1').textContent.includes('paused')")
    for n in range(3):
        send(house, f"reading {n}")
    page.until("document.querySelectorAll('.message').length === 3")
    press_button(page, "Purge")
    page.until("document.getElementById('confirm').open")
    assert "3 at present" in text_of(page, "#confirm-text")
    assert text_of(page, "#confirm-cli") == f"headwater queue purge {INCOMING}"
    page.evaluate("document.querySelector('#confirm [value=no]').click()")
    assert depth_of(house, INCOMING) == 3
    press_button(page, "Purge")
    say_yes(page)
    page.until("document.querySelectorAll('.message').length === 0")
    assert depth_of(house, INCOMING) == 0
    send(house, "a reading to be kept")
    page.until("document.querySelectorAll('.message').length === 1")
    press_button(page, "Purge")
    page.until("document.getElementById('confirm').open")
    page.press("Escape")
    page.until("!document.getElementById('confirm').open")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")  # an action would have been sent by now
    assert depth_of(house, INCOMING) == 1
    house.ask("purge", queue=INCOMING)
    press_button(page, "Resume")
    page.until("!document.querySelector('h1').textContent.includes('paused')")
    assert next(q for q in house.ask("queues")["queues"] if q["name"] == INCOMING)["paused"] is False


def test_a_message_is_sent_by_a_form_of_the_schema(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    page.open(f"{house.console}/queues/{INCOMING}")
    fill(page, {"data.informationOne:text": HOSTILE, "data.informationTwo:text": "17", "delay": "1h"})
    press_button(page, "Send")
    page.until("document.querySelectorAll('.message').length === 1")
    (message,) = house.ask("peek", queue=INCOMING)["messages"]
    assert message["event"]["data"] == {"informationOne": HOSTILE, "informationTwo": "17"}
    assert message["ready"] is not None
    page.evaluate("document.querySelector('.message').open = true")
    assert HOSTILE in text_of(page, ".message pre")
    assert page.evaluate("window.hacked === undefined && document.querySelectorAll('main img').length === 0")


def test_what_the_model_refuses_is_told(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    page.open(f"{house.console}/queues/{INCOMING}")
    page.evaluate("document.getElementById('as-json').open = true")
    page.evaluate("document.querySelector('#as-json textarea').value = '{\"informationOne\": 1}'")
    page.evaluate("document.querySelector('#as-json form').requestSubmit()")
    page.until("document.getElementById('toasts').textContent.includes('informationOne')")
    assert depth_of(house, INCOMING) == 0


def test_payloads_are_searched_without_consuming(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    for n in range(60):
        send(house, f"reading {n}", "needle" if n in (5, 55) else "hay")
    page.open(f"{house.console}/queues/{INCOMING}?q=NEEDLE")
    texts: list[str] = page.evaluate("[...document.querySelectorAll('.message pre')].map(pre => pre.textContent)")
    assert [json.loads(text)["informationOne"] for text in texts] == ["reading 5", "reading 55"]
    page.open(f"{house.console}/queues/{INCOMING}")
    assert page.evaluate("document.querySelectorAll('.message').length") == 50
    page.evaluate("[...document.querySelectorAll('a')].find(a => a.textContent === 'Further messages').click()")
    page.until("location.search.startsWith('?after=') && document.readyState === 'complete'")
    assert "reading 50" in text_of(page, ".message pre")
    assert depth_of(house, INCOMING) == 60


def test_an_open_message_stays_open_when_others_come(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    send(house, "first")
    page.open(f"{house.console}/queues/{INCOMING}")
    page.evaluate("document.querySelector('.message').open = true; window.first = document.querySelector('.message')")
    send(house, "second")
    page.until("document.querySelectorAll('.message').length === 2")
    assert page.evaluate("window.first.isConnected && window.first.open")


def test_all_queues_of_a_filter_are_paused_and_resumed(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/queues?app=reporting")
    for button, expected in (("Pause all 2 shown", True), ("Resume all 2 shown", False)):
        press_button(page, button)
        say_yes(page)
        page.until(f"document.querySelectorAll('main .badge').length === {2 if expected else 0}")
        states = {one["name"]: one["paused"] for one in house.ask("queues")["queues"]}
        assert [name for name, state in states.items() if state] == (
            ["reporting/audit-reports", "reporting/reports"] if expected else []
        )


def test_queues_are_filtered_by_name_app_and_state(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    def names(query: str) -> list[str]:
        page.open(f"{house.console}/queues?{query}")
        found: list[str] = page.evaluate("[...document.querySelectorAll('[data-queue]')].map(a => a.dataset.queue)")
        return found

    assert names("state=paused") == [INCOMING]
    assert names("app=reporting") == ["reporting/audit-reports", "reporting/reports"]
    assert names("q=REPORTS&app=reporting") == ["reporting/audit-reports", "reporting/reports"]
    assert names("q=nothing") == []


# Topics

TOPIC = "catalog/product-events"


def test_a_queue_is_subscribed_and_unsubscribed(house: ConsoleHouse, page: Chromium, paused: None) -> None:
    page.open(f"{house.console}/topics/{TOPIC}")
    assert "reporting/reports" in text_of(page, "[data-part=routes]")
    fill(page, {"queue": INCOMING, "match": '{"id": [{"prefix": "a"}]}'})
    press_button(page, "Subscribe")
    page.until("document.querySelector('[data-part=subscriptions] table') !== null")
    (made,) = house.ask("subscriptions", topic=TOPIC)["subscriptions"]
    assert (made["target"], made["match"]) == (INCOMING, {"id": [{"prefix": "a"}]})
    assert "id: a…" in text_of(page, "[data-part=subscriptions]")
    press_button(page, "Unsubscribe")
    say_yes(page)
    page.until("document.querySelector('[data-part=subscriptions] table') === null")
    assert house.ask("subscriptions", topic=TOPIC)["subscriptions"] == []


def test_the_secret_of_a_webhook_is_shown_once(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/topics/{TOPIC}")
    fill(page, {"url": "https://hooks.example/in"})
    press_button(page, "Subscribe")
    page.until("document.querySelector('[data-secret]').textContent.includes('whsec_')")
    page.open(f"{house.console}/topics/{TOPIC}?again")
    assert "https://hooks.example/in" in text_of(page, "[data-part=subscriptions]")
    assert "whsec_" not in page.evaluate("document.documentElement.outerHTML")
    (made,) = house.ask("subscriptions", topic=TOPIC)["subscriptions"]
    house.ask("unsubscribe", id=made["id"])


def test_a_message_is_published_and_leads_to_its_trace(house: ConsoleHouse, page: Chromium) -> None:
    topic = "erasure/poll-now"
    page.open(f"{house.console}/topics/{topic}")
    before = page.evaluate("document.querySelectorAll('[data-part=events] .message').length")
    page.evaluate('document.querySelector(\'form[action="/actions/publish"] textarea\').value = \'{"by": "hand"}\'')
    press_button(page, "Publish")
    page.until(f"document.querySelectorAll('[data-part=events] .message').length === {before + 1}")
    newest = house.ask("tail", source=topic)["events"][-1]
    assert newest["data"] == {"by": "hand"}
    assert page.evaluate(f"document.querySelector('a[href=\"/traces/{newest['trace']}\"]') !== null")


# Workers


@pytest.mark.timeout(60)
def test_a_worker_process_and_why_it_was_started(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/workers?queue=gallery/examine")
    house.put_object("gallery/uploads", "ann/trip/1.png", b"no image")
    page.until("document.querySelectorAll('[data-part=processes] tbody tr').length > 0")
    assert "gallery/examine" in text_of(page, "[data-part=processes]")
    page.until("document.querySelector('[data-part=decisions] tbody') !== null")
    assert "1 message" in text_of(page, "[data-part=decisions]")
    (worker, *_) = house.ask("workers")["workers"]
    assert str(worker["pid"]) in text_of(page, "[data-part=processes]")
    assert str(house.ask("status")["server"]["pid"]) in text_of(page, "main")


# All of them

PAGES = ["/", "/?app=erasure", "/queues", f"/queues/{INCOMING}", f"/topics/{TOPIC}", "/workers"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(house: ConsoleHouse, page: Chromium, scheme: str) -> None:
    show(page, 390, scheme)
    for path in PAGES:
        page.open(f"{house.console}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_what_does_not_exist_is_not_found(house: ConsoleHouse) -> None:
    for path in ("/queues/shop/nothing", "/topics/shop/nothing", "/topics/erasure/poll"):
        answer = httpx.get(f"{house.console}{path}", headers={"Accept": "text/html"})
        assert answer.status_code == 404, path
    for path in (
        "/?at=x",
        "/?at=99999999999999",
        "/?at=-1",
        f"/queues/{INCOMING}?after=x",
        f"/queues/{INCOMING}?after={10**30}",
        "/queues?state=odd",
    ):
        answer = httpx.get(f"{house.console}{path}", headers={"Accept": "text/html"})
        assert answer.status_code == 200, path


def test_what_is_done_during_a_refresh_is_shown_after_it(house: ConsoleHouse, page: Chromium) -> None:
    page.open(f"{house.console}/queues/{INCOMING}")
    page.until("document.querySelector('[data-live]').dataset.state === 'live'")
    asked = """(async () => {
        const live = await import('/static/live.js');
        const real = window.fetch;
        let asked = 0;
        window.fetch = (...parameters) => { asked += 1; return real(...parameters); };
        const first = live.refresh();
        const later = [live.refresh(), live.refresh()];
        const during = asked;
        await Promise.all([first, ...later]);
        window.fetch = real;
        return [during, asked];
    })()"""
    during, after = page.evaluate(asked)
    assert during == 1
    assert after >= 2

"""Operations, schedules, alarms, the mailbox, endpoints, API keys and the clock, in a real browser.

The server has a clock that the tests move.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, serve_house, show

pytestmark = [pytest.mark.needs(*NAMES, package="chromium"), pytest.mark.timeout(180)]
HOSTILE = "<img src=x onerror='window.hacked=1'>"
KIND = "erasure/deletions"
BAD_FILE = b"not,staff\n1,2\n"
MAIL = f"<p style='color: rgb(1, 2, 3)'>Dear {HOSTILE}<script>window.hacked=1;top.hacked=1</script></p>"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleHouse]:
    """A house whose clock can be moved, with an operation, an alarm of a metric, and one that nothing measures."""
    with serve_house(tmp_path_factory.mktemp("moved"), options=["--virtual-clock"]) as house:
        for n in range(2):
            customer = {"id": f"c{n}", "name": "Ann", "consent": "granted"}
            house.ask("table-put", table="erasure/customers", value=customer)
            house.ask("table-put", table="erasure/customers", value={**customer, "consent": "revoked"})
        for resource in (HOSTILE, "erasure/deletions"):
            told = {"name": "contract-change", "resource": resource, "state": "alarm", "detail": HOSTILE, "metric": ""}
            house.ask("publish", topic="headwater/alarms", data=told)
        house.put_object("directory/drops", "staff/bad.csv", BAD_FILE, "text/csv")
        house.ask("clock-advance", duration="1m")
        with httpx.Client(base_url=house.url) as http:
            for _ in range(5):
                assert http.get("/catalog/products").status_code == 200
        assert house.ask("clock-advance", duration="5m")["busy"] == ""
        yield house


def text(page: Chromium, selector: str = "main") -> str:
    found = page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    return re.sub(r"\s+", " ", found)


def press(page: Chromium, label: str, within: str = "main") -> None:
    buttons = f"[...document.querySelectorAll({json.dumps(f'{within} button')})]"
    page.evaluate(f"{buttons}.find(b => b.textContent.trim() === {json.dumps(label)}).click()")


def say_yes(page: Chromium) -> None:
    page.until("document.getElementById('confirm').open")
    page.evaluate("document.querySelector('#confirm [value=yes]').click()")


def until_said(page: Chromium, words: str, selector: str = "main") -> None:
    page.until(f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(words)})")


def operation(house: ConsoleHouse, subject: str) -> dict[str, Any]:
    found: dict[str, Any] = house.ask("op-show", kind=KIND, subject=subject)["operations"][0]
    return found


def test_an_operation_is_called_now_and_ended(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/operations")
    assert "Connection refused" in text(page, f"[data-part='{KIND}']")
    before = operation(moved, "c0")["attempts"]
    press(page, "Call now", "tr:has(a[href$='subject=c0'])")
    until_said(page, "done", "#toasts")
    moved.ask("clock-run-until-idle")
    assert operation(moved, "c0")["attempts"] > before
    page.open(f"{moved.console}/operations/{KIND}?subject=c0")
    assert "Idempotency key" in text(page)
    press(page, "End it here")
    say_yes(page)
    until_said(page, "cancelled", "h1")
    assert operation(moved, "c0")["state"] == "cancelled"
    page.open(f"{moved.console}/operations?state=cancelled")
    assert "c0" in text(page, f"[data-part='{KIND}']")
    assert "c1" not in text(page, f"[data-part='{KIND}']")


def test_a_schedule_is_paused_resumed_and_run_with_parameters(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/schedules")
    assert re.search(r"every hour in \d+ (min|s)", text(page))
    press(page, "Pause")
    until_said(page, "paused", "[data-part=schedules]")
    page.open(f"{moved.console}/schedules/erasure/poll")
    assert "none while it is paused" in text(page)
    press(page, "Resume")
    until_said(page, "Pause", "[data-part=buttons]")
    assert re.search(r"Next in \d", text(page, "[data-part=facts]"))
    assert page.evaluate("document.querySelectorAll('[data-part=ahead] tbody tr').length") == 10
    page.evaluate("document.querySelector('[name=parameters]').value = '{\"why\": \"a test\"}'")
    press(page, "Run now")
    until_said(page, "a test", "[data-part=ticks]")
    ticks = moved.ask("tail", source="erasure/poll")["events"]
    assert ticks[-1]["data"]["parameters"] == {"why": "a test"}


def test_a_threshold_is_drawn_over_what_is_measured(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/alarms")
    assert page.evaluate("document.querySelectorAll('[data-part=charts] svg .threshold').length") >= 1
    page.evaluate("[...document.querySelectorAll('td a')].find(a => a.textContent === 'dead-letters').click()")
    page.until("location.pathname === '/alarms/one'")
    page.until("document.readyState === 'complete'")
    chart = "document.querySelector('[data-part=chart] svg')"
    assert "dead letters of directory/load-staff, above 0" in page.evaluate(f"{chart}.getAttribute('aria-label')")
    assert "threshold above 0" in page.evaluate(f"{chart}.getAttribute('aria-label')")
    assert re.search(r"M[\d.]+", page.evaluate(f"{chart}.querySelector('.curve').getAttribute('d')"))
    assert "dead letters of directory/load-staff is 1" in text(page, "[data-part=history]")


def test_an_alarm_that_nothing_measures_is_cleared(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/alarms?q=erasure")
    assert page.evaluate("document.querySelectorAll('[data-part=alarms] tbody tr').length") == 1
    press(page, "Clear", "[data-part=alarms]")
    say_yes(page)
    until_said(page, "cleared by hand", "[data-part=alarms]")
    page.open(f"{moved.console}/alarms?state=alarm")
    assert HOSTILE in text(page, "[data-part=alarms]")
    assert page.evaluate("window.hacked") is None


def test_a_mail_is_shown_as_it_was_sent_and_runs_nothing(page: Chromium, moved: ConsoleHouse) -> None:
    mail = {
        "id": "0" * 32 + "-0",
        "queue": "catalog/mail",
        "to": "ann@example.org",
        "subject": f"Dear {HOSTILE}",
        "text": f"Dear {HOSTILE}",
        "html": MAIL,
        "state": "sent",
        "created_ms": 1,
        "events": [],
        "traces": [],
    }
    moved.ask("table-put", table="headwater/mails", value=mail)
    page.open(f"{moved.console}/mail?state=sent")
    assert HOSTILE in text(page)
    page.open(f"{moved.console}/mail/{mail['id']}")
    assert page.evaluate("document.querySelector('.letter-text').textContent") == mail["text"]
    page.evaluate("document.querySelector('iframe').scrollIntoView()")
    page.until("performance.getEntriesByName(document.querySelector('iframe').src).length === 1")
    targets = page.call("Target.getTargets")["targetInfos"]
    assert [one["url"] for one in targets if one["type"] == "iframe"] == [f"{moved.console}/mail/{mail['id']}/html"]
    assert page.evaluate("window.hacked") is None
    answer = httpx.get(f"{moved.console}/mail/{mail['id']}/html")
    assert answer.text == MAIL
    policy = answer.headers["Content-Security-Policy"]
    assert "sandbox;" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    page.events.clear()  # the browser told that it did not run the script


def test_endpoints_have_rates_latencies_and_charts(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/apis?app=catalog")
    row = "[...document.querySelectorAll('tbody tr')].find(r => r.textContent.includes('GET /catalog/products'))"
    cells = page.evaluate(f"[...{row}.cells].map(cell => cell.innerText.trim())")
    assert cells[2] == "5"
    assert re.fullmatch(r"[\d.]+ ms", cells[5])
    page.evaluate(f"{row}.querySelector('a').click()")
    page.until("location.pathname === '/apis/endpoint' && document.querySelectorAll('.chart').length >= 2")
    assert "at most 5" in text(page, "[data-part=charts]")


def test_a_key_is_created_shown_once_rotated_and_revoked(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/keys")
    for name, value in {"name": HOSTILE, "roles": "data.read data.write"}.items():
        page.evaluate(f"document.querySelector('form[data-makes-key] [name={name}]').value = {json.dumps(value)}")
    page.evaluate("document.querySelector('form[data-makes-key] [name=plan]').value = 'subscriber'")
    press(page, "Create")
    page.until("!document.querySelector('[data-shown]').hidden")
    first = page.evaluate("document.querySelector('[data-shown] pre').textContent")
    (key,) = [one for one in moved.ask("keys")["keys"] if one["name"] == HOSTILE]
    assert key["roles"] == ["data.read", "data.write"]
    with httpx.Client(base_url=moved.url, headers={"X-Api-Key": first}) as http:
        assert http.get("/directory/departments").status_code == 200
    page.open(f"{moved.console}/keys")
    row = f"#key-{key['id']}"
    assert first not in page.evaluate("document.documentElement.outerHTML")
    assert "9\u202f999 of 10\u202f000 left this day" in page.evaluate(f"document.querySelector('{row}').innerText")
    press(page, "Rotate", row)
    say_yes(page)
    page.until("document.querySelector('[data-shown] pre').textContent")
    assert page.evaluate("document.querySelector('[data-shown] pre').textContent") != first
    press(page, "Revoke", row)
    say_yes(page)
    until_said(page, "revoked", row)
    assert httpx.get(f"{moved.url}/directory/departments", headers={"X-Api-Key": first}).status_code == 401
    assert page.evaluate("window.hacked") is None


def test_without_scripts_a_new_key_has_a_page_of_its_own(moved: ConsoleHouse) -> None:
    with httpx.Client(base_url=moved.console) as http:
        (token,) = set(re.findall(r'name="csrf" value="(\w+)"', http.get("/keys").text))
        sent = {"csrf": token, "back": "/keys", "name": "bob", "plan": "", "roles": "", "tenant": "", "expires": ""}
        answer = http.post("/actions/key-create", data=sent)
    assert answer.status_code == 200
    assert re.search(r"<pre[^>]*>hw_\S+</pre>", answer.text)


def test_all_series_have_charts(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/metrics?name=http_request_duration_seconds&q=catalog")
    assert "GET /catalog/products" in text(page, "[data-part=charts]")
    assert page.evaluate("document.querySelectorAll('.chart .curve').length") == 3


def test_time_is_paused_moved_and_goes_on(page: Chromium, moved: ConsoleHouse) -> None:
    page.open(f"{moved.console}/clock")
    press(page, "Pause")
    until_said(page, "stands still", "[data-part=clock]")
    before = moved.ask("clock-show")
    fired = moved.ask("schedules")["schedules"][0]["fired"]
    press(page, "+1 hour")
    until_said(page, "It is ", "[data-told]")
    after = moved.ask("clock-show")
    assert after["running"] is False
    assert round((after["ahead_ms"] - before["ahead_ms"]) / 60_000) in (59, 60)
    assert moved.ask("schedules")["schedules"][0]["fired"] == fired + 1
    press(page, "Run until idle")
    press(page, "Resume")
    until_said(page, "runs", "[data-part=clock]")


def test_a_server_with_the_machines_clock_refuses_to_move_it(page: Chromium, house: ConsoleHouse) -> None:
    page.open(f"{house.console}/clock")
    assert "headwater run --virtual-clock" in text(page)
    with httpx.Client(base_url=house.console) as http:
        (token,) = set(re.findall(r'name="csrf" content="(\w+)"', http.get("/clock").text))
        answer = http.post("/actions/clock-pause", data={"csrf": token})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "path", ["/operations", "/schedules", "/alarms", "/mail", "/apis", "/keys", "/metrics", "/clock"]
)
def test_no_page_scrolls_sideways_on_a_phone(page: Chromium, moved: ConsoleHouse, path: str) -> None:
    show(page, 390, "dark")
    page.open(moved.console + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

"""The intake app's page in a real browser, against a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli
from tests.browser.chromium import NAMES, PATIENCE_S, Chromium

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs(*NAMES, package="chromium")
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
RATE = "rate = 10"
ROLES = ("--role", "data.read", "--role", "data.write")


class Intake:
    """The app served from a folder of its own, and tokens for it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.url = f"{url}/intake/"

    def token(self, user: str) -> str:
        return cli(self._folder, "token", user, *ROLES).ok().out.strip()

    def post(self, token: str, *readings: tuple[str, str]) -> httpx.Response:
        body = [{"informationOne": one, "informationTwo": two} for one, two in readings]
        return httpx.post(f"{self.url}data", json=body, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def intake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    folder = tmp_path_factory.mktemp("intake")
    (folder / "apps").symlink_to(ROOT / "apps")
    settings = (ROOT / "headwater.toml").read_text("utf-8")
    assert RATE in settings
    (folder / "headwater.toml").write_text(settings.replace(RATE, "rate = 0.25"))  # so that 429 does not pass at once
    with Serving(folder, "apps.intake.app", "--port", "0") as serving:
        yield Intake(folder, serving.url)
        assert serving.stop() == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def tab(browser: Chromium, intake: Intake) -> Iterator[Chromium]:
    browser.open_tab()
    browser.open(intake.url)
    yield browser
    assert browser.complaints() == []


def log_in(tab: Chromium, token: str) -> None:
    tab.until("document.activeElement.id === 'token'")
    tab.type(token)
    tab.press("Enter")
    tab.until("!document.getElementById('list').hidden && document.getElementById('place').textContent !== ''")


def send(tab: Chromium, one: str, two: str) -> None:
    """With the keyboard, from the first field that has the focus."""
    tab.until("document.activeElement.id === 'one'")
    tab.type(one)
    tab.press("Tab")
    tab.type(two)
    tab.press("Enter")


def text_of(tab: Chromium, id: str) -> str:
    return str(tab.evaluate(f"document.getElementById({json.dumps(id)}).innerText"))


def items(tab: Chromium) -> list[list[str]]:
    """The first two texts of each item on the page."""
    found: list[list[str]] = tab.evaluate(
        "[...document.querySelectorAll('#items li')].map(li => [...li.children].slice(0, 2).map(p => p.textContent))"
    )
    return found


def wait_for_items(intake: Intake, token: str, count: int) -> None:
    end = time.monotonic() + PATIENCE_S
    headers = {"Authorization": f"Bearer {token}"}
    while len(httpx.get(f"{intake.url}data", headers=headers).json()["items"]) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def requests(tab: Chromium, method: str) -> list[dict[str, Any]]:
    sent = [event["params"]["request"] for event in tab.events if event["method"] == "Network.requestWillBeSent"]
    return [request for request in sent if request["method"] == method]


def test_log_in_send_and_list_with_the_keyboard_alone(tab: Chromium, intake: Intake) -> None:
    assert tab.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") == "704px"
    log_in(tab, intake.token("kay"))
    assert text_of(tab, "who") == "kay (data.read, data.write)"
    assert text_of(tab, "place") == "Nothing yet"
    send(tab, "Door 7 opened", "südlich")
    tab.until("document.querySelectorAll('#items li').length === 1")
    assert items(tab) == [["Door 7 opened", "südlich"]]
    assert text_of(tab, "sent").startswith("Stored as ")
    send(tab, "Door 7 opened", "südlich")
    tab.until("document.querySelectorAll('#items li').length === 2")
    assert items(tab) == [["Door 7 opened", "südlich"]] * 2
    keys = [request["headers"]["Idempotency-Key"] for request in requests(tab, "POST")]
    assert len(set(keys)) == 2


def test_data_is_shown_as_text_whatever_it_says(tab: Chromium, intake: Intake) -> None:
    token = intake.token("eve")
    log_in(tab, token)
    send(tab, HOSTILE, HOSTILE)
    tab.until("document.querySelectorAll('#items li').length === 1")
    assert items(tab) == [[HOSTILE, HOSTILE]]
    assert tab.evaluate("document.querySelectorAll('#items img, #items script').length") == 0
    assert tab.evaluate("window.hacked === undefined")


def test_the_policy_stops_what_the_page_would_not_do(tab: Chromium, intake: Intake) -> None:
    put = f"document.body.insertAdjacentHTML('beforeend', {json.dumps(HOSTILE)})"
    assert tab.evaluate(f"(() => {{ try {{ {put}; return 'put'; }} catch (e) {{ return e.name; }} }})()") == "TypeError"
    called = tab.evaluate("fetch('http://127.0.0.1:9/').then(() => 'called', () => 'refused')")
    assert called == "refused"
    headers = httpx.get(intake.url).headers
    assert [headers.get_list(name) for name in ("x-content-type-options", "referrer-policy")] == [
        ["nosniff"],
        ["no-referrer"],
    ]
    html, *fetched = tab.complaints()
    assert "TrustedHTML" in html
    assert fetched
    assert all("Content Security Policy" in text for text in fetched)
    tab.events.clear()


def test_each_sees_its_own_and_logging_out_leaves_nothing(tab: Chromium, intake: Intake) -> None:
    first, second = intake.token("ann"), intake.token("bob")
    log_in(tab, first)
    send(tab, "of ann", "hers")
    tab.until("document.querySelectorAll('#items li').length === 1")
    assert tab.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    tab.open(f"{intake.url}?again")
    tab.until("document.querySelectorAll('#items li').length === 1")
    tab.evaluate("document.getElementById('one').value = 'not sent'; document.getElementById('leave').click()")
    assert tab.evaluate("sessionStorage.length") == 0
    assert "of ann" not in tab.evaluate("document.documentElement.outerHTML")
    log_in(tab, second)
    assert items(tab) == []
    assert tab.evaluate("document.getElementById('one').value") == ""


def test_pages_lead_back_and_forth(tab: Chromium, intake: Intake) -> None:
    token = intake.token("pia")
    assert intake.post(token, *((f"reading {n}", "-") for n in range(23))).status_code == 202
    wait_for_items(intake, token, 23)
    log_in(tab, token)
    pages: list[list[list[str]]] = []
    for page in (1, 2, 3):
        tab.until(f"document.getElementById('place').textContent === 'Page {page}'")
        pages.append(items(tab))
        assert tab.evaluate("document.getElementById('newer').disabled") is (page == 1)
        assert tab.evaluate("document.getElementById('older').disabled") is (page == 3)
        tab.evaluate("document.getElementById('older').click()")
    assert [len(page) for page in pages] == [10, 10, 3]
    assert len({one for page in pages for one, _ in page}) == 23
    for page in (2, 1):
        tab.evaluate("document.getElementById('newer').click()")
        tab.until(f"document.getElementById('place').textContent === 'Page {page}'")
        assert items(tab) == pages[page - 1]


def test_errors_are_told_as_they_come(tab: Chromium, intake: Intake) -> None:
    tab.until("document.activeElement.id === 'token'")
    tab.type("no token")
    tab.press("Enter")
    tab.until("document.getElementById('login-problem').innerText.includes('This is no token')")
    token = intake.token("max")
    head, payload, signature = token.split(".")
    tab.type(f"{head}.{payload}.{signature[::-1]}")
    tab.press("Enter")
    tab.until("document.getElementById('login-problem').innerText.includes('401 Unauthorized')")
    assert "Request " in text_of(tab, "login-problem")
    log_in(tab, token)
    assert text_of(tab, "login-problem") == ""
    for _ in range(60):
        if intake.post(token, ("a", "b")).status_code == 429:
            break
    send(tab, "one too many", "b")
    tab.until("document.getElementById('send-problem').innerText.match(/Try again in [1-4] s, at /)")
    told = text_of(tab, "send-problem")
    assert "429 Too Many Requests" in told
    assert "Request " in told
    end = time.monotonic() + PATIENCE_S
    while not text_of(tab, "sent"):
        assert time.monotonic() < end, text_of(tab, "send-problem")
        tab.press("Enter")
        time.sleep(0.1)
    assert text_of(tab, "send-problem") == ""
    assert len({request["headers"]["Idempotency-Key"] for request in requests(tab, "POST")}) == 1


def test_a_lost_answer_is_sent_again_with_its_key_and_is_one_reading(tab: Chromium, intake: Intake) -> None:
    log_in(tab, intake.token("liv"))
    tab.evaluate(
        """window.real = window.fetch;
        window.fetch = async (path, options) => {
          const answer = await window.real(path, options);
          if (options.method === "POST") throw new TypeError("the connection was lost");
          return answer;
        }; 0"""
    )
    send(tab, "once", "only")
    tab.until("document.getElementById('send-problem').innerText.includes('did not answer')")
    assert tab.evaluate("document.getElementById('one').value") == "once"
    tab.evaluate("window.fetch = window.real; 0")
    tab.press("Enter")
    tab.until("document.getElementById('sent').innerText.startsWith('Stored')")
    tab.until("document.querySelectorAll('#items li').length === 1")
    keys = [request["headers"]["Idempotency-Key"] for request in requests(tab, "POST")]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert text_of(tab, "send-problem") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_light_and_dark(tab: Chromium, intake: Intake, scheme: str) -> None:
    token = intake.token(f"narrow-{scheme}-{'x' * 60}")
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert intake.post(token, ("wide" * 200, "W" * 400)).status_code == 202
    wait_for_items(intake, token, 1)
    log_in(tab, token)
    tab.until("document.querySelectorAll('#items li').length === 1")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert contrast(tab, "body", "body") >= 7
    for selector, over in ((".quiet", "section"), ("#send-form button", "#send-form button"), ("#reload", "section")):
        assert contrast(tab, selector, over) >= 4.5


def contrast(tab: Chromium, text: str, background: str) -> float:
    """The contrast ratio of WCAG 2 between the colour of one element and the background of another."""

    def luminance(selector: str, name: str) -> float:
        style = f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}"
        parts = [int(part) / 255 for part in tab.evaluate(f"{style}.match(/\\d+/g).slice(0, 3)")]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(text, "color"), luminance(background, "backgroundColor")))
    return (light + 0.05) / (dark + 0.05)

"""Who gets into the console: hosts, sessions, tokens, JWTs, roles, forms of other sites, sizes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import jwt
import pytest

from headwater import App
from headwater.config import Config, Console
from headwater.console.application import Console as Pages
from headwater.console.application import make_console
from headwater.console.guard import COOKIE, SESSION_S, ConsoleSettings, Guard, Verified
from headwater.console.serving import ServedHouse, console_of, console_settings
from headwater.console.stream import Stream
from headwater.errors import DeclarationError, Forbidden, Unauthenticated
from headwater.http.admin import MAX_BODY
from headwater.http.issuers import Issuer
from headwater.http.tokens import TokenVerifier
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.testing import Harness, VirtualClock

OPERATOR, VIEWER = "operator-token-of-32-characters-", "viewer-token-of-32-characters---"
TOKENS = ConsoleSettings(tokens={OPERATOR: "operator", VIEWER: "viewer"})
SECRET = "a secret of the login that is long enough"


def declare() -> App[None]:
    app: App[None] = App("shop")
    app.queue("jobs", dict)
    app.table("rows", dict, key="id")
    app.bucket("files")
    return app


def admin_of(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor, clock=h.clock)


@asynccontextmanager
async def served(h: Harness, guard: Guard) -> AsyncIterator[httpx.AsyncClient]:
    house = ServedHouse(admin_of(h))
    app = make_console(house, guard, Stream(house, h.clock))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


async def signed_in(http: httpx.AsyncClient, token: str) -> dict[str, str]:
    answer = await http.post("/sign-in", data={"token": token})
    assert answer.status_code == 303, answer.text
    http.cookies.clear()
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def csrf_of(guard: Guard, headers: dict[str, str]) -> str:
    visitor = guard.visitor(headers["Cookie"].partition("=")[2].strip('"'))
    assert visitor is not None
    return visitor.csrf


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8001", True),
        ("127.0.0.1:8001", True),
        ("[::1]:8001", True),
        ("console.example", True),
        ("evil.test", False),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test", False),
        ("10.0.0.5", False),
        ("", False),
    ],
)
def test_hosts(host: str, known: bool) -> None:
    guard = Guard(ConsoleSettings(hosts=("console.example",), tokens=TOKENS.tokens))
    if known:
        guard.check_host(host)
        return
    with pytest.raises(Forbidden):
        guard.check_host(host)


def test_an_address_for_all_is_reached_by_addresses_but_not_by_foreign_names() -> None:
    guard = Guard(ConsoleSettings(host="0.0.0.0", tokens=TOKENS.tokens))
    guard.check_host("10.0.0.5:8001")
    guard.check_host("[fd00::1]:8001")
    with pytest.raises(Forbidden):
        guard.check_host("rebound.evil.test")


@pytest.mark.parametrize(
    "settings", [ConsoleSettings(host="0.0.0.0"), ConsoleSettings(host="10.0.0.5"), ConsoleSettings(hosts=("a.test",))]
)
def test_nobody_is_let_in_from_elsewhere_without_signing_in(settings: ConsoleSettings) -> None:
    with pytest.raises(DeclarationError, match="open to everybody"):
        Guard(settings)

    async def verify(token: str) -> Verified:
        raise Unauthenticated("no")

    assert not Guard(settings, verify).open
    assert Guard(ConsoleSettings()).open


async def test_a_session_ends_with_its_time_with_its_token_and_when_one_signs_out() -> None:
    clock = VirtualClock()
    now_s = clock.wall_ms() // 1000

    async def verify(token: str) -> Verified:
        return Verified("änn|\0;", frozenset({"console.viewer"}), now_s + 60)

    guard = Guard(TOKENS, verify, clock)
    long, short = await guard.sign_in(OPERATOR), await guard.sign_in("a JWT")
    assert short.isascii()
    seen = guard.visitor(short)
    assert seen is not None
    assert (seen.name, seen.role) == ("änn|\0;", "viewer")
    clock.step(timedelta(seconds=61))
    assert guard.visitor(short) is None
    assert guard.visitor(long) is not None
    guard.sign_out(long)
    assert guard.visitor(long) is None
    other = await guard.sign_in(OPERATOR)
    clock.step(timedelta(seconds=1))
    assert guard.visitor(await guard.sign_in(OPERATOR)) is not None
    clock.step(timedelta(seconds=SESSION_S))
    assert guard.visitor(other) is None


async def test_a_session_cannot_be_made_up() -> None:
    guard, foreign = Guard(TOKENS), Guard(TOKENS)
    cookie = await guard.sign_in(VIEWER)
    assert guard.visitor(cookie) is not None
    raised = cookie.replace("|viewer|", "|operator|")
    later = cookie.split("|")
    later[2] = str(int(later[2]) + 1)
    for forged in (raised, "|".join(later), await foreign.sign_in(VIEWER), cookie[:-1], "", "|||", "ä|ö|ü|é", None):
        assert guard.visitor(forged) is None
    for token in ("", "x", VIEWER[:-1], VIEWER + "x", "ä"):
        with pytest.raises(Unauthenticated):
            await guard.sign_in(token)


async def test_sign_in_with_tokens_of_an_issuer(harness: StartHarness) -> None:
    h = await harness(declare())
    issuer = Issuer(issuer="login", audience="console", secret=SECRET)
    verifier = TokenVerifier({"login": issuer}, h.clock, {})
    settings = Config(console=Console(address="10.0.0.5:8001", hosts=("localhost",)))
    app, _ = console_of(ServedHouse(admin_of(h)), settings, h.clock, verifier.verify)
    now_s = h.clock.wall_ms() // 1000

    def minted(role: str, secret: str = SECRET, lives_s: int = 60) -> str:
        claims = {"iss": "login", "aud": "console", "sub": "ann", "roles": [role], "exp": now_s + lives_s}
        return jwt.encode(claims, secret, "HS256")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        page = await http.get("/queues", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in?back=/queues")
        for token in (minted("console.operator", SECRET[::-1]), minted("console.operator", lives_s=-60), minted("x")):
            assert (await http.post("/sign-in", data={"token": token})).status_code == 401
        viewer = await signed_in(http, minted("console.viewer"))
        assert "ann (viewer)" in (await http.get("/queues", headers=viewer)).text
        operator = await signed_in(http, minted("console.operator"))
        assert "ann (operator)" in (await http.get("/queues", headers=operator)).text
        await h.advance(seconds=61)
        assert (await http.get("/queues", headers=operator)).status_code == 401
    await verifier.close()


async def test_viewers_do_nothing_that_writes(harness: StartHarness) -> None:
    h = await harness(declare())
    guard = Guard(TOKENS)
    operations = admin_of(h).describe()
    writing = [one["operation"] for one in operations if one["writes"]]
    assert len(writing) > 20
    async with served(h, guard) as http:
        viewer = await signed_in(http, VIEWER)
        headers = {**viewer, "X-CSRF": csrf_of(guard, viewer)}
        for operation in [*writing, "bucket-presign"]:
            for way in ("actions", "ask"):
                answer = await http.post(f"/{way}/{operation}", json={}, headers=headers)
                assert (operation, answer.status_code) == (operation, 403)
        assert (await http.post("/ask/queues", json={}, headers=headers)).status_code == 200
        operator = await signed_in(http, OPERATOR)
        headers = {**operator, "X-CSRF": csrf_of(guard, operator)}
        assert (await http.post("/actions/pause", json={"queue": "shop/jobs"}, headers=headers)).status_code == 303
        assert (await http.post("/ask/pause", json={"queue": "shop/jobs"}, headers=headers)).status_code == 403


async def test_forms_of_other_sites_are_refused(harness: StartHarness) -> None:
    h = await harness(declare())
    guard = Guard(TOKENS)
    async with served(h, guard) as http:
        operator, viewer = await signed_in(http, OPERATOR), await signed_in(http, VIEWER)
        good = {**operator, "X-CSRF": csrf_of(guard, operator)}
        asked = {"queue": "shop/jobs"}
        for wrong in (
            operator,
            {**operator, "X-CSRF": csrf_of(guard, viewer)},
            {**good, "Origin": "http://evil.test"},
            {**good, "Origin": "null"},
            {**good, "Origin": "http://localhost:9"},
            {**good, "Host": "evil.test"},
        ):
            assert (await http.post("/actions/pause", json=asked, headers=wrong)).status_code == 403
            assert (await http.post("/ask/queues", json={}, headers=wrong)).status_code == 403
            assert (await http.post("/actions/pause", data=asked, headers=wrong)).status_code == 403
            assert (await http.post("/sign-out", headers=wrong)).status_code == 403
        foreign = await http.post("/sign-in", data={"token": OPERATOR}, headers={"Origin": "http://evil.test"})
        assert foreign.status_code == 403
        assert (await http.post("/actions/pause", json=asked, headers={"X-CSRF": good["X-CSRF"]})).status_code == 401
        same = {**good, "Origin": "http://localhost"}
        assert (await http.post("/actions/pause", json=asked, headers=same)).status_code == 303
        fields = {**asked, "csrf": good["X-CSRF"], "back": "//evil.test"}
        answer = await http.post("/actions/resume", data=fields, headers=operator)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_every_answer_has_its_headers_and_no_error_tells_more_than_it_should(
    harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = await harness(declare())

    async def fail(*_: object) -> None:
        raise RuntimeError("the inner state")

    monkeypatch.setattr(Pages, "listen", fail)
    async with served(h, Guard(ConsoleSettings())) as http:
        for method, path, status in (
            ("GET", "/queues", 200),
            ("HEAD", "/queues", 200),
            ("GET", "/nothing", 404),
            ("GET", "/queues/shop/none", 404),
            ("GET", "/static/console.css", 200),
            ("GET", "/static/..%2fguard.py", 404),
            ("GET", "/static/%2e%2e/%2e%2e/guard.py", 404),
            ("GET", "/static/%00.css", 404),
            ("GET", "/static/..%5c..%5cguard.css", 404),
            ("GET", "/stream", 500),
        ):
            for accepted in ("text/html", "*/*"):
                answer = await http.request(method, path, headers={"Accept": accepted})
                assert (path, answer.status_code) == (path, status)
                assert "the inner state" not in answer.text
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["x-frame-options"] == "DENY"
                assert answer.headers["x-content-type-options"] == "nosniff"


async def test_what_a_request_sends_is_limited_and_judged(harness: StartHarness) -> None:
    h = await harness(declare())
    guard = Guard(ConsoleSettings())
    token = csrf_of(guard, {"Cookie": f"{COOKIE}=x"})
    json_type = {"X-CSRF": token, "Content-Type": "application/json"}
    async with served(h, guard) as http:
        for content in (b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000):
            assert (await http.post("/ask/queues", content=content, headers=json_type)).status_code == 422
        large = b'{"queue": "' + b"x" * MAX_BODY + b'"}'
        assert (await http.post("/ask/queues", content=large, headers=json_type)).status_code == 413
        assert (await http.post("/actions/pause", data={"queue": "x" * MAX_BODY})).status_code == 413
        assert (await http.post("/sign-in", data={"token": "x" * MAX_BODY})).status_code == 413
        broken = {"Content-Type": "multipart/form-data"}
        assert (await http.post("/actions/pause", content=b"x", headers=broken)).status_code == 400


async def test_head_of_the_stream_ends(harness: StartHarness) -> None:
    h = await harness(declare())
    async with served(h, Guard(ConsoleSettings())) as http:
        answer = await http.head("/stream", timeout=5)
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")


async def test_a_cookie_over_tls_is_for_tls_only(harness: StartHarness) -> None:
    h = await harness(declare())
    async with served(h, Guard(TOKENS)) as http:
        plain = await http.post("/sign-in", data={"token": VIEWER})
        safe = await http.post("https://localhost/sign-in", data={"token": VIEWER})
    assert "Secure" not in plain.headers["set-cookie"]
    for part in ("Secure", "HttpOnly", "SameSite=strict"):
        assert part in safe.headers["set-cookie"]


def test_tokens_come_from_variables_and_are_long() -> None:
    console = Console(address="10.0.0.5:8001", tokens={"env:OPS": "operator", VIEWER: "viewer"})
    settings = console_settings(console, {"OPS": OPERATOR})
    assert settings.tokens == {OPERATOR: "operator", VIEWER: "viewer"}
    with pytest.raises(DeclarationError, match="OPS is not set"):
        console_settings(console, {})
    with pytest.raises(DeclarationError, match="16 characters") as refused:
        console_settings(console, {"OPS": "guess me"})
    assert "guess me" not in str(refused.value)

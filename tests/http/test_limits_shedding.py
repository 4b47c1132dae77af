"""Load shedding: as many requests run as may; the others cost next to nothing, and health is always answered."""

from __future__ import annotations

import asyncio
import time

import pytest

from headwater.http.front import Front
from tests.http.sockets import Served, get, post, served
from tests.http.test_limits_protocol import Recording


@pytest.fixture
def app() -> Recording:
    return Recording()


@pytest.fixture
def front(app: Recording) -> Front:
    made = Front()
    made.apps = {"app": app, "wait": app}
    made.unready = ""
    return made


async def fill(server: Served, requests: int) -> None:
    for _ in range(requests):
        (await server.connect()).send(get("/wait"))
    await server.until(running=requests)


async def test_a_request_too_many_is_503_before_it_costs_anything(app: Recording, front: Front) -> None:
    async with served(front, requests=2) as server:
        await fill(server, 2)
        wire = await server.connect()
        answer = await wire.ask(post(b'{"n": 1}', path="/app"))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.problem["error"] == "Overloaded"
        assert answer.problem["retryable"] is True
        assert answer.problem["hint"]
        assert len(server.listener.server_state.tasks) == 2
        app.go.set()
        await server.until(running=0)
        assert (await wire.ask(get("/app"))).status == 200
        assert server.listener.edge.shed == 1


async def test_every_refusal_has_a_request_id_of_its_own(app: Recording, front: Front) -> None:
    async with served(front, requests=1, headers=1000) as server:
        await fill(server, 1)
        refused = [await server.get("/app") for _ in range(2)]
        refused += [await (await server.connect()).ask(get("/", "X: " + "x" * 2000)), await server.get("/nowhere")]
        app.go.set()
        await server.until(running=0)
        refused.append(await server.get("/nowhere"))
        assert [answer.status for answer in refused] == [503, 503, 431, 503, 404]
        ids = [answer.problem["request_id"] for answer in refused]
        assert ids == [answer.headers["headwater-trace"] for answer in refused]
        assert len(set(ids)) == 5


async def test_who_does_not_wait_is_not_read_until_the_second_is_over(app: Recording, front: Front) -> None:
    async with served(front, requests=1) as server:
        await fill(server, 1)
        wire = await server.connect()
        begun = time.monotonic()
        for _ in range(3):
            assert (await wire.ask(get("/app"))).status == 503
        assert time.monotonic() - begun > 1.9
        assert server.listener.edge.shed == 3
        app.go.set()
        await server.until(running=0)
        assert (await wire.ask(get("/app"))).status == 200


async def test_health_has_a_lane_of_its_own(app: Recording, front: Front) -> None:
    async with served(front, requests=1) as server:
        await fill(server, 1)
        for path in ("/live", "/ready", "/live?full"):
            assert (await server.get(path)).status == 200
        assert (await server.get("/app")).status == 503
        front.unready = "the store failed"
        answer = await server.get("/ready")
        assert answer.status == 503
        assert answer.problem["detail"] == "the store failed"
        assert (await server.get("/live")).status == 200
        app.go.set()


@pytest.mark.parametrize("how", ["split", "chunked", "large", "expect", "pipelined", "close", "upgrade"])
async def test_the_body_of_a_shed_request_is_never_a_request(app: Recording, front: Front, how: str) -> None:
    hidden = get("/app/smuggled")
    chunked = b"POST /app/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    first, second = {
        "split": (post(hidden, path="/app/x")[: -len(hidden)], hidden),
        "chunked": (chunked, b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)),
        "large": (post(b"x" * 3_000_000, path="/app/x"), hidden),
        "expect": (post(hidden, "Expect: 100-continue", path="/app/x")[: -len(hidden)], hidden),
        "pipelined": (get("/app/x") + hidden, b""),
        "close": (get("/app/x", "Connection: close"), hidden),
        "upgrade": (get("/app/x", "Connection: Upgrade", "Upgrade: websocket"), hidden),
    }[how]
    async with served(front, requests=1) as server:
        await fill(server, 1)
        wire = await server.connect()
        assert (await wire.ask(first)).status == 503
        app.go.set()
        await server.until(running=0)
        wire.send(second)
        if how in ("split", "chunked"):
            await server.until_true(lambda: any(one.flow.read_paused for one in server.connections))
            assert (await wire.ask(get("/app/after"))).status == 200
        else:
            assert await wire.closed() == b""
        assert "/app/smuggled" not in app.paths
        assert (await server.get("/app")).status == 200


async def test_a_shed_body_that_never_ends_is_cut_off(app: Recording, front: Front) -> None:
    async with served(front, requests=1) as server:
        await fill(server, 1)
        wire = await server.connect()
        assert (await wire.ask(post(b"abcd", path="/app")[:-1])).status == 503
        assert await wire.closed() == b""
        app.go.set()


async def test_a_pipelined_request_takes_over_the_place_of_the_one_before_it(app: Recording, front: Front) -> None:
    async with served(front, requests=1) as server:
        wire = await server.connect()
        wire.send(get("/wait") + get("/app"))
        await server.until(running=1)
        app.go.set()
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]


async def test_goodput_stays_when_clients_do_not_wait(front: Front) -> None:
    """Three times as many clients as requests may run, all sending at once: as much is done as without them."""

    async def slow(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0.01)
        await Recording()(scope, receive, send)

    front.apps = {"app": slow}

    async def done(clients: int) -> int:
        async with served(front, requests=8) as server:
            end = time.monotonic() + 1.2
            good = 0

            async def client() -> None:
                nonlocal good
                wire = await server.connect()
                while time.monotonic() < end:
                    answer = await wire.ask(get("/app"))
                    good += answer.status == 200

            await asyncio.gather(*(client() for _ in range(clients)))
            return good

    shares: list[float] = []
    while len(shares) < 8 and max(shares, default=0) <= 0.8:  # something else may take the machine's time
        shares.append(await done(24) / await done(8))
    assert max(shares) > 0.8, shares

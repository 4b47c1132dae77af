"""Two tenants: whatever one asks, on every route with every verb, is answered as if the other's rows did not exist.

The same requests go to two servers: one that the other has filled, and one that it has never reached. The routes are
those of the OpenAPI document, so that a new one is asked, too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headwater.engine import Query
from headwater.testing import Harness
from tests.security.two_tenants import PLAIN, ROLE, VERBS, accept, add_key, clients, fill, requests_of, shape, tenants

TABLES = ("own", "shared", "seats", "profile")
PLACES = {"/own", "/own/{id}", "/shared", "/shared/{id}", "/seats", "/seats/{number}", "/profile"}


class World:
    """A server, and the clients of those who ask."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.app: Any = h.apps[0]
        self.askers = clients(h)
        self.ann = h.client(self.app, token={"sub": "ann", "roles": [ROLE]}, headers=PLAIN)

    async def rows_of_ann(self) -> list[bytes]:
        """Her rows with their versions, as they are stored."""
        found = []
        for name in TABLES:
            records = (await self.h.supervisor.engine.query(Query(table=f"tenants/{name}", limit=10_000))).records
            found += [r.body + r.version.encode() for r in records if b'"user_id":"ann"' in r.body]
        return found

    async def seen_by_ann(self) -> list[bytes]:
        return [(await self.ann.get(f"/{name}")).content for name in TABLES]


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with Harness(tenants(), services={"partner.example": accept}) as h:
        await add_key(h)
        yield World(h)


@pytest.mark.parametrize("asker", ["bob", "carol"])
async def test_every_answer_is_as_if_the_other_did_not_exist(asker: str) -> None:
    async with world() as shared, world() as alone:
        known = await fill(shared.h, shared.ann, "ann")
        for each in (shared, alone):
            await fill(each.h, each.askers[asker], asker)
        rows, seen = await shared.rows_of_ann(), await shared.seen_by_ann()
        assert len(rows) == 7
        document = shared.app.http.openapi()
        assert set(document["paths"]) > PLACES
        statuses: Counter[tuple[str, int]] = Counter()
        for ask in requests_of(document, known):
            arguments: dict[str, Any] = {"headers": ask.headers, "content": ask.content}
            true = await shared.askers[asker].request(ask.verb, ask.url, **arguments)
            wanted = await alone.askers[asker].request(ask.verb, ask.url, **arguments)
            assert shape(true, known) == shape(wanted, known), ask
            statuses[ask.verb, true.status_code] += 1
        for each in (shared, alone):
            await each.h.run_until_idle()
        assert await own_rows(shared, asker, known) == await own_rows(alone, asker, known)
        assert await shared.rows_of_ann() == rows
        assert await shared.seen_by_ann() == seen
    assert_asked(statuses)


async def own_rows(of: World, asker: str, known: dict[str, Any]) -> list[Any]:
    answers = [await of.askers[asker].get(f"/{name}", params={"limit": 500}) for name in TABLES]
    return [shape(answer, known) for answer in answers]


def assert_asked(statuses: Counter[tuple[str, int]]) -> None:
    """That the requests were neither few nor all refused for the same reason."""
    assert statuses.total() > 3000
    assert {verb for verb, _ in statuses} == set(VERBS)
    for place in (("GET", 200), ("GET", 404), ("GET", 422), ("POST", 201), ("POST", 202), ("POST", 409), ("PUT", 404)):
        assert statuses[place], place
    for place in (("PATCH", 404), ("DELETE", 404), ("PUT", 412), ("PUT", 201), ("OPTIONS", 405), ("HEAD", 404)):
        assert statuses[place], place


async def test_the_owner_herself_is_answered_otherwise() -> None:
    """The same requests by ann herself find her rows: there is something to see."""
    async with world() as shared, world() as alone:
        known = await fill(shared.h, shared.ann, "ann")
        differences = 0
        for ask in requests_of(shared.app.http.openapi(), known):
            if ask.verb == "GET":
                answers = [await one.ann.get(ask.url, headers=ask.headers) for one in (shared, alone)]
                differences += len({str(shape(answer, known)) for answer in answers}) > 1
        assert differences > 100

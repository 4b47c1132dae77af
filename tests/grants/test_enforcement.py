"""What is not granted is refused: each call of each kind of resource, in handlers and in endpoints."""

from __future__ import annotations

import timeit
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from headwater import App, DeclarationError, Event, NotGranted, attempt, email, step, uses, wait
from headwater.http.require import anyone
from headwater.permits import VERBS, Guarded, Permit, acting, guard, verbs_of
from headwater.pytest_plugin import StartHarness
from headwater.testing import Harness


class Item(BaseModel):
    id: str = "1"


class Sources:
    """An app with a resource of each kind, and how each of its guarded calls is made."""

    def __init__(self) -> None:
        self.app = App("all")
        self.items = self.app.table("items", Item, key="id")
        self.topic = self.app.topic("topic", Item)
        self.queue = self.app.queue("queue", Item)
        self.bucket = self.app.bucket("bucket", versions=True)
        self.schedule = self.app.schedule("1d", name="daily")
        self.service = self.app.service("bank", base_url="http://bank.test")
        self.operation = self.app.operation("work", Item, Item, service=self.service, every="1h", overdue="1d")
        for declare in (self.operation.on_start, self.operation.on_poll):
            declare(self._ask)
        self.operation.on_answer(lambda _: "pending")
        self.app.expose(self.bucket, "/bucket")

    async def _ask(self, _: object) -> httpx.Response:
        return httpx.Response(200, json={"id": "1"})

    @property
    def resources(self) -> dict[str, Guarded]:
        found = (self.items, self.topic, self.queue, self.bucket, self.schedule, self.operation, self.service)
        return {resource.kind: resource for resource in found}

    def call(self, kind: str, name: str) -> Any:
        """Begin the call, as code would."""
        arguments: dict[tuple[str, str], tuple[Any, ...]] = {
            ("table", "put"): (Item(),),
            ("table", "query"): (),
            ("table", "load"): ([Item(id="2")],),
            ("table", "loads"): (),
            ("table", "erasures"): (),
            ("table", "replay"): (self.queue,),
            ("topic", "publish"): (Item(),),
            ("topic", "subscribe"): ("all/queue",),
            ("queue", "send"): (Item(),),
            ("bucket", "put"): ("a", b"1"),
            ("bucket", "list"): (),
            ("bucket", "presign"): ("GET", "a"),
            ("schedule", "run"): (),
            ("operation", "request"): ("1", Item()),
            ("operation", "poll_due"): (),
            ("operation", "query"): ("open",),
        }
        attribute = getattr(self.resources[kind], name)
        return attribute if kind == "service" else attribute(*arguments.get((kind, name), ("1",)))


CALLS = [(kind, name) for kind, verbs in VERBS.items() for name in verbs]
SLOTS = [(kind, verb) for kind in VERBS for verb in verbs_of(kind) if (kind, verb) != ("operation", "forget")]


async def is_refused(sources: Sources, kind: str, name: str, held: set[tuple[str, str, str]]) -> bool:
    """Whether the call is refused with these grants; what else it raises is not of interest."""
    permit = Permit("all/unit", list)
    permit.__dict__["held"] = frozenset(held)
    token = acting.set(permit)
    try:
        found = sources.call(kind, name)
        if isinstance(found, Awaitable):
            await found
        elif hasattr(found, "__aenter__"):
            async with found:
                pass
    except NotGranted:
        return True
    except Exception:
        return False
    finally:
        acting.reset(token)
    return False


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources()


@pytest.mark.parametrize(("kind", "name"), CALLS)
async def test_each_call_needs_its_verb_and_no_other(kind: str, name: str) -> None:
    sources = Sources()
    everything = {(k, sources.resources[k].name, verb) for k, verb in SLOTS}
    needed = (kind, sources.resources[kind].name, VERBS[kind][name])
    more = {("queue", "all/queue", "send")} if name == "replay" else set()
    async with Harness(sources.app):
        assert await is_refused(sources, kind, name, everything - {needed})
        assert not more or await is_refused(sources, kind, name, {needed})
        assert not await is_refused(sources, kind, name, {needed} | more)
        assert not await is_refused(sources, kind, name, everything)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_call_is_refused_exactly_when_its_verb_is_not_held(data: st.DataObject) -> None:
    """For any set of grants."""
    sources = _SHARED
    held = data.draw(st.sets(st.sampled_from(SLOTS)))
    kind, name = data.draw(st.sampled_from([call for call in CALLS if call[1] != "replay"]))
    slots = {(k, sources.resources[k].name, verb) for k, verb in held}
    permit = Permit("all/unit", list)
    permit.__dict__["held"] = frozenset(slots)
    token = acting.set(permit)
    try:
        refused = False
        guard(sources.resources[kind], VERBS[kind][name])
    except NotGranted:
        refused = True
    finally:
        acting.reset(token)
    assert refused == ((kind, VERBS[kind][name]) not in held)


_SHARED = Sources()


def test_forgetting_with_others_needs_a_grant_for_each() -> None:
    async def run() -> list[bool]:
        sources = Sources()
        others = sources.app.table("others", Item, key="id")
        mine = ("table", "all/items", "forget")
        found = []
        for also, slot in (
            (others, ("table", "all/others", "forget")),
            (sources.operation, ("operation", "all/work", "forget")),
        ):
            async with Harness(sources.app):
                for held in ({mine}, {mine, slot}):
                    permit = Permit("all/unit", list)
                    permit.__dict__["held"] = frozenset(held)
                    token = acting.set(permit)
                    try:
                        await sources.items.forget("1", also=[also])
                        found.append(False)
                    except NotGranted:
                        found.append(True)
                    finally:
                        acting.reset(token)
        return found

    import asyncio

    assert asyncio.run(run()) == [True, False, True, False]


def test_the_message_says_what_is_missing_and_how_to_grant_it() -> None:
    sources = Sources()
    permit = Permit("all GET /items", list)
    token = acting.set(permit)
    try:
        with pytest.raises(NotGranted) as refused:
            guard(sources.items, "put")
    finally:
        acting.reset(token)
    text = str(refused.value)
    assert "put all/items" in text
    assert "all GET /items" in text
    assert 'uses=[….can("put")' in text


# Handlers


def hidden(resource: Any, name: str, *arguments: Any) -> Any:
    """A call that no reading of the code can see."""
    return eval("getattr(resource, name)(*arguments)", {}, {"resource": resource, "name": name, "arguments": arguments})


@asynccontextmanager
async def handled(harness: StartHarness, handle: Callable[[App[None], Any, Any, Any], Any], **options: Any) -> Any:
    """An app whose one queue is handled by what `handle` makes; (harness, items, the reasons of dead letters)."""
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", dict, max_receives=1)
    app.on(jobs, **options)(handle(app, items, jobs, None))
    h = await harness(app)
    await jobs.send({"n": 1})
    await h.run_until_idle()
    yield h, items, [letter.reason for letter in await h.dead_letters(jobs)]


async def test_what_the_code_does_is_granted(harness: StartHarness) -> None:
    def make(app: Any, items: Any, *_: Any) -> Any:
        async def handle(event: Event[Any]) -> None:
            await items.put(Item())

        return handle

    async with handled(harness, make) as (_, items, reasons):
        assert reasons == []
        assert await items.get("1") is not None


@pytest.mark.parametrize("how", ["async", "thread", "step", "attempt", "task", "batch"])
async def test_a_handler_without_the_grant_fails_and_leaves_nothing(harness: StartHarness, how: str) -> None:
    def make(app: Any, items: Any, *_: Any) -> Any:
        async def write() -> str:
            return str(await items.put(Item()))

        async def handle(event: Any) -> None:
            if how == "step":
                await step("write", write)
            elif how in ("attempt", "batch"):
                async with attempt(event[0]):
                    await write()
            elif how == "task":
                import asyncio

                await asyncio.create_task(write())
            else:
                await write()

        def handle_in_thread(event: Any) -> None:
            wait(items.put(Item()))

        return handle_in_thread if how == "thread" else handle

    batch = {"batch": 10} if how in ("attempt", "batch") else {}
    async with handled(harness, make, uses=[], **batch) as (_, items, reasons):
        assert len(reasons) == 1
        assert reasons[0].startswith("NotGranted: put shop/items: ")
        assert "shop/jobs" in reasons[0]
        assert await items.get("1") is None


async def test_uses_widens_what_cannot_be_seen(harness: StartHarness) -> None:
    app = App("shop")
    items = app.table("items", Item, key="id")
    unseen, seen = app.queue("unseen", dict, max_receives=1), app.queue("seen", dict, max_receives=1)

    @app.on(unseen)
    async def blind(event: Event[Any]) -> None:
        await eval("items.put(Item(id='unseen'))", globals() | {"items": vars(app)["tables"]["shop/items"]})

    @app.on(seen, uses=[items.can("put", "get")])
    async def told(event: Event[Any]) -> None:
        await eval("items.put(Item(id='seen'))", globals() | {"items": vars(app)["tables"]["shop/items"]})

    h = await harness(app)
    await unseen.send({})
    await seen.send({})
    await h.run_until_idle()
    (letter,) = await h.dead_letters()
    assert letter.reason.startswith("NotGranted")
    assert [row.id for row in (await items.query()).items] == ["seen"]


async def test_the_predicate_is_part_of_the_handler(harness: StartHarness) -> None:
    app = App("shop")
    seen, jobs = app.table("seen", Item, key="id"), app.queue("jobs", dict)
    names: list[str] = []

    def wanted(event: Event[Any]) -> bool:
        names.append(seen.can("get")[0].resource)
        return True

    app.on(jobs, when=wanted)(lambda event: None)
    h = await harness(app)
    await jobs.send({})
    await h.run_until_idle()
    assert names == ["shop/seen"]


async def test_a_rehearsal_is_refused_what_the_handler_is(harness: StartHarness) -> None:
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", dict, max_receives=1)

    @app.on(jobs, uses=[])
    async def handle(event: Event[Any]) -> None:
        await items.put(Item())

    h = await harness(app)
    await jobs.send({})
    await h.run_until_idle()
    (letter,) = await h.dead_letters()
    consumer = h.supervisor.consumers["shop/jobs"]
    assert consumer._context[acting] is not None
    assert letter.reason.startswith("NotGranted")


async def test_headwaters_own_tables_need_no_grants(harness: StartHarness) -> None:
    """A load, an erasure and a mail write tables of the server's own app, in the handler's unit of work."""
    app = App("shop")
    items, jobs = app.table("items", Item, key="id"), app.queue("jobs", dict, max_receives=1)
    items.to(email("ops@shop.test"))

    @app.on(jobs)
    async def handle(event: Event[Any]) -> None:
        await items.load([Item(id="loaded")])
        await items.forget("gone")

    h = await harness(app)
    await jobs.send({})
    await h.run_until_idle()
    assert await h.dead_letters() == []
    assert await items.get("loaded") is not None
    assert len(h.mail) == 1


@pytest.mark.parametrize("given", [["get"], [1], "get"])
def test_what_is_no_grant_is_refused_at_once(given: Any) -> None:
    app = App("shop")
    jobs = app.queue("jobs", dict)
    with pytest.raises(DeclarationError, match="no grant"):
        app.on(jobs, uses=given)(lambda event: None)


def test_a_verb_that_a_resource_has_not_is_refused_at_once() -> None:
    app = App("shop")
    with pytest.raises(DeclarationError, match=r"no verb 'publish'.*send"):
        app.queue("jobs", dict).can("publish")


# Endpoints


class Web:
    """Endpoints of all sorts; the table is `items`, and what they do to it stands in their names."""

    def __init__(self) -> None:
        self.app = app = App("web")
        self.items = items = app.table("items", Item, key="id")
        self.jobs = jobs = app.queue("jobs", Item)
        app.on(jobs)(lambda event: None)
        app.expose(items, "/rows", read=anyone(), write=anyone())
        app.ingest(jobs, "/jobs", auth=anyone())
        app.expose(app.bucket("files"), "/files", read=anyone(), write=anyone())
        self._declare()
        self._declare_dependent()
        self._declare_inner()

    def _declare(self) -> None:
        http, items = self.app.http, self.items

        @http.put("/seen/{id}")
        async def seen(id: str) -> None:
            await items.put(Item(id=id))

        @http.put("/unseen/{id}")
        async def unseen(id: str) -> None:
            await hidden(items, "put", Item(id=id))

        @http.put("/told/{id}")
        @uses(items.can("put"))
        async def told(id: str) -> None:
            await hidden(items, "put", Item(id=id))

        @http.put("/narrow/{id}")
        @uses()
        async def narrow(id: str) -> None:
            await items.put(Item(id=id))

        @http.put("/plain/{id}")
        def plain(id: str) -> None:
            wait(items.put(Item(id=id)))

    def _declare_dependent(self) -> None:
        http, items = self.app.http, self.items

        async def written(id: str) -> Item:
            await items.put(Item(id=id))
            return Item(id=id)

        @http.put("/dependent/{id}")
        async def dependent(item: Item = Depends(written)) -> str:
            return item.id

        def lend() -> Any:
            yield items

        @http.put("/lent/{id}")
        async def lent(id: str, table: Any = Depends(lend)) -> None:
            await table.put(Item(id=id))

        @http.put("/later/{id}")
        async def later(id: str, tasks: BackgroundTasks) -> None:
            await items.put(Item(id=id))
            tasks.add_task(print, end="")

    def _declare_inner(self) -> None:
        http, items, router, inner = self.app.http, self.items, APIRouter(prefix="/routed"), FastAPI()

        @router.put("/seen/{id}")
        async def routed(id: str) -> None:
            await items.put(Item(id=id))

        @router.put("/unseen/{id}")
        async def routed_unseen(id: str) -> None:
            await hidden(items, "put", Item(id=id))

        @inner.put("/seen/{id}")
        async def mounted(id: str) -> None:
            await items.put(Item(id=id))

        @inner.put("/unseen/{id}")
        async def mounted_unseen(id: str) -> None:
            await hidden(items, "put", Item(id=id))

        http.include_router(router)
        http.mount("/mounted", inner)


GRANTED = ["seen", "told", "plain", "dependent", "lent", "later", "routed/seen", "mounted/seen"]
REFUSED = ["unseen", "narrow", "routed/unseen", "mounted/unseen"]


@pytest.mark.parametrize("path", GRANTED)
async def test_an_endpoint_may_what_its_code_does(path: str) -> None:
    web = Web()
    async with Harness(web.app) as h:
        answer = await h.client(web.app).put(f"/{path}/7")
        assert answer.status_code == 200, answer.text
        assert await web.items.get("7") is not None


@pytest.mark.parametrize("path", REFUSED)
async def test_an_endpoint_without_the_grant_answers_500_and_leaves_nothing(path: str) -> None:
    web = Web()
    async with Harness(web.app) as h:
        answer = await h.client(web.app).put(f"/{path}/7")
        assert answer.status_code == 500
        body = answer.json()
        assert (body["error"], body["operation"], body["resource"]) == ("NotGranted", "put", "web/items")
        assert "web PUT /" in body["detail"]
        assert "@uses" in body["hint"]
        assert await web.items.get("7") is None


async def test_what_is_declared_is_granted_by_its_declaration() -> None:
    """Exposed rows in each verb, and an ingest; HEAD is what GET is."""
    web = Web()
    async with Harness(web.app) as h:
        client = h.client(web.app)
        made = await client.post("/rows", json={})
        path = f"/rows/{made.json()['id']}"
        answers = [
            made,
            await client.get(path),
            await client.head(path),
            await client.get("/rows"),
            await client.patch(path, json={}, headers={"content-type": "application/merge-patch+json"}),
            await client.put(path, json={}),
            await client.delete(path),
            await client.post("/jobs", json={"id": "1"}),
            await client.put("/files/a/b", content=b"1"),
            await client.get("/files/a/b"),
            await client.head("/files/a/b"),
            await client.get("/files"),
            await client.delete("/files/a/b"),
        ]
        found = [answer.status_code for answer in answers]
        assert found == [201, 200, 200, 200, 200, 200, 204, 202, 201, 200, 200, 200, 204]


async def test_handlers_of_exceptions_are_part_of_each_endpoint() -> None:
    web = Web()

    @web.app.http.exception_handler(ZeroDivisionError)
    async def divided(request: Request, error: Exception) -> JSONResponse:
        await web.items.put(Item(id="divided"))
        return JSONResponse({})

    @web.app.http.put("/divide")
    async def divide() -> None:
        raise ZeroDivisionError

    async with Harness(web.app) as h:
        assert (await h.client(web.app).put("/divide")).status_code == 200
        assert await web.items.get("divided") is not None


async def test_a_request_that_no_endpoint_takes_may_what_handlers_of_exceptions_may() -> None:
    web = Web()

    @web.app.http.exception_handler(404)
    async def missing(request: Request, error: Exception) -> JSONResponse:
        await web.items.get("1")
        await hidden(web.items, "put", Item(id="missing"))
        return JSONResponse({})

    async with Harness(web.app) as h:
        answer = await h.client(web.app).get("/nowhere")
        assert (answer.status_code, answer.json()["error"]) == (500, "NotGranted")
        assert await web.items.get("missing") is None


# What it costs


def test_a_check_costs_next_to_nothing() -> None:
    """Well below a microsecond on any machine; a commit is a hundred times that."""
    sources = Sources()
    permit = Permit("all/unit", lambda: sources.items.can(*verbs_of("table")))
    token = acting.set(permit)
    try:
        guard(sources.items, "get")
        best_s = min(timeit.repeat(lambda: guard(sources.items, "get"), number=20_000, repeat=5)) / 20_000
    finally:
        acting.reset(token)
    assert best_s < 2e-6


def test_nothing_is_worked_out_before_a_resource_is_called() -> None:
    def work_out() -> list[Any]:
        raise AssertionError("nobody asked")

    permit = Permit("all/unit", work_out)
    token = acting.set(permit)
    acting.reset(token)
    assert "held" not in vars(permit)

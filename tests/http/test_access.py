"""Who is let in: roles, plans, API keys. How much is let in is in test_metering.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI

from headwater import App, Caller, DeclarationError, Event, anyone, require
from headwater.http.access import Access, AccessRules
from headwater.http.issuers import KeySpec
from headwater.http.keys import Key, digest_of, make_id, make_key
from headwater.pytest_plugin import StartHarness
from headwater.runtime.admin import Admin
from headwater.testing import Harness
from tests.http.test_unit_layer import elsewhere
from tests.runtime.samples import Item, Job

READ = require("data.read")
TYPES = "application/problem+json"


def admin_of(h: Harness) -> Admin:
    return Admin(h.supervisor.engine, h.supervisor)


async def create(h: Harness, name: str = "ann", **more: Any) -> dict[str, Any]:
    created: dict[str, Any] = await admin_of(h).call("key-create", {"name": name, **more})
    return created


def telling(app: App[Any], path: str, needs: Any) -> None:
    """An endpoint that tells who calls."""

    @app.http.get(path)
    async def tell(caller: Caller = needs) -> dict[str, Any]:
        return {"subject": caller.subject, "tenant": caller.tenant, "method": caller.method}


async def test_roles_are_required_all(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/any", require())
    telling(app, "/read", READ)
    telling(app, "/both", require("data.read", "data.write"))
    h = await harness(app)

    async def statuses(**credentials: Any) -> list[int]:
        client = h.client(app, **credentials)
        return [(await client.get(path)).status_code for path in ("/any", "/read", "/both")]

    assert await statuses() == [401, 401, 401]
    assert await statuses(token={"sub": "ann"}) == [200, 403, 403]
    assert await statuses(token={"sub": "ann", "roles": ["data.write"]}) == [200, 403, 403]
    assert await statuses(token={"sub": "ann", "Role": "data.read"}) == [200, 200, 403]
    assert await statuses(token={"sub": "ann", "scope": "data.write data.read"}) == [200, 200, 200]
    assert await statuses(token={"sub": "ann", "roles": ["DATA.READ", "data.read.x", "data"]}) == [200, 403, 403]
    assert await statuses(key="free") == [200, 403, 403]


async def test_refusals_are_problems(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", READ)
    h = await harness(app)
    nobody = await h.client(app).get("/")
    assert (nobody.status_code, nobody.headers["content-type"]) == (401, TYPES)
    assert nobody.headers["www-authenticate"] == 'Bearer realm="headwater"'
    body = nobody.json()
    assert body.pop("request_id") == nobody.headers["headwater-trace"]
    assert body == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "the request has no credentials",
        "error": "Unauthenticated",
        "operation": "authenticate",
        "hint": "send Authorization: Bearer TOKEN or X-Api-Key: KEY",
    }
    other = await h.client(app, token={"sub": "ann"}).get("/")
    assert (other.status_code, other.headers["content-type"]) == (403, TYPES)
    assert "www-authenticate" not in other.headers
    assert (other.json()["error"], other.json()["detail"]) == ("Forbidden", "the caller lacks the role data.read")


async def test_nothing_runs_and_nothing_is_written_without_admission(harness: StartHarness) -> None:
    app = App("desk")
    items = app.table("items", Item, key="id")
    ran: list[str] = []

    @app.http.put("/{id}")
    async def put(id: str, caller: Annotated[Caller, READ]) -> None:
        ran.append(id)
        await items.put(Item(id=id))

    h = await harness(app)
    assert (await h.client(app).put("/a")).status_code == 401
    assert (await h.client(app, token={"sub": "ann"}).put("/a")).status_code == 403
    assert (ran, (await items.query()).items) == ([], [])
    assert (await h.client(app, token={"sub": "ann", "roles": "data.read"}).put("/a")).status_code == 200
    assert await items.get("a") is not None


async def test_a_plan_is_required_of_a_key(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require(plan="subscriber"))
    h = await harness(app, plans={"subscriber": {}, "free": {}})
    assert (await h.client(app, key="subscriber").get("/")).status_code == 200
    for client in (h.client(app, key="free"), h.client(app, token={"sub": "ann", "roles": ["subscriber"]})):
        answer = await client.get("/")
        assert (answer.status_code, answer.json()["error"]) == (403, "Forbidden")
        assert answer.json()["detail"] == "this needs an API key of the usage plan 'subscriber'"
    assert (await h.client(app).get("/")).status_code == 401


async def test_one_of_several_plans_is_required(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require(plan=("subscriber", "internal")))
    h = await harness(app, plans={"subscriber": {"rate": 1, "burst": 1}, "internal": {}, "free": {}})
    subscriber, internal = h.client(app, key="subscriber"), h.client(app, key="internal")
    assert [(await subscriber.get("/")).status_code for _ in range(3)] == [200, 429, 429]
    assert [(await internal.get("/")).status_code for _ in range(3)] == [200] * 3
    refused = await h.client(app, key="free").get("/")
    assert refused.status_code == 403
    assert refused.json()["detail"] == "this needs an API key of the usage plan 'internal' or 'subscriber'"
    assert (await h.client(app, token={"sub": "ann"}).get("/")).status_code == 403


@pytest.mark.parametrize("plan", [(), [""], ("free", "")])
def test_no_plan_by_accident(plan: Sequence[str]) -> None:
    with pytest.raises(DeclarationError, match="names no usage plan"):
        require(plan=plan)


@pytest.mark.parametrize("role", ["", "two words"])
def test_a_role_is_a_word(role: str) -> None:
    with pytest.raises(DeclarationError, match="is no role"):
        require(role)


async def test_an_endpoint_for_anyone_looks_at_no_credentials(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", anyone())

    @app.http.post("/")
    async def post(caller: Annotated[Caller, anyone()]) -> str:
        return caller.subject

    h = await harness(app)
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"X-Api-Key": "nonsense"}):
        answer = await h.client(app, headers=headers).get("/")
        assert (answer.status_code, answer.json()) == (200, {"subject": "", "tenant": "", "method": ""})
    known = h.client(app, token={"sub": "ann"})
    assert (await known.post("/")).json() == (await known.post("/", headers={"Idempotency-Key": "k"})).json() == ""


async def test_a_dependency_of_a_router_or_a_mounted_app_admits(harness: StartHarness) -> None:
    app = App("desk")
    router, mounted = APIRouter(dependencies=[READ]), FastAPI(dependencies=[READ])

    @router.get("/x")
    @mounted.get("/x")
    async def get() -> str:
        return "x"

    app.http.include_router(router, prefix="/included")
    app.http.mount("/mounted", mounted)
    h = await harness(app)
    for path in ("/included/x", "/mounted/x"):
        refused = await h.client(app).get(path)
        assert (refused.status_code, refused.headers["content-type"]) == (401, TYPES), path
        assert (await h.client(app, token={"sub": "a", "roles": ["data.read"]}).get(path)).status_code == 200


async def test_the_caller_reaches_events(harness: StartHarness) -> None:
    app = App("desk")
    jobs, items = app.queue("jobs", Job), app.table("items", Item, key="id")
    callers: list[tuple[str, Caller | None]] = []

    @app.http.post("/")
    async def post(caller: Annotated[Caller, READ]) -> None:
        await jobs.send(Job())
        await items.update("a", add={"n": 1})

    @app.http.post("/open")
    async def open_(caller: Annotated[Caller, anyone()]) -> None:
        await jobs.send(Job())

    @app.on(jobs)
    async def work(event: Event[Job]) -> None:
        callers.append(("job", event.caller))

    @app.on(items)
    async def watch(event: Event[Item]) -> None:
        callers.append(("change", event.caller))

    h = await harness(app)
    token = {"sub": "ann", "roles": ["data.read", "x"]}
    assert (await h.client(app, token=token).post("/")).status_code == 200
    await h.run_until_idle()
    ann = Caller("ann", frozenset({"data.read", "x"}), "", "token")
    assert sorted(callers, key=lambda found: found[0]) == [("change", ann), ("job", ann)]
    callers.clear()
    for sent in ({}, {"Idempotency-Key": "k"}):
        assert (await h.client(app, token=token).post("/open", headers=sent)).status_code == 200
    await h.run_until_idle()
    assert callers == [("job", None)] * 2


async def test_a_key_is_created_and_found(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", READ)
    h = await harness(app, plans={"free": {}})
    made = await create(h, "ann", roles=["data.read"], tenant="acme", plan="free")
    assert made["key"].startswith(f"hw_test_{made['id']}_")
    answer = await h.client(app, headers={"X-Api-Key": made["key"]}).get("/")
    assert answer.json() == {"subject": "ann", "tenant": "acme", "method": "key"}
    listed = (await admin_of(h).call("keys", {}))["keys"]
    assert [(key["name"], key["valid"]) for key in listed] == [("ann", True)]
    assert made["key"] not in str(listed)
    assert made["digest"] not in str(listed)
    for sent in ({"Authorization": f"Bearer {made['key']}"}, {"X-Api-Key": made["key"][:-1]}, {"X-Api-Key": ""}):
        assert (await h.client(app, headers=sent).get("/")).status_code == 401


async def status(h: Harness, app: App[Any], key: str) -> int:
    return (await h.client(app, headers={"X-Api-Key": key}).get("/")).status_code


async def test_a_rotated_key_overlaps_with_the_former_one(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    made = await create(h)
    assert await status(h, app, made["key"]) == 200
    rotated = await admin_of(h).call("key-rotate", {"id": made["id"], "overlap": "1h"})
    assert rotated["id"] == made["id"]
    assert [await status(h, app, one["key"]) for one in (made, rotated)] == [200, 200]
    await h.advance(minutes=59, seconds=59)
    assert [await status(h, app, one["key"]) for one in (made, rotated)] == [200, 200]
    await h.advance(seconds=1)
    assert [await status(h, app, one["key"]) for one in (made, rotated)] == [401, 200]
    at_once = await admin_of(h).call("key-rotate", {"id": made["id"], "overlap": "0s"})
    assert [await status(h, app, one["key"]) for one in (rotated, at_once)] == [401, 200]


async def test_a_revoked_key_is_refused_at_once(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    made = await create(h)
    rotated = await admin_of(h).call("key-rotate", {"id": made["id"]})
    assert [await status(h, app, one["key"]) for one in (made, rotated)] == [200, 200]
    revoked = await admin_of(h).call("key-revoke", {"id": made["id"]})
    assert [await status(h, app, one["key"]) for one in (made, rotated)] == [401, 401]
    again = await admin_of(h).call("key-revoke", {"id": made["id"]})
    assert again["revoked"] == revoked["revoked"] is not None
    answer = await h.client(app, headers={"X-Api-Key": made["key"]}).get("/")
    assert answer.json()["detail"] == "the API key is not valid"


async def test_a_key_revoked_by_another_process_is_refused_within_a_second(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    made = await create(h)
    assert await status(h, app, made["key"]) == 200
    await elsewhere(h.supervisor.system.keys.update(made["id"], set={"revoked_ms": 1}))
    await h.advance(seconds=0.99)
    assert await status(h, app, made["key"]) == 401


async def test_a_key_in_use_is_read_twice_a_second_at_most(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    made = await create(h)
    reads: list[str] = []
    rows = h.supervisor.system
    get = rows.get

    async def counted(id: str) -> Key | None:
        reads.append(id)
        return await get(id)

    rows.get = counted  # type: ignore[method-assign]
    for _ in range(20):
        assert await status(h, app, made["key"]) == 200
    assert len(reads) == 1


async def test_a_key_ends(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    made = await create(h, expires="1h")
    await h.advance(minutes=59, seconds=59)
    assert await status(h, app, made["key"]) == 200
    await h.advance(seconds=1)
    assert await status(h, app, made["key"]) == 401


async def test_declared_keys_are_good_in_their_environment(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", READ)
    h = await harness(app)
    id, other = make_id(), make_id()
    key, foreign = make_key("live", id), make_key("default", other)
    rules = AccessRules(
        environment="live",
        keys={
            "acme": KeySpec(id=id, digest=digest_of(key), roles=("data.read",), tenant="t"),
            "other": KeySpec(id=other, digest=digest_of(foreign), roles=("data.read",)),
        },
    )
    h.supervisor.access = Access(rules, h.clock, keys=h.supervisor.system, usage=h.supervisor.system)
    answer = await h.client(app, headers={"X-Api-Key": key}).get("/")
    assert answer.json() == {"subject": "acme", "tenant": "t", "method": "key"}
    assert await status(h, app, foreign) == 401
    listed = (await admin_of(h).call("keys", {}))["keys"]
    assert [(found["name"], found["declared"]) for found in listed] == [("acme", True), ("other", True)]


def counting(app: App[Any]) -> list[str]:
    runs: list[str] = []
    items = app.table("items", Item, key="id")

    @app.http.post("/")
    async def post(caller: Annotated[Caller, require(throttle="slow")]) -> str:
        runs.append(caller.subject)
        await items.update("a", add={"n": 1})
        return caller.subject

    return runs


async def test_an_idempotency_key_belongs_to_the_caller(harness: StartHarness) -> None:
    app = App("desk")
    runs = counting(app)
    h = await harness(app, plans={"slow": {}})
    sent = {"Idempotency-Key": "k"}
    ann, bob = h.client(app, token={"sub": "ann"}), h.client(app, token={"sub": "bob"})
    assert [(await client.post("/", headers=sent)).json() for client in (ann, bob, ann, bob)] == [
        "ann",
        "bob",
        "ann",
        "bob",
    ]
    assert runs == ["ann", "bob"]
    await h.advance(minutes=30)
    renewed = h.client(app, token={"sub": "ann", "roles": ["more"]})
    assert (await renewed.post("/", headers=sent)).headers["idempotent-replayed"] == "true"
    assert runs == ["ann", "bob"]
    await h.advance(hours=1)
    expired = await ann.post("/", headers=sent)
    assert (expired.status_code, expired.json()["detail"]) == (401, "the token has expired")
    assert (await h.client(app).post("/", headers=sent)).status_code == 401
    assert runs == ["ann", "bob"]


async def test_an_idempotency_key_outlives_the_rotation_of_an_api_key(harness: StartHarness) -> None:
    app = App("desk")
    runs = counting(app)
    h = await harness(app)
    made = await create(h)
    rotated = await admin_of(h).call("key-rotate", {"id": made["id"]})
    answers = [
        await h.client(app, headers={"X-Api-Key": one["key"], "Idempotency-Key": "k"}).post("/")
        for one in (made, rotated)
    ]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
    assert runs == ["ann"]
    await admin_of(h).call("key-revoke", {"id": made["id"]})
    sent = {"X-Api-Key": made["key"], "Idempotency-Key": "k"}
    assert (await h.client(app, headers=sent).post("/")).status_code == 401


async def test_authentication_runs_for_many_at_once(harness: StartHarness) -> None:
    app = App("desk")
    telling(app, "/", require())
    h = await harness(app)
    clients = [h.client(app, token={"sub": f"user-{n}"}) for n in range(100)]
    answers = await asyncio.gather(*(client.get("/") for client in clients))
    assert [answer.json()["subject"] for answer in answers] == [f"user-{n}" for n in range(100)]

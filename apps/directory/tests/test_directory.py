"""The directory: files become departments, which holders of keys read; those that vanish expire."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.directory.app import app, departments, drops, loads
from apps.directory.tests.staff import drop, many, names, sample
from headwater.testing import Harness

QUEUE = "directory/load-staff"
NAMES = ["Bakery", "Boathouse", "Engineering", "Garden", "Kitchen", "Library"]


async def changes(harness: Harness) -> list[str]:
    """All events of the departments."""
    await harness.run_until_idle()
    events = await harness.supervisor.engine.events(0, 10_000)
    return [f"{e.event.subject} {e.event.type}" for e in events if e.event.source == departments.name]


@pytest.fixture
def internal(harness: Harness) -> httpx.AsyncClient:
    return harness.client(app, key="internal")


async def items(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


# Files become departments


async def test_a_dropped_file_is_served_by_department(harness: Harness, internal: httpx.AsyncClient) -> None:
    load = await drop(harness, sample("staff.csv"))
    assert (load.state, load.inserted, load.rejected) == ("loaded", 6, 0)
    kitchen = (await internal.get("/departments/Kitchen")).json()
    assert [(e["employee"], e["title"]) for e in kitchen["employees"]] == [
        ("e017", "Chef"),
        ("e018", "Cook"),
        ("e019", "Cook"),
        ("e020", "Dishwasher"),
    ]
    assert kitchen["employees"][0] == {
        "employee": "e017",
        "name": "Jarvik, Quirin",
        "title": "Chef",
        "email": "quirin.jarvik@staff.example",
        "phone": "555-0126",
        "room": "K01",
        "since": "2016-08-17",
    }
    assert (await internal.get("/departments/Laundry")).status_code == 404


async def test_the_drop_folder_takes_a_file_once_it_is_complete_and_removes_it(harness: Harness, folder: Path) -> None:
    text = sample("staff.csv")
    (folder / "staff.csv.part").write_bytes(text[:900])
    growing = folder / "growing.csv"
    for end in range(900, len(text), 400):
        growing.write_bytes(text[:end])
        await harness.advance(seconds=1)
    assert (await loads.query()).items == []
    growing.write_bytes(text)
    await harness.advance(seconds=5)
    (load,) = (await loads.query()).items
    assert (load.file, load.state) == ("staff/growing.csv", "loaded")
    assert await names() == NAMES
    assert [path.name for path in folder.iterdir()] == ["staff.csv.part"]


async def test_only_staff_files_are_loaded(harness: Harness) -> None:
    for key in ("staff.csv", "staff/staff.txt", "other/staff.csv", "staff/staff.csv.gz"):
        await drops.put(key, sample("staff.csv"))
    await harness.run_until_idle()
    assert (await loads.query()).items == []
    assert await names() == []


async def test_a_changed_file_changes_exactly_what_changed(harness: Harness) -> None:
    await drop(harness, sample("staff.csv"))
    assert await changes(harness) == [f"{name} inserted" for name in NAMES]
    load = await drop(harness, sample("staff-changed.csv"))
    assert (load.inserted, load.modified, load.unchanged, load.vanished) == (0, 2, 3, 1)
    assert sorted((await changes(harness))[6:]) == ["Garden modified", "Kitchen modified"]
    garden = await departments.get("Garden")
    assert garden is not None
    assert [e.title for e in garden.employees] == ["Head gardener", "Arborist", "Gardener", "Apprentice"]


async def test_the_same_file_again_is_not_even_read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await drop(harness, sample("staff.csv"))
    before = await changes(harness)

    def documents(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr("headwater.datasets.rows.Rows.documents", documents)
    load = await drop(harness, sample("staff.csv"), "staff/renamed.csv")
    assert (load.state, load.unchanged, load.inserted + load.modified) == ("unchanged", 6, 0)
    assert await changes(harness) == before


# Departments that vanish


async def test_a_vanished_department_expires_after_its_grace(harness: Harness, internal: httpx.AsyncClient) -> None:
    await drop(harness, sample("staff.csv"))
    await drop(harness, sample("staff-changed.csv"))
    await harness.advance(days=6, hours=23)
    assert (await internal.get("/departments/Library")).status_code == 200
    await harness.advance(hours=2)
    assert (await internal.get("/departments/Library")).status_code == 404
    assert await names() == NAMES[:-1]
    assert (await changes(harness))[-1] == "Library removed"


async def test_a_department_that_returns_in_time_stays(harness: Harness) -> None:
    await drop(harness, sample("staff.csv"))
    await drop(harness, sample("staff-changed.csv"))
    await harness.advance(days=5)
    await drop(harness, sample("staff.csv"))
    await harness.advance(days=10)
    assert await names() == NAMES
    assert "Library removed" not in await changes(harness)


# Order


async def test_an_older_file_never_undoes_a_newer_one(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one fails at first for reasons of its own, and is tried again when the newer one is loaded."""
    load, busy = departments.load, True

    async def fail_while_busy(*args: Any, **options: Any) -> Any:
        if busy:
            raise OSError("the disk is busy")
        return await load(*args, **options)

    monkeypatch.setattr(departments, "load", fail_while_busy)
    await drops.put("staff/monday.csv", many(6, "Monday").encode())
    await harness.advance(seconds=0.1)
    assert len(await harness.messages(QUEUE)) == 1
    busy = False
    assert (await drop(harness, many(6, "Tuesday"), "staff/tuesday.csv")).state == "loaded"
    await harness.advance(minutes=5)
    found = await departments.get("D000")
    assert found is not None
    assert found.employees[0].title == "Tuesday"
    assert await harness.messages(QUEUE) == []
    assert await harness.dead_letters(QUEUE) == []


async def test_readers_see_the_old_file_or_the_new_one_never_a_mixture(
    harness: Harness, internal: httpx.AsyncClient
) -> None:
    await drop(harness, many(300, "old"))
    await drops.put("staff/staff.csv", many(300, "new").encode())
    loaded = asyncio.create_task(harness.run_until_idle())
    seen: list[str] = []
    while not loaded.done() or seen[-1] == "old":
        rows = await items(internal, "/departments", limit=500)
        titles = {employee["title"] for row in rows for employee in row["employees"]}
        assert len(rows) == 300
        assert len(titles) == 1, titles
        seen.append(titles.pop())
        await asyncio.sleep(0)  # such a request never lets anybody else run
    await loaded
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == ("old", "new")


async def test_a_crash_in_the_middle_of_a_load_loses_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    load, reached, hanging = departments.load, asyncio.Event(), True

    async def load_and_hang(*args: Any, **options: Any) -> Any:
        summary = await load(*args, **options)
        if hanging:
            reached.set()
            await asyncio.Event().wait()
        return summary

    monkeypatch.setattr(departments, "load", load_and_hang)
    await drops.put("staff/staff.csv", sample("staff.csv"))
    await asyncio.wait_for(reached.wait(), 10)
    assert await names() == []
    hanging = False
    await harness.crash()
    await harness.advance(minutes=1)
    assert await names() == NAMES
    assert [found.state for found in (await loads.query()).items] == ["loaded"]


# Keys and plans


async def test_departments_are_found_by_what_they_begin_with(harness: Harness, internal: httpx.AsyncClient) -> None:
    await drop(harness, sample("staff.csv"))
    assert await items(internal, "/departments", **{"department.prefix": "B", "fields": "department"}) == [
        {"department": "Bakery"},
        {"department": "Boathouse"},
    ]
    assert await items(internal, "/departments", **{"department.prefix": "b"}) == []
    page = (await internal.get("/departments", params={"department.prefix": "B", "limit": 1})).json()
    assert [row["department"] for row in page["items"]] == ["Bakery"]
    rest = await items(internal, "/departments", **{"department.prefix": "B", "cursor": page["cursor"]})
    assert [row["department"] for row in rest] == ["Boathouse"]


async def test_nothing_is_served_without_a_key_of_a_plan(harness: Harness) -> None:
    await drop(harness, sample("staff.csv"))
    guest, user, other = harness.client(app), harness.client(app, token={"sub": "ann"}), harness.client(app, key="free")
    for path in ("/departments", "/departments/Kitchen", "/loads"):
        assert (await guest.get(path)).status_code == 401
        assert (await user.get(path)).status_code == 403
        assert (await other.get(path)).status_code == 403
    subscriber = harness.client(app, key="subscriber")
    assert (await subscriber.get("/departments/Kitchen")).status_code == 200
    assert (await subscriber.get("/loads")).status_code == 403


async def test_departments_are_read_only(harness: Harness, internal: httpx.AsyncClient) -> None:
    await drop(harness, sample("staff.csv"))
    for method in ("PUT", "PATCH", "DELETE"):
        assert (await internal.request(method, "/departments/Kitchen", json={})).status_code == 405
    assert (await internal.post("/departments", json={"department": "X", "employees": []})).status_code == 405


async def test_subscribers_have_a_rate_and_a_quota_and_internal_has_none(
    harness: Harness, internal: httpx.AsyncClient
) -> None:
    await drop(harness, sample("staff.csv"))
    subscriber, another = harness.client(app, key="subscriber"), harness.client(app, key="subscriber")
    answers = [await subscriber.get("/departments/Kitchen") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"
    assert (await another.get("/departments/Kitchen")).status_code == 200
    for _ in range(7):
        await harness.advance(seconds=1)
        assert (await subscriber.get("/departments/Kitchen")).status_code == 200
    await harness.advance(seconds=10)
    spent = await subscriber.get("/departments/Kitchen")
    assert spent.status_code == 429
    assert int(spent.headers["retry-after"]) > 3600
    assert {(await internal.get("/departments/Kitchen")).status_code for _ in range(30)} == {200}


async def test_the_api_is_documented(harness: Harness) -> None:
    document = (await harness.client(app).get("/openapi.json")).json()
    assert {path: sorted(verbs) for path, verbs in document["paths"].items()} == {
        "/departments": ["get"],
        "/departments/{department}": ["get"],
        "/drops/{key}": ["delete", "get", "post", "put"],
        "/loads": ["get"],
    }
    assert {"401", "403", "429"} <= set(document["paths"]["/departments"]["get"]["responses"])

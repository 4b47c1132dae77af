"""The directory's part of the tour: a file dropped, read with keys, changed, sent again, and one that was cut off."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from apps.directory.app import app
from apps.play import PAUSE_S, Admin, Command, Play, Step, check, expect

SAMPLES = Path(__file__).parent / "samples"
PARALLEL = 100
DEPARTMENTS = ["Bakery", "Boathouse", "Engineering", "Garden", "Kitchen", "Library"]
PAGES = ["/directory/docs"]


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = DirectoryTour(http, admin, command)
    return [
        play.a_dropped_file_becomes_departments,
        play.departments_are_read_with_keys,
        play.a_changed_file_changes_what_changed,
        play.the_same_file_costs_nothing,
        play.a_file_that_was_cut_off_changes_nothing,
    ]


class DirectoryTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._keys: dict[str, str] = {}
        self._seen = 0

    async def a_dropped_file_becomes_departments(self) -> Sequence[str]:
        for plan in ("internal", "subscriber"):
            self._keys[plan] = (await self._command("key", "create", f"tour-{plan}", "--plan", plan)).strip()
        folder = Path(app.settings.drop_folder)
        unfinished = folder / "staff.csv.part"
        unfinished.write_bytes(sample("staff.csv"))
        unfinished.rename(folder / "staff.csv")
        load = await self._until_loaded("staff.csv")
        check((load["state"], load["inserted"]) == ("loaded", len(DEPARTMENTS)), f"the load is {load}")
        await self._until_changed({f"{name} inserted" for name in DEPARTMENTS})
        return [f"staff.csv dropped into {folder}/: {load['inserted']} departments, in {load['seconds']} s"]

    async def departments_are_read_with_keys(self) -> Sequence[str]:
        expect(await self._http.get("/directory/departments/Kitchen"), 401)
        kitchen = expect(await self._get("subscriber", "/departments/Kitchen"), 200).json()
        found = expect(await self._get("subscriber", "/departments?department.prefix=B&fields=department"), 200).json()
        names = [row["department"] for row in found["items"]]
        check(names == ["Bakery", "Boathouse"], f"the prefix B finds {names}")
        expect(await self._get("subscriber", "/loads"), 403)
        refused = await self._refused("subscriber")
        check(bool(refused), f"all {PARALLEL} were let in")
        check(not await self._refused("internal"), "the plan internal is limited")
        return [
            f"GET /directory/departments/Kitchen without a key: 401, with one: {len(kitchen['employees'])} employees",
            f"GET /directory/departments?department.prefix=B: {', '.join(names)}",
            f"{PARALLEL} GETs at once as subscriber: {len(refused)} answered 429, as internal: none",
        ]

    async def a_changed_file_changes_what_changed(self) -> Sequence[str]:
        await self._put("staff-changed.csv")
        load = await self._until_loaded("staff-changed.csv")
        counts = {name: load[name] for name in ("modified", "unchanged", "vanished")}
        check(counts == {"modified": 2, "unchanged": 3, "vanished": 1}, f"the load is {load}")
        changed = {"Garden modified", "Kitchen modified"}
        await self._until_changed(changed)
        expect(await self._get("internal", "/departments/Library"), 200)
        return [
            "headwater bucket put directory/drops staff-changed.csv staff/staff.csv",
            f"headwater tail directory/departments: {', '.join(sorted(changed))}",
            "Library is not in the file: served for seven more days",
        ]

    async def the_same_file_costs_nothing(self) -> Sequence[str]:
        before = await self._until_loaded("staff-changed.csv")
        await self._put("staff-changed.csv")
        load = await self._until_loaded("staff-changed.csv", but=before["id"])
        check(load["state"] == "unchanged", f"the load is {load}")
        await self._until_changed(set())
        return [f"put once more: {load['state']}, in {load['seconds']} s"]

    async def a_file_that_was_cut_off_changes_nothing(self) -> Sequence[str]:
        await self._put("staff-cut-off.csv")
        load = await self._until_loaded("staff-cut-off.csv")
        check(load["state"] == "failed", f"the load is {load}")
        letters = await self._until_dead()
        check([letter["receives"] for letter in letters] == [1], f"the dead letters are {letters}")
        expect(await self._get("internal", "/departments/Kitchen"), 200)
        return [
            f"GET /directory/loads?state=failed: {load['reason'][:90]}…",
            "headwater dlq ls directory/load-staff: one letter, after one receive; all is served as before",
        ]

    async def _put(self, name: str) -> None:
        await self._command("bucket", "put", "directory/drops", str(SAMPLES / name), "staff/staff.csv")

    async def _get(self, plan: str, path: str) -> httpx.Response:
        return await self._http.get(f"/directory{path}", headers={"X-Api-Key": self._keys[plan]})

    async def _refused(self, plan: str) -> list[httpx.Response]:
        asked = (self._get(plan, "/departments?limit=1") for _ in range(PARALLEL))
        return [answer for answer in await asyncio.gather(*asked) if answer.status_code == 429]

    async def _until_loaded(self, name: str, *, but: str = "") -> dict[str, Any]:
        """Look again and again until the newest load is of this sample; the step's time-out ends it."""
        wanted = hashlib.sha256(sample(name)).hexdigest()
        while True:
            found: list[dict[str, Any]] = expect(await self._get("internal", "/loads?limit=1"), 200).json()["items"]
            if found and found[0]["sha256"] == wanted and found[0]["id"] != but:
                return found[0]
            await asyncio.sleep(PAUSE_S)

    async def _until_dead(self) -> list[dict[str, Any]]:
        """Look until the message of the load is a dead letter: it becomes one after the load is told as failed."""
        while True:
            answer = await self._admin("dead-letters", queue="directory/load-staff")
            if letters := list(answer["dead_letters"]):
                return letters
            await asyncio.sleep(PAUSE_S)

    async def _until_changed(self, wanted: set[str]) -> None:
        """Look until departments have changed like this since the last look; other changes fail the step."""
        seen: list[str] = []
        while True:
            answer = await self._admin("tail", source="directory/departments", after=self._seen, limit=500)
            self._seen = answer["next"]
            seen += [f"{event['subject']} {event['type']}" for event in answer["events"]]
            check(set(seen) <= wanted and len(seen) <= len(wanted), f"the events are {seen}")
            if len(seen) == len(wanted):
                return
            await asyncio.sleep(PAUSE_S)


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()

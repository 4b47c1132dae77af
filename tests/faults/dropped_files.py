"""Files that are dropped one after the other, and the app that loads them: all rows of one file have its number.

So a store can be judged at any moment: its object is whole, what readers see is one file's rows, and each change of a
department has taken effect once. `python -m tests.faults.dropped_files FOLDER POINT PASSES` is the process that the
tests kill: it says "put NUMBER" and "loaded NUMBER" when that was acknowledged, and dies at its point in the third.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from headwater import App, Bucket, Change, Event, ObjectInfo, Table, csv
from headwater.clock import SystemClock
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.engines.sqlite.staging import SqliteStaging
from headwater.objects.local import LocalBlobs
from headwater.runtime.supervisor import Supervisor
from headwater.testing import Harness
from headwater.unit import Commit
from tests.faults.object_victim import FusedDisk, SharedFuse
from tests.faults.victim import say
from tests.patience import PATIENCE_S

KEY = "staff/staff.csv"
DIED_IN = 3
POINTS = (
    *("after-create", "after-write", "after-flush", "after-rename", "after-flush-folder"),
    *("before-object", "after-object", "in-reading", "in-staging"),
    *("before-flip", "after-flip", "before-expansion", "after-expansion", "before-effect", "after-effect"),
)
Pass = Callable[[str], None]


class Row(msgspec.Struct):
    department: str
    employee: str
    file: int


class Employee(msgspec.Struct):
    employee: str


class Department(msgspec.Struct):
    department: str
    file: int
    employees: list[Employee]


class Told(msgspec.Struct):
    """How often a change of a department took effect: to the row of a file, or with it to none."""

    id: str
    times: int


def departments_of(number: int) -> list[str]:
    """From one file to the next, departments vanish and come."""
    return [f"d{n:03}" for n in range(number % 3 * 20, 300) if n % 7 != number % 5]


def file_of(number: int) -> bytes:
    rows = [
        f'{name},"{employee}, {name}",{number}\r\n' for employee in ("Zoë", "Bo") for name in departments_of(number)
    ]
    return "".join(["\ufeffdepartment,employee,file\r\n", *rows]).encode()


def told_by(number: int) -> set[str]:
    """The changes up to this file."""
    changes: set[str] = set()
    before: set[str] = set()
    for file in range(1, number + 1):
        names = set(departments_of(file))
        changes |= {f"{name} to {file}" for name in names}
        changes |= {f"{name} gone after {file - 1}" for name in before - names}
        before = names
    return changes


class House:
    """The app; `passed` is called at the points of its own code."""

    def __init__(self, passed: Pass = lambda _: None) -> None:
        self.app = App("shop")
        self.drops: Bucket = self.app.bucket("drops")
        self.departments: Table[Department] = self.app.table("departments", Department, key="department")
        self.told: Table[Told] = self.app.table("told", Told, key="id")
        self._passed = passed
        self.app.on(self.drops.created)(self.load)
        self.app.on(self.departments, name="tell", batch=50)(self.tell)

    async def load(self, event: Event[ObjectInfo]) -> None:
        async with self.drops.open(event.data) as body:
            rows = csv.read(self._read(body), Row).group(Department, by="department", into="employees")
            await self.departments.load(rows, missing="delete", source=event.data.metadata["number"])

    async def _read(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in body:
            self._passed("in-reading")
            yield chunk

    async def tell(self, changes: list[Change[Department]]) -> None:
        for change in changes:
            new, old = change.new, change.old
            if new is None:
                assert old is not None
                await self._count(f"{old.department} gone after {old.file}")
            else:
                await self._count(f"{new.department} to {new.file}")

    async def _count(self, id: str) -> None:
        told = await self.told.get(id)
        await self.told.put(Told(id, told.times + 1 if told else 1))

    async def put(self, number: int) -> None:
        await self.drops.put(KEY, file_of(number), metadata={"number": str(number)})

    async def loaded(self) -> int:
        newest = await self.departments.loads(limit=1)
        return int(newest[0].source) if newest else 0


async def serve(house: House, engine: SqliteEngine, blobs: LocalBlobs) -> Supervisor:
    supervisor = Supervisor([house.app], engine, SystemClock(), upkeep=False, blobs=blobs)
    await supervisor.start()
    await supervisor.serve()
    return supervisor


async def drop(house: House, number: int, told: Pass) -> None:
    """Put a file and wait until its rows are what readers see."""
    await house.put(number)
    told(f"put {number}")
    async with asyncio.timeout(PATIENCE_S):
        while await house.loaded() != number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    told(f"loaded {number}")


async def settled(house: House, number: int) -> None:
    """Wait until every change up to this file has taken effect."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await _rows(house.told)) != len(told_by(number)):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# The audit


async def audit(folder: Path, put: int, loaded: int) -> list[str]:
    """Every broken promise that the store shows: at once, and when all that waits has been done."""
    house = House()
    async with Harness(house.app, store=folder, start="2040-01-01T00:00:00Z") as h:
        found = await content(house, loaded)
        info = await house.drops.head(KEY)
        number = int(info.metadata["number"]) if info else 0
        if number < put:
            found.append(f"file {put} was acknowledged, {number} is there")
        if info and hashlib.sha256(await house.drops.get(KEY)).digest() != hashlib.sha256(file_of(number)).digest():
            found.append(f"the object is not file {number}")
        await h.run_until_idle()
        found += await content(house, number)
        times = {row.id: row.times for row in await _rows(house.told)}
        found += [f"lost: {change}" for change in sorted(told_by(number) - times.keys())]
        found += [f"never happened: {change}" for change in sorted(times.keys() - told_by(number))]
        found += [f"took effect {n} times: {change}" for change, n in times.items() if n != 1]
        await h.advance(hours=3)
        blobs = {path.name for path in (folder / "objects").glob("[0-9a-f][0-9a-f]/*")}
        if blobs != ({info.blob} if info else set()) or list((folder / "objects" / "tmp").iterdir()):
            found.append("bytes are left that belong to no object")
        while await h.supervisor.engine.sweep_loads(1000):
            pass
        found += [f"{table} keeps rows" for table in ("load", "staged") if _any(h.supervisor.engine, table)]
    return found


async def content(house: House, least: int) -> list[str]:
    rows = await _rows(house.departments)
    files = {row.file for row in rows}
    number = max(files, default=0)
    if len(files) > 1:
        return [f"readers see rows of the files {sorted(files)}"]
    if number < least:
        return [f"file {least} was loaded, {number} is there"]
    if number and [row.department for row in rows] != departments_of(number):
        return [f"the rows are not those of file {number}"]
    if any([e.employee for e in row.employees] != [f"Zoë, {row.department}", f"Bo, {row.department}"] for row in rows):
        return [f"a department of file {number} is not whole"]
    return []


async def _rows(table: Table[Any]) -> list[Any]:
    rows, cursor = [], None
    while True:
        page = await table.query(limit=1000, cursor=cursor)
        rows += page.items
        cursor = page.cursor
        if cursor is None:
            return rows


def _any(engine: Any, table: str) -> bool:
    return bool(engine.reader.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall())


# The victim


def lay(fuse: SharedFuse, engine: SqliteEngine) -> None:
    """Lead the fuse past each kind of commit, and past each slice that is staged."""
    submit, stage = engine.writer.submit, SqliteStaging._stage

    def fused(commit: Commit) -> Any:
        kind = _kind(commit)
        fuse.burn(f"before-{kind}")
        committed = submit(commit)
        committed.add_done_callback(lambda _: fuse.burn(f"after-{kind}"))
        return committed

    async def staged(self: SqliteStaging, rows: Any) -> None:
        await stage(self, rows)
        await self._written()
        fuse.burn("in-staging")

    setattr(engine.writer, "submit", fused)  # noqa: B010
    setattr(SqliteStaging, "_stage", staged)  # noqa: B010


def _kind(commit: Commit) -> str:
    if commit.flips:
        return "flip"
    tables = {write.table for write in commit.writes}
    if "shop/departments" in tables:
        return "expansion"
    return "object" if "shop/drops" in tables else "effect" if "shop/told" in tables else "other"


async def die_on_the_way(folder: Path, point: str, passes: int) -> None:
    fuse = SharedFuse("", passes)
    house = House(fuse.burn)
    engine = SqliteEngine(folder, clock=SystemClock())
    await serve(house, engine, LocalBlobs(folder / "objects", FusedDisk(fuse)))
    lay(fuse, engine)
    for number in range(1, DIED_IN + 2):
        fuse.point = point if number == DIED_IN else ""
        await drop(house, number, say)
        await settled(house, number)
    say("unharmed")


if __name__ == "__main__":
    asyncio.run(die_on_the_way(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

"""`dataset`: a CSV file dropped into a bucket until its documents are served, while others write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import apsw
import asyncpg
import msgspec

from bench.dataset_reading import Department, Row, plain_documents, write_rows
from bench.report import Report, peak_mb, percentile
from bench.served import running
from bench.stores import Setting, Stores, sqlite
from headwater import App, Change, Event, ObjectInfo, csv

_CHANGED_EVERY = 100
_LOOKS, _PERIOD_S = 100_000, 0.001
_LARGEST_FLOOR = 2_000_000
"""Plain polars needs some gigabytes for more rows than these."""


class Count(msgspec.Struct):
    id: str
    n: int


class Directory:
    """The app: departments loaded from files, a handler of their changes, and a table that others write to."""

    def __init__(self) -> None:
        self.app = App("bench")
        self.drops = self.app.bucket("drops")
        self.departments = self.app.table("departments", Department, key="department")
        self.counts = self.app.table("counts", Count, key="id")
        self.changed: list[str] = []
        self.app.on(self.drops.created)(self.load)
        self.app.on(self.departments, name="note", batch=100)(self.note)

    async def load(self, event: Event[ObjectInfo]) -> None:
        async with self.drops.open(event.data) as body:
            rows = csv.read(body, Row).group(Department, by="department", into="employees")
            await self.departments.load(rows, missing="expire", grace="7d", source_sha256=event.data.sha256)

    async def note(self, changes: list[Change[Department]]) -> None:
        self.changed += [change.subject for change in changes]

    async def drop(self, path: Path) -> tuple[float, float]:
        """(seconds to upload, seconds from there until the file's content is what readers see)."""
        loads = len(await self.departments.loads())
        begun = time.perf_counter()
        await self.drops.put(path.name, path)
        uploaded = time.perf_counter()

        async def loaded() -> bool:
            return len(await self.departments.loads()) > loads

        await _until(loaded)
        return uploaded - begun, time.perf_counter() - uploaded

    async def events(self, expected: int) -> float:
        """Seconds until so many changes were handled."""
        begun = time.perf_counter()

        async def handled() -> bool:
            return len(self.changed) >= expected

        await _until(handled)
        return time.perf_counter() - begun

    async def others(self, latencies: list[float]) -> None:
        """Writes of somebody else, one after the other, until cancelled."""
        n = 0
        while True:
            begun = time.perf_counter()
            await self.counts.put(Count(f"c{n % 100}", n))
            latencies.append(time.perf_counter() - begun)
            n += 1
            await asyncio.sleep(0.002)


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(_LOOKS):
        if await done():
            return
        await asyncio.sleep(_PERIOD_S)
    raise TimeoutError("it takes too long")


async def _floor(stores: Stores, path: Path) -> tuple[float, float]:
    """Seconds of plain polars, and of one transaction with all the documents by the names of the departments."""
    begun = time.perf_counter()
    bodies = plain_documents(path)
    read = time.perf_counter()
    if stores.server:
        await _copy(stores, bodies)
    else:
        _write(stores.folder, bodies)
    return read - begun, time.perf_counter() - read


def _write(folder: Path, bodies: list[tuple[str, bytes]]) -> None:
    database = apsw.Connection(str(folder / "floor.db"))
    database.execute("pragma journal_mode=wal; pragma synchronous=full")
    database.execute("create table documents (name text primary key, body blob)")
    with database:
        database.executemany("insert into documents values (?, ?)", bodies)
    database.close()


async def _copy(stores: Stores, bodies: list[tuple[str, bytes]]) -> None:
    connection = await asyncpg.connect(stores.server)
    schema = stores.schema("floor")
    await connection.execute(f"CREATE SCHEMA {schema}")
    async with connection.transaction():
        await connection.execute(f"CREATE TABLE {schema}.documents (name text PRIMARY KEY, body bytea)")
        await connection.copy_records_to_table("documents", schema_name=schema, records=bodies)
    await connection.close()


async def dataset(n: int = 1_000_000, setting: Setting = sqlite) -> Report:
    """`n` rows of 20,000 departments; then the same file once more, and one with each hundredth row changed."""
    departments = max(1, min(20_000, n // 50))
    with setting() as stores:
        folder = stores.folder
        first, changed = folder / "first.csv", folder / "changed.csv"
        write_rows(first, n, departments)
        touched = write_rows(changed, n, departments, changed_every=_CHANGED_EVERY)
        house, latencies = Directory(), list[float]()
        async with running(stores, house.app):
            others = asyncio.create_task(house.others(latencies))
            upload_s, served_s = await house.drop(first)
            peak = peak_mb()
            events_s = await house.events(departments)
            _, same_s = await house.drop(first)
            house.changed.clear()
            _, changed_s = await house.drop(changed)
            await house.events(len(touched))
            exact = set(house.changed) == touched and len(house.changed) == len(touched)
            others.cancel()
        floors = await _floor(stores, first) if n <= _LARGEST_FLOOR else None
        bound = sum(floors) if floors else None
        described = stores.described()
        described["versions"] |= {"polars": version("polars")}
        return Report(
            bench="dataset",
            n=n,
            rate_s=round(n / served_s),
            floor_s=round(n / bound) if bound else None,
            ratio=round(bound / served_s, 3) if bound else None,
            p99_ms=round(percentile(latencies, 0.99) * 1000, 1),
            rss_mb=peak,
            details={
                "file_mb": round(first.stat().st_size / 2**20, 1),
                "departments": departments,
                "upload_seconds": round(upload_s, 3),
                "served_seconds": round(served_s, 3),
                "floor_read_seconds": round(floors[0], 3) if floors else None,
                "floor_write_seconds": round(floors[1], 3) if floors else None,
                "events_seconds": round(events_s, 3),
                "same_file_seconds": round(same_s, 3),
                "changed_seconds": round(changed_s, 3),
                "changed_departments": len(touched),
                "changed_exactly": exact,
                "others_p50_ms": round(percentile(latencies, 0.5) * 1000, 1),
                "others_writes": len(latencies),
            },
            **described,
        )

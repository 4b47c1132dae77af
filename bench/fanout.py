"""`fanout`: one publish to ten queues; messages written durably a second."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import apsw

from bench.bare_postgres import BareTables
from bench.pipeline import PRODUCERS, TEXT, Note, produce
from bench.report import Report, Stopwatch, resident_mb
from bench.served import running
from bench.stores import Setting, Stores, sqlite
from headwater import App, new_id

QUEUES = 10
_GROUP = PRODUCERS


def _floor(folder: Path, publishes: int) -> float:
    """Messages a second of raw SQLite: an event and ten messages a publish, as many publishes a commit."""
    connection = apsw.Connection(str(folder / "bare.db"))
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 16000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute(files("headwater.engines.sqlite").joinpath("schema.sql").read_text("utf-8"))
    body, at = b'{"n":1,"text":"abcdefghijklmnop"}', 1_700_000_000_000
    position = 0
    with Stopwatch() as watch:
        for first in range(0, publishes, _GROUP):
            events = [
                (seq, f"{seq:032x}", f"{seq:032x}", 1, None, at, body, 0, f"1:{seq}")
                for seq in range(first, first + _GROUP)
            ]
            messages = []
            for event in events:
                for queue in range(QUEUES):
                    position += 1
                    messages.append((queue, position, event[0], None, 0, 0, 0, at))
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?)", events)
            connection.executemany("INSERT INTO message VALUES (?,?,?,?,?,?,?,?)", messages)
            connection.execute("COMMIT")
    connection.close()
    return position / watch.seconds


async def _postgres_floor(stores: Stores, publishes: int) -> float:
    """The same by raw asyncpg, a statement and a commit for as many publishes."""
    tables = BareTables(stores, name="bare", queues=QUEUES)
    await tables.open()
    body = b'{"n":1,"text":"abcdefghijklmnop"}'
    with Stopwatch() as watch:
        for _ in range(0, publishes, _GROUP):
            await tables.put([new_id() for _ in range(_GROUP)], [body] * _GROUP)
    await tables.close()
    return tables.sent / watch.seconds


async def fanout(n: int = 30_000, setting: Setting = sqlite) -> Report:
    app = App("bench")
    topic = app.topic("notes", Note)
    for number in range(QUEUES):
        topic.to(app.queue(f"q{number}", Note))
    with setting() as stores:
        floor = await _postgres_floor(stores, n) if stores.server else _floor(stores.folder, n)
        async with running(stores, app):
            with Stopwatch() as watch:
                await produce(n, lambda number: topic.publish(Note(number, TEXT)))
        rate = n * QUEUES / watch.seconds
        return Report(
            bench="fanout",
            n=n * QUEUES,
            rate_s=round(rate),
            floor_s=round(floor),
            ratio=round(rate / floor, 3),
            cpu_us_per_op=round(watch.cpu_s / n / QUEUES * 1e6, 2),
            rss_mb=resident_mb(),
            **stores.described(),
        )

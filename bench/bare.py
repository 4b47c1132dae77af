"""The bare loop: the floor of the queue benchmarks.

The same rows in the same schema, the same group commit on one writer thread with FULL durability, producers that
await their commit and a handler that is awaited and acknowledged: with no routing, leases, models, retries or
anything else that makes it a product.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from array import array
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import msgspec

from bench.bare_postgres import PostgresBareLoop
from bench.stores import Stores

_COLUMNS = {"event": 9, "message": 8, "record": 8}
_CHUNKS = (64, 16, 4, 1)


class BareLoop:
    """`put` writes an event, its message and, for `changes`, a record; `handler` gets each message once."""

    def __init__(self, folder: Path, handler: Callable[[bytes], Awaitable[None]], *, changes: bool = False) -> None:
        self._handler = handler
        self._changes = changes
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._connection = apsw.Connection(str(folder / "bare.db"))
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 16000"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute(files("headwater.engines.sqlite").joinpath("schema.sql").read_text("utf-8"))
        self._seq = 0
        self.commits = 0
        self._thread = threading.Thread(target=self._write, daemon=True)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self._connection.close()

    def put(self, id: str, body: bytes) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put((id, body, done))
        return done

    def _write(self) -> None:
        while (item := self._inbox.get()) is not None:
            items = [item]
            while len(items) < 512:
                try:
                    items.append(self._inbox.get_nowait())
                except queue.Empty:
                    break
            if items[-1] is None:
                self._inbox.put(items.pop())
            self._commit(items)

    def _commit(self, items: list[Any]) -> None:
        execute = self._connection.execute
        events, messages, records, acks, fresh = [], [], [], array("q"), []
        for item in items:
            if isinstance(item, int):
                acks.append(item)
                continue
            id, body, done = item
            self._seq = seq = self._seq + 1
            events.append((seq, id, id, 1, id if self._changes else None, 1_700_000_000_000, body, 0, f"1:{seq}"))
            messages.append((1, seq, seq, id if self._changes else None, 0, 0, 0, 1_700_000_000_000))
            if self._changes:
                records.append((1, id, "", id, 0, 1, None, body))
            fresh.append((seq, body, done))
        execute("BEGIN IMMEDIATE")
        if records:
            marks = ",".join("?" * len(records))
            execute(f"SELECT body FROM record WHERE tbl = 1 AND pk IN ({marks})", [r[1] for r in records]).fetchall()
            self._insert("record", records)
        if events:
            self._insert("event", events)
            self._insert("message", messages)
        if acks:
            execute("DELETE FROM message WHERE queue = 1 AND position IN carray(?)", (apsw.carray(acks),))
        execute("COMMIT")
        self.commits += 1
        self._loop.call_soon_threadsafe(self._deliver, fresh)

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        row = f"({','.join('?' * _COLUMNS[table])})"
        at = 0
        while at < len(rows):
            size = next(size for size in _CHUNKS if size <= len(rows) - at)
            values = [value for row in rows[at : at + size] for value in row]
            self._connection.execute(f"REPLACE INTO {table} VALUES {','.join([row] * size)}", values)
            at += size

    def _deliver(self, fresh: list[Any]) -> None:
        for _, _, done in fresh:
            done.set_result(None)
        self._tasks = asyncio.ensure_future(self._handle(fresh))

    async def _handle(self, fresh: list[Any]) -> None:
        for seq, body, _ in fresh:
            await self._handler(msgspec.json.decode(body))
            self._inbox.put(seq)


def bare_loop(
    stores: Stores, handler: Callable[[bytes], Awaitable[None]], *, changes: bool = False
) -> BareLoop | PostgresBareLoop:
    """The one of the stores' engine."""
    if stores.server:
        return PostgresBareLoop(stores, handler, changes=changes)
    return BareLoop(stores.folder, handler, changes=changes)

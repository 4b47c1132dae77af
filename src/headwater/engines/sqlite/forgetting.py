"""Forgetting a key: looking up what the store keeps of it, and getting the bytes out of the files.

The look-ups are on the reading connection, in slices; what was found goes out with commits (`redaction.py`).

`secure_delete` has SQLite overwrite with zeros what is deleted. It leaves one kind of remains: when a page of a tree is
built anew, what it had may stay between its cell pointers and its cells. `scrub` zeroes that gap, which nobody reads,
in the database file itself: between two batches, when the WAL has nothing that is not in the database, so that the page
in the file is the present one. The writer's cached pages are dropped then, as they would bring the bytes back. At the
end the WAL is truncated.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial

import apsw

from headwater.applying import forgetting as searching
from headwater.applying.documents import subject
from headwater.applying.forgetting import Found, Part, Search
from headwater.applying.state import decode_envelope
from headwater.engine import Forgotten, Remains
from headwater.engines.sqlite.database import BUSY_MS, Row, fetch, verify
from headwater.engines.sqlite.queues import delete_messages
from headwater.engines.sqlite.records import read_places
from headwater.engines.sqlite.staging import Loads
from headwater.events import Envelope

SCAN = 500
_SLICE = 50
SCRUB_PAGES = 256
OWN = (
    "SELECT seq, envelope, crc, messages FROM event WHERE source = ? AND subject = ? AND seq > ?"
    " AND (seq <= ? OR time_ms < ?) ORDER BY seq LIMIT ?"
)
TRACE = "SELECT seq FROM event WHERE trace = ? AND seq > ? ORDER BY seq LIMIT ?"
LETTERS = "SELECT id, envelope, crc FROM dead WHERE id > ? ORDER BY id LIMIT ?"
CLAIMS = "SELECT scope, id, result FROM claim WHERE (scope, id) > (?, ?) ORDER BY scope, id LIMIT ?"
STAGED = (
    "SELECT s.load FROM load l CROSS JOIN staged s ON s.load = l.id AND s.pk = ? AND s.sk = ?"
    " WHERE l.tbl = ? AND l.state != 1"
)
MEMBERS = (
    "SELECT m.scope FROM generation g CROSS JOIN member m"
    " ON m.tbl = g.tbl AND m.scope = g.scope AND m.pk = ? AND m.sk = ? WHERE g.tbl = ?"
)
_AMONG = "SELECT seq, envelope, crc, messages FROM event WHERE seq IN carray(?)"
_MESSAGE = "SELECT 1 FROM message WHERE queue = ? AND position = ?"
_TREE_PAGES = {2: 12, 5: 12, 10: 8, 13: 8}
"""The first byte of a page of a tree, and how long its header is. Other pages begin with the high byte of a page's
number, which is none of these in files of up to 128 GiB; the pointer maps of an auto-vacuumed file would be others."""
_MOST_PAGES = 2 << 24


class _Search(Search):
    def __init__(self, store: Loads) -> None:
        self._store = store

    async def own(self, forgotten: Forgotten) -> AsyncGenerator[list[Found], None]:
        source, named = self._store.state.ids.get(forgotten.table, 0), subject(forgotten.key)
        for own in (named, f"/{named}"):
            after = 0
            while rows := await self._events(
                OWN, (source, own, after, forgotten.until, forgotten.until_ms, searching.SLICE)
            ):
                yield rows
                after = rows[-1].place

    async def having(self, trace: str, needles: Sequence[bytes]) -> AsyncGenerator[list[Found], None]:
        likely = " OR ".join(["instr(envelope, ?)"] * len(needles))
        after = 0
        while seqs := [seq for (seq,) in fetch(self._store.reader, TRACE, (trace, after, SCAN))]:
            for at in range(0, len(seqs), searching.SLICE):
                among = apsw.carray(array("q", seqs[at : at + searching.SLICE]))
                yield await self._events(f"{_AMONG} AND ({likely})", (among, *needles))
            after = seqs[-1]

    async def _events(self, statement: str, bindings: Row) -> list[Found]:
        rows = fetch(self._store.reader, statement, bindings)
        await asyncio.sleep(0)
        return [
            Found(seq, _decoded("event", seq, body, crc), len(body), self._waiting(messages))
            for seq, body, crc, messages in rows
        ]

    def _waiting(self, messages: str) -> list[tuple[str, int]]:
        places = [place for place in read_places(messages).items() if fetch(self._store.reader, _MESSAGE, place)]
        return [(self._store.state.names[queue], position) for queue, position in places]

    async def letters(self) -> AsyncGenerator[list[Found], None]:
        after = 0
        while rows := fetch(self._store.reader, LETTERS, (after, searching.SLICE)):
            yield [Found(id, _decoded("dead letter", id, body, crc), len(body)) for id, body, crc in rows]
            after = rows[-1][0]
            await asyncio.sleep(0)

    async def loaded(self, forgotten: Forgotten) -> AsyncGenerator[Part, None]:
        table = self._store.state.ids.get(forgotten.table, 0)
        for (load,) in fetch(self._store.reader, STAGED, (*forgotten.key, table)):
            yield Part("staged", (load, *forgotten.key))
        for (scope,) in fetch(self._store.reader, MEMBERS, (*forgotten.key, table)):
            yield Part("member", (table, scope, *forgotten.key))

    async def claims(self) -> AsyncGenerator[list[tuple[str, str, bytes]], None]:
        after = ("", "")
        while rows := fetch(self._store.reader, CLAIMS, (*after, searching.SLICE)):
            yield rows
            after = rows[-1][:2]
            await asyncio.sleep(0)


class Forgetting(Loads):
    async def traces(self, forgotten: Forgotten) -> set[str]:
        return await _Search(self).traces(forgotten)

    def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        return _Search(self).remains(forgotten, traces)

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        total = 0
        for queue in sorted({queue for queue, _ in places}):
            positions = [position for of, position in places if of == queue]
            for at in range(0, len(positions), _SLICE):
                total += await self._withdraw(self.state.ids[queue], positions[at : at + _SLICE])
        return total

    async def _withdraw(self, number: int, positions: list[int]) -> int:
        def work(connection: apsw.Connection, held: list[int]) -> int:
            among = apsw.carray(array("q", positions))
            present = fetch(
                connection, "SELECT position FROM message WHERE queue = ? AND position IN carray(?)", (number, among)
            )
            self._hold(number, [position for (position,) in present], held)
            delete_messages(connection, number, held)
            return 0

        removed, _ = await self._remove(number, work)
        return removed

    async def scrub(self) -> bool:
        ((size,),) = fetch(self.reader, "PRAGMA page_size")
        ((vacuums,),) = fetch(self.reader, "PRAGMA auto_vacuum")
        pages = (self.folder / "store.db").stat().st_size // size
        if pages < _MOST_PAGES and not vacuums:
            for first in range(0, pages, SCRUB_PAGES):
                if not await self.writer.run(partial(self._scrub, first, size), durable=False):
                    return False
        return bool(await self.writer.run(_truncate_wal, durable=False))

    def _scrub(self, first: int, size: int, connection: apsw.Connection) -> bool:
        """Zero the gaps of a few pages of the database file."""
        try:
            in_wal, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return False
        if moved < in_wal:
            return False
        # Through SQLite's own VFS: closing a descriptor of ours would give up the process's locks on the file.
        flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
        file = apsw.VFSFile(self._vfs or "", str(self.folder / "store.db"), flags)
        try:
            length = min(SCRUB_PAGES * size, file.xFileSize() - first * size)
            content = file.xRead(length, first * size)
            gaps = list(_gaps(content, size, first))
            for offset, gap in gaps:
                file.xWrite(bytes(gap), first * size + offset)
            if gaps:
                file.xSync(apsw.SQLITE_SYNC_FULL)
                connection.release_memory()
        finally:
            file.xClose()
        return True


def _gaps(content: bytes, size: int, first: int) -> Iterator[tuple[int, int]]:
    """The gaps of these pages that are not zero: (offset, length)."""
    for page in range(0, len(content), size):
        header = page + (100 if page == 0 == first else 0)
        length = _TREE_PAGES.get(content[header])
        if length is None:
            continue
        begin = header + length + 2 * int.from_bytes(content[header + 3 : header + 5])
        end = page + (int.from_bytes(content[header + 5 : header + 7]) or 65_536)
        if begin < end <= page + size and content[begin:end].strip(b"\0"):
            yield begin, end - begin


def _truncate_wal(connection: apsw.Connection) -> bool:
    connection.set_busy_timeout(0)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    finally:
        connection.set_busy_timeout(BUSY_MS)
    return True


def _decoded(kind: str, place: int, body: bytes, crc: int) -> Envelope:
    verify(crc, lambda: f"{kind} {place}", body)
    return decode_envelope(body)

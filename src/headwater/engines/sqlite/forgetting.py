"""Forgetting a key: finding what the store keeps of it, and getting the bytes out of the files.

Finding is on the reading connection, in slices; what was found goes out with commits (`redaction.py`). Order matters,
since an erasure may begin anew at any point: the traces are found by the key's own changes, so of each trace the other
events go before those; and while a message of a trace waits, its handler may still add to the trace.

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
from typing import Literal, NamedTuple

import apsw

from headwater.applying.documents import subject
from headwater.applying.state import decode_envelope
from headwater.codec import encode_json
from headwater.engine import Forgotten, Remains
from headwater.engines.sqlite.database import BUSY_MS, Row, fetch, verify
from headwater.engines.sqlite.queues import delete_messages
from headwater.engines.sqlite.records import read_places
from headwater.engines.sqlite.redaction import REDACTED, claim_names, names_key, values_of
from headwater.engines.sqlite.staging import Loads
from headwater.events import Envelope
from headwater.unit import Redaction

SLICE, SLICE_BYTES = 50, 256 * 1024
SCAN = 500
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


class _Part(NamedTuple):
    """One thing that is left of a key, or the messages that still need it."""

    kind: Literal["event", "dead_letter", "claim", "staged", "member"]
    place: tuple[int | str, ...]
    size: int = 0
    waiting: Sequence[tuple[str, int]] = ()
    whole: bool = True


Found = tuple[int, Envelope, str, int]
"""An event's position (or a dead letter's id), the event, its messages, its size."""


class Forgetting(Loads):
    async def traces(self, forgotten: Forgotten) -> set[str]:
        found: set[str] = set()
        async for events in self._own(forgotten):
            found.update(event.trace for _, event, *_ in events)
        async for letters in self._letters():
            found.update(event.trace for _, event, *_ in letters if _is_own(event, forgotten))
        return found - {""}

    async def remains(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[Remains, None]:
        slice, size = Remains([], []), 0
        async for part in self._parts(forgotten, traces):
            if part.waiting:
                slice.waiting.extend(part.waiting)
                continue
            slice.redactions.append(Redaction(part.kind, part.place, forgotten.mark, part.whole))
            size += part.size
            if len(slice.redactions) == SLICE or size > SLICE_BYTES:
                yield slice
                slice, size = Remains([], []), 0
        if slice.redactions or slice.waiting:
            yield slice

    async def _parts(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[_Part, None]:
        held: set[str] = set()
        async for events in self._telling(forgotten, traces):
            for found in events:
                yield (part := self._part(found, whole=_tells(found[1], forgotten)))
                if part.waiting:
                    held.add(found[1].trace)
        waits = bool(held)
        async for events in self._own(forgotten):
            for found in events:
                if found[1].trace not in held:
                    yield (part := self._part(found))
                    waits = waits or bool(part.waiting)
        async for letters in self._letters():
            for id, event, _, size in letters:
                whole = _is_own(event, forgotten) or (event.trace in traces and _tells(event, forgotten))
                if whole or (event.trace in traces and _is_by(event, forgotten)):
                    yield _Part("dead_letter", (id,), size, whole=whole)
        for part in self._staged(forgotten):
            yield part
        if not waits:
            async for claim in self._claims(forgotten):
                yield _Part("claim", claim)

    def _part(self, found: Found, *, whole: bool = True) -> _Part:
        seq, _, messages, size = found
        waiting = [place for place in read_places(messages).items() if fetch(self.reader, _MESSAGE, place)]
        places = [(self.state.names[queue], position) for queue, position in waiting]
        return _Part("event", (seq,), size, places, whole)

    async def _own(self, forgotten: Forgotten) -> AsyncGenerator[list[Found], None]:
        """The key's own changes and their copies."""
        source, named = self.state.ids.get(forgotten.table, 0), subject(forgotten.key)
        for own in (named, f"/{named}"):
            after = 0
            while rows := await self._events(OWN, (source, own, after, forgotten.until, forgotten.until_ms, SLICE)):
                yield rows
                after = rows[-1][0]

    async def _telling(self, forgotten: Forgotten, traces: set[str]) -> AsyncGenerator[list[Found], None]:
        """Other events of the traces that name the key, or were caused by a caller of this name."""
        likely, needles = _likely(forgotten)
        for trace in traces:
            after = 0
            while seqs := [seq for (seq,) in fetch(self.reader, TRACE, (trace, after, SCAN))]:
                for at in range(0, len(seqs), SLICE):
                    among = apsw.carray(array("q", seqs[at : at + SLICE]))
                    events = await self._events(f"{_AMONG} AND ({likely})", (among, *needles))
                    yield [found for found in events if _tells(found[1], forgotten) or _is_by(found[1], forgotten)]
                after = seqs[-1]

    async def _events(self, statement: str, bindings: Row) -> list[Found]:
        rows = fetch(self.reader, statement, bindings)
        await asyncio.sleep(0)
        return [(seq, _decoded("event", seq, body, crc), messages, len(body)) for seq, body, crc, messages in rows]

    async def _letters(self) -> AsyncGenerator[list[Found], None]:
        after = 0
        while rows := fetch(self.reader, LETTERS, (after, SLICE)):
            yield [(id, _decoded("dead letter", id, body, crc), "", len(body)) for id, body, crc in rows]
            after = rows[-1][0]
            await asyncio.sleep(0)

    def _staged(self, forgotten: Forgotten) -> Iterator[_Part]:
        """What loads keep of the key that are not flipped, and that their scopes have had it."""
        table = self.state.ids.get(forgotten.table, 0)
        for (load,) in fetch(self.reader, STAGED, (*forgotten.key, table)):
            yield _Part("staged", (load, *forgotten.key))
        for (scope,) in fetch(self.reader, MEMBERS, (*forgotten.key, table)):
            yield _Part("member", (table, scope, *forgotten.key))

    async def _claims(self, forgotten: Forgotten) -> AsyncGenerator[tuple[str, str], None]:
        after = ("", "")
        while rows := fetch(self.reader, CLAIMS, (*after, SLICE)):
            for scope, id, result in rows:
                if claim_names(scope, id, result, forgotten.names):
                    yield scope, id
            after = rows[-1][:2]
            await asyncio.sleep(0)

    async def withdraw(self, places: Sequence[tuple[str, int]]) -> int:
        total = 0
        for queue in sorted({queue for queue, _ in places}):
            positions = [position for of, position in places if of == queue]
            for at in range(0, len(positions), SLICE):
                total += await self._withdraw(self.state.ids[queue], positions[at : at + SLICE])
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


def _is_own(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether a dead letter is a change of the key, from before it was forgotten."""
    if (event.source, event.key) != (forgotten.table, forgotten.key):
        return False
    return event.time_ms <= forgotten.until_ms


def _tells(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether an event that is not a change of the key itself names it."""
    if REDACTED in event.attributes or (event.source, event.key) == (forgotten.table, forgotten.key):
        return False
    return names_key(values_of(event), forgotten.names)


def _is_by(event: Envelope, forgotten: Forgotten) -> bool:
    """Whether another event's caller is who is forgotten."""
    if event.caller is None or (event.source, event.key) == (forgotten.table, forgotten.key):
        return False
    return names_key({event.caller.subject}, forgotten.names)


def _likely(forgotten: Forgotten) -> tuple[str, list[bytes]]:
    """A condition for events that may name the key, which spares the decoding of most others."""
    needles = {form for key in forgotten.names for form in (key[0].encode(), encode_json(key[0])[1:-1])}
    return " OR ".join(["instr(envelope, ?)"] * len(needles)), list(needles)


def _decoded(kind: str, place: int, body: bytes, crc: int) -> Envelope:
    verify(crc, lambda: f"{kind} {place}", body)
    return decode_envelope(body)

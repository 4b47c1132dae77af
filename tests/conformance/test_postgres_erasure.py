"""Forgetting in the PostgreSQL engine: what VACUUM takes out, what holds it up, and several processes at once."""

from __future__ import annotations

import asyncio
import re
import secrets
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headwater.engines.postgres import forgetting
from headwater.engines.postgres.engine import PostgresEngine
from headwater.erasures import erase, erasure_of
from headwater.errors import StoreError
from headwater.events import Caller
from headwater.graph import build_graph
from headwater.system import System
from headwater.unit import Redaction, new_commit
from tests.conformance.conftest import postgres_store
from tests.conformance.loading import stage
from tests.conformance.test_erasure import CATALOG, CHANGES, MARK, TABLE, redact, request, told
from tests.conformance.workbench import Store, image, key_of, write
from tests.faults import forgetful
from tests.patience import PATIENCE_S

_PAGE = 8192
_FILES = (
    "SELECT pg_relation_filepath(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relkind IN ('r', 'i')"
)


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG)


@pytest.fixture
async def beside(opened: Store, postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is none of the engine's."""
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


@pytest.fixture
def tokens_left(store: Store, postgres: str) -> Callable[[], Awaitable[set[str]]]:
    """Which of the tokens of `forgetful` the store still has."""

    async def look() -> set[str]:
        connection = await asyncpg.connect(postgres)
        try:
            return await kept(connection, engine_of(store).address.schema, [forgetful.TOKEN, forgetful.OTHER])
        finally:
            await connection.close()

    return look


def engine_of(store: Store) -> PostgresEngine:
    assert isinstance(store.engine, PostgresEngine)
    return store.engine


async def kept(beside: asyncpg.Connection, schema: str, tokens: Sequence[str]) -> set[str]:
    """The tokens that are in some item of a page of the schema's tables and indexes, dead ones too."""
    await beside.execute("CHECKPOINT")
    found = set()
    for (path,) in await beside.fetch(_FILES, schema):
        content = await beside.fetchval("SELECT pg_read_binary_file($1)", path)
        items = b"\n".join(item for page in range(0, len(content), _PAGE) for item in _items(content[page:][:_PAGE]))
        found |= {token for token in tokens if token.encode() in items}
    return found


def _items(page: bytes) -> list[bytes]:
    lower = int.from_bytes(page[12:14], "little")
    pointers = [pointer for (pointer,) in struct.iter_unpack("<I", page[24:lower])] if lower > 24 else []
    return [page[x & 0x7FFF :][: x >> 17] for x in pointers if (x >> 15) & 3 == 1]


async def test_scrubbing_leaves_no_row_and_no_index_entry_behind(opened: Store, beside: asyncpg.Connection) -> None:
    people = [f"person-{n:03}-private" for n in range(40)]
    for n in range(3):
        for key in people:
            await opened.put(TABLE, key, {"id": key, "n": n, "name": key})
    await stage(opened.engine, TABLE, {key: {"name": key, "n": 9} for key in people})
    await opened.drain(CHANGES)
    gone = people[::4]
    for key in gone:
        forgotten = await request(opened, key)
        await opened.drain(CHANGES)
        await redact(opened, forgotten)
    schema = engine_of(opened).address.schema
    assert await kept(beside, schema, gone), "the search finds what is there"
    assert await opened.engine.scrub()
    assert await kept(beside, schema, people) == set(people) - set(gone)


async def test_a_transaction_that_may_see_the_old_rows_holds_it_up(
    opened: Store, beside: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "SHORT_S", 0.05)
    reading = beside.transaction(isolation="repeatable_read")
    await reading.start()
    await beside.fetch("SELECT count(*) FROM pg_class")
    await opened.put(TABLE, "ann", {"id": "ann"})
    assert not await opened.engine.scrub()
    await reading.rollback()
    assert await opened.engine.scrub()
    reading = beside.transaction(isolation="repeatable_read")
    await reading.start()
    await beside.fetch("SELECT count(*) FROM pg_class")
    assert await opened.engine.scrub(), "it sees the new rows"
    await reading.rollback()


async def test_who_may_not_vacuum_is_told(opened: Store, beside: asyncpg.Connection, postgres_url: str) -> None:
    schema = engine_of(opened).address.schema
    role = f"guest_{secrets.token_hex(4)}"
    await beside.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'guest'; GRANT USAGE ON SCHEMA {schema} TO {role};"
        f" GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};"
        f" GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
    )
    try:
        parts = urlsplit(postgres_url)
        url = urlunsplit(parts._replace(netloc=f"{role}:guest@{parts.netloc.rpartition('@')[2]}"))
        guest = postgres_store(url)(opened.clock)
        await guest.open()
        try:
            with pytest.raises(StoreError, match="may not VACUUM attempt, claim"):
                await guest.scrub()
        finally:
            await guest.close()
    finally:
        await beside.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_what_a_process_writes_later_stays_although_its_clock_is_behind(opened: Store) -> None:
    behind = Store(opened.make)
    await behind.engine.open()
    opened.clock.advance(5)
    await opened.put(TABLE, "ann", {"id": "ann", "name": "Old"})
    forgotten = await request(opened)
    try:
        await behind.put(TABLE, "ann", {"id": "ann", "name": "New"})
    finally:
        await behind.engine.close()
    await opened.drain(CHANGES)
    assert (await redact(opened, forgotten))[0] == ["event"] * 2
    (left,) = await opened.engine.history(TABLE, key_of("ann"), 9)
    assert image(left.data) == {"id": "ann", "name": "New"}
    assert left.time_ms < forgotten.until_ms


async def test_two_processes_that_redact_an_event_at_once_lose_neither_redaction(
    opened: Store, beside: asyncpg.Connection
) -> None:
    commit = new_commit(caller=Caller("eve"))
    write(commit, TABLE, "ann", {"id": "ann"})
    await opened.engine.commit(commit)
    await opened.drain(CHANGES)
    event = await opened.engine.event((await told(opened))[0].id)
    assert event is not None
    other = Store(opened.make)
    await other.engine.open()
    schema = engine_of(opened).address.schema

    async def waits(count: int) -> None:
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
        deadline = time.monotonic() + PATIENCE_S
        while await beside.fetchval(blocked) < count:
            assert time.monotonic() < deadline

    def redaction(*, whole: bool) -> list[Any]:
        return [Redaction("event", (event.position,), MARK, whole)]

    try:
        async with beside.transaction():
            await beside.execute(f"SELECT FROM {schema}.event FOR UPDATE")
            first = asyncio.ensure_future(opened.commit(redactions=redaction(whole=True)))
            await waits(1)
            second = asyncio.ensure_future(other.commit(redactions=redaction(whole=False)))
            await waits(2)
        await asyncio.gather(first, second)
    finally:
        await other.engine.close()
    (left,) = await told(opened)
    assert (left.data, left.key, left.caller) == (None, None, None)


async def test_a_message_sent_while_the_head_of_its_group_is_withdrawn_is_delivered(
    opened: Store, beside: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.put(TABLE, "ann", {"id": "ann", "n": 1})
    (head,) = await opened.engine.peek(CHANGES, 9)
    other = Store(opened.make)
    await other.engine.open()
    removed, sent = asyncio.Event(), asyncio.Event()
    remove = PostgresEngine.remove

    async def remove_slowly(self: PostgresEngine, *arguments: Any) -> None:
        await remove(self, *arguments)
        removed.set()
        await sent.wait()

    monkeypatch.setattr(PostgresEngine, "remove", remove_slowly)
    try:
        withdrawing = asyncio.ensure_future(opened.engine.withdraw([(CHANGES, head.position)]))
        await removed.wait()
        sending = asyncio.ensure_future(other.put(TABLE, "ann", {"id": "ann", "n": 2}))
        deadline = time.monotonic() + PATIENCE_S
        while not sending.done() and not await beside.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() < deadline
        sent.set()
        assert await withdrawing == 1
        await sending
    finally:
        await other.engine.close()
    (delivery,) = await opened.take(CHANGES)
    assert image(delivery.event.data) == {"id": "ann", "n": 2}


async def test_two_processes_that_work_on_one_erasure_finish_it(
    store: Store, tokens_left: Callable[[], Awaitable[set[str]]]
) -> None:
    await store.open()
    await store.engine.install(build_graph([System().app]).catalog)
    await store.engine.install(forgetful.CATALOG)
    await forgetful.live(store.engine)
    event = await forgetful.request(store.engine)
    other = Store(store.make)
    await other.engine.open()
    assert await tokens_left() == {forgetful.TOKEN, forgetful.OTHER}
    try:
        ended = await asyncio.gather(*(erase(x.engine, event, forgetful.ID) for x in (store, other)))
    finally:
        await other.engine.close()
    erasure = await erasure_of(store.engine, forgetful.ID)
    assert erasure is not None
    assert (ended, erasure.state, erasure.targets) == ([None, None], "done", [])
    assert erasure.events >= 2 * forgetful.CHANGES + 1
    assert await tokens_left() == {forgetful.OTHER}
    assert await store.engine.check() == []


STATEMENTS = (
    forgetting.OWN,
    forgetting.TRACE,
    forgetting.HAVING,
    forgetting.WAITING,
    forgetting.LETTERS,
    forgetting.CLAIMS,
    forgetting.STAGED,
    forgetting.MEMBERS,
)
_TYPES = {"int4": "1::int", "int8": "1::bigint", "text": "'a'::text", "bytea": "'a'::bytea"}
_FEW = ("load", "generation")


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_looking_walks_no_table(opened: Store, beside: asyncpg.Connection, statement: str) -> None:
    text = engine_of(opened).database.sql(statement)
    prepared = await beside.prepare(text)
    for n, parameter in reversed(list(enumerate(prepared.get_parameters(), 1))):
        value = _TYPES[parameter.name.removesuffix("[]")]
        text = text.replace(f"${n}", f"ARRAY[{value}]" if parameter.name.endswith("[]") else f"({value})")
    async with beside.transaction():
        await beside.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = "\n".join(line for (line,) in await beside.fetch(f"EXPLAIN {text}"))
    walked = re.findall(r"Seq Scan on (\w+)|Index (?:Only )?Scan using \w+ on (\w+) (?!.*\n\s+Index Cond)", plan)
    assert {table for pair in walked for table in pair if table} <= {*_FEW}, plan

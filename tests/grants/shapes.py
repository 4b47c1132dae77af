"""Shapes of code, each with the grants that it needs, told by hand. Each runs, too: what runs must be granted."""

# ruff: noqa: PLW0108
from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel

from headwater import App, Table

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Row(BaseModel):
    id: str = "1"
    n: int = 0

    async def save(self) -> None:
        await rows.put(self)


class Note(BaseModel):
    id: str = "1"


elsewhere = App("elsewhere")
elsewhere.topic("told", Note)
elsewhere.topic("news", Note)
app = App("shapes")
rows = app.table("rows", Row, key="id", indexes={"by-n": "id"})
notes = app.table("notes", Note, key="id")
told = app.topic("told", Note)
jobs = app.queue("jobs", Note)
files = app.bucket("files", versions=True)
daily = app.schedule("1d", name="daily")
other = app.foreign("elsewhere/told", Note)
SHAPES: dict[str, tuple[Callable[..., Any], set[str]]] = {}


def shape(*grants: str) -> Callable[[F], F]:
    """`resource verb` of each grant; `resource *` for all verbs, because the resource escapes."""

    def register(fn: F) -> F:
        assert fn.__name__ not in SHAPES
        SHAPES[fn.__name__] = fn, set(grants)
        return fn

    return register


# Plain calls


@shape("rows get")
async def a_call() -> None:
    await rows.get("1")


@shape("rows get", "rows put", "rows update", "rows delete", "rows query", "rows history")
async def each_verb_of_a_table() -> None:
    await rows.read("1")
    await rows.put(Row())
    await rows.update("1", set={"n": 1})
    await rows.query(limit=10)
    await rows.history("1")
    await rows.delete("1")


@shape("files put", "files get", "files list", "files delete")
async def each_verb_of_a_bucket() -> None:
    await files.put("a", b"1")
    await files.put("a", b"2")
    async with files.open("a") as chunks:
        _ = [chunk async for chunk in chunks]
    info = await files.head("a")
    assert info is not None
    old = (await files.versions("a")).items[0]
    assert await files.head("a", version=old.sequencer) == old
    await files.list()
    await files.delete("a")


@shape("told publish", "jobs send", "daily run")
async def messages() -> None:
    await told.publish(Note())
    await jobs.send(Note())
    await daily.run()


@shape("rows replay", "jobs send")
async def a_replay_sends_to_its_queue() -> None:
    await rows.replay(jobs)


@shape("rows load", "rows loads")
async def a_load() -> None:
    await rows.load([Row(id="7")])
    await rows.loads()


@shape("rows forget", "notes forget", "rows erasures")
async def forgetting_takes_other_tables_along() -> None:
    await rows.forget("1", also=[notes])
    await rows.erasures()


@shape("other subscribe")
async def another_apps_topic() -> None:
    await other.subscribe("shapes/jobs")


@shape("elsewhere/news subscribe")
async def another_apps_topic_named_in_the_function() -> None:
    await app.foreign("elsewhere/news", Note).subscribe("shapes/jobs")


@shape()
async def nothing() -> None:
    assert rows.name == "shapes/rows"
    assert jobs.depth.name


# Branches and loops


@shape("rows get", "notes get")
async def both_branches() -> None:
    if await rows.get("1") is None:
        await notes.get("1")


@shape("rows get", "notes get")
async def a_choice() -> None:
    await (notes if await rows.get("0") is None else rows).get("1")


@shape("rows get", "notes get")
async def the_handler_of_an_exception() -> None:
    try:
        await rows.get("1")
        raise KeyError
    except KeyError:
        await notes.get("1")


@shape("rows put")
async def a_finally() -> None:
    try:
        pass
    finally:
        await rows.put(Row())


@shape("rows get", "notes get")
async def a_loop_over_resources() -> None:
    for table in (rows, notes):
        await table.get("1")


@shape("rows get", "notes get")
async def a_name_bound_late_in_a_loop() -> None:
    table: Any = rows
    for _ in range(2):
        await table.get("1")
        table = notes


@shape("rows get")
async def a_comprehension() -> None:
    _ = [await rows.get(id) for id in ("1", "2")]


@shape("rows get", "notes get")
async def a_comprehension_over_resources() -> None:
    found: list[Any] = [rows, notes]
    _ = {table.name: await table.get("1") for table in found}


@shape("rows query")
async def an_async_generator() -> None:
    async def pages() -> AsyncIterator[Row]:
        for row in (await rows.query(limit=5)).items:
            yield row

    _ = [row async for row in pages()]


@shape("rows get")
async def a_walrus() -> None:
    if (table := rows) is not None:
        await table.get("1")


@shape("rows get", "notes get")
async def a_match() -> None:
    found: list[Any] = [rows, notes]
    match found:
        case [first, second]:
            await first.get("1")
            await second.get("1")


@shape("rows get")
async def a_match_on_the_subject() -> None:
    match rows:
        case Table() as found:
            await found.get("1")


# Aliases and containers

TABLES: dict[str, Table[Any]] = {"rows": rows, "notes": notes}
PAIR = (rows, notes)


@shape("rows get")
async def an_alias() -> None:
    table = rows
    await table.get("1")


@shape("rows get", "notes put")
async def two_names_at_once() -> None:
    first, second = rows, notes
    await first.get("1")
    await second.put(Note())


@shape("notes get")
async def an_entry_of_a_mapping() -> None:
    await TABLES["notes"].get("1")


@shape("rows get", "notes get")
async def an_entry_that_is_not_known() -> None:
    for name in ("rows", "notes"):
        await TABLES[name].get("1")


@shape("rows get", "notes get")
async def the_values_of_a_mapping() -> None:
    for _, table in TABLES.items():
        await table.get("1")


@shape("notes get")
async def an_element_by_its_number() -> None:
    await PAIR[1].get("1")


@shape("rows get", "notes get")
async def a_list_that_grows() -> None:
    found: list[Any] = []
    found.append(rows)
    found += [notes]
    for table in found:
        await table.get("1")


@shape("rows get")
async def the_tables_of_an_app() -> None:
    await app.tables["shapes/rows"].get("1")


@shape("rows get")
async def an_attribute_by_its_name() -> None:
    read = getattr(rows, "get")  # noqa: B009
    await read("1")


@shape("rows get")
async def a_method_in_a_name() -> None:
    read = rows.get
    await read("1")


# Functions


async def read_row(id: str) -> Row | None:
    return await rows.get(id)


async def read_from(table: Table[Any], id: str = "1") -> Any:
    return await table.get(id)


def pick(name: str) -> Table[Any]:
    return rows if name == "rows" else notes


@shape("rows get")
async def a_function() -> None:
    await read_row("1")


@shape("notes get")
async def a_table_as_an_argument() -> None:
    await read_from(notes)


@shape("notes get")
async def a_table_as_a_named_argument() -> None:
    await read_from(table=notes, id="2")


@shape("rows get", "notes get")
async def what_a_function_returns() -> None:
    await pick("rows").get("1")


@shape("rows get")
async def a_nested_function() -> None:
    async def inner() -> None:
        await rows.get("1")

    await inner()


@shape()
async def a_nested_function_that_nobody_calls() -> None:
    async def inner() -> None:
        await rows.get("1")

    del inner


@shape("notes get")
async def a_nested_function_with_a_name_of_the_outer() -> None:
    table = notes

    async def inner() -> None:
        await table.get("1")

    await inner()


def reader_of(table: Table[Any]) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        return await table.get("1")

    return read


read_notes = reader_of(notes)


@shape("notes get")
async def a_closure_made_at_import() -> None:
    await read_notes()


@shape("rows get")
async def a_closure_made_here() -> None:
    await reader_of(rows)()


@shape("rows get")
async def a_lambda() -> None:
    read: Callable[[str], Any] = lambda id: rows.get(id)  # noqa: E731
    await read("1")


@shape("rows get")
async def a_recursion() -> None:
    async def down(n: int) -> None:
        if n:
            await rows.get("1")
            await down(n - 1)

    await down(3)


async def with_default(table: Table[Any] = notes) -> None:
    await table.get("1")


@shape("notes get")
async def a_default_value() -> None:
    await with_default()


async def of_many(*tables: Table[Any], **named: Table[Any]) -> None:
    for table in (*tables, *named.values()):
        await table.get("1")


@shape("rows get", "notes get")
async def any_number_of_arguments() -> None:
    await of_many(rows, last=notes)


@shape("rows get", "notes get")
async def arguments_unpacked() -> None:
    await of_many(*PAIR)


@shape("notes put")
async def a_partial() -> None:
    await functools.partial(notes.put, Note())()


@shape("rows get")
async def a_partial_of_an_own_function() -> None:
    await functools.partial(read_from, rows)()


keep_note = functools.partial(read_from, notes)


@shape("notes get")
async def a_partial_made_at_import() -> None:
    await keep_note()


# Decorators


def logged(fn: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    async def inner() -> Any:
        await notes.put(Note())
        return await fn()

    return inner


def logged_as(table: Table[Any]) -> Callable[[Callable[[], Awaitable[Any]]], Callable[[], Awaitable[Any]]]:
    def decorate(fn: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        @functools.wraps(fn)
        async def inner() -> Any:
            await table.put(table.model())
            return await fn()

        return inner

    return decorate


@shape("rows get", "notes put")
@logged
async def a_decorated_function() -> None:
    await rows.get("1")


@shape("rows get", "rows put")
@logged_as(rows)
async def a_decorator_with_arguments() -> None:
    await rows.get("1")


@functools.lru_cache
def chosen() -> Table[Any]:
    return notes


@shape("notes get")
async def a_cached_function() -> None:
    await chosen().get("1")


@shape("rows get", "notes put")
async def a_decorator_of_a_nested_function() -> None:
    @logged
    async def inner() -> None:
        await rows.get("1")

    await inner()


@asynccontextmanager
async def noted() -> AsyncIterator[Table[Any]]:
    await notes.put(Note())
    yield rows


@contextmanager
def lent() -> Iterator[Table[Any]]:
    yield notes


@shape("notes put", "rows get")
async def an_async_context() -> None:
    async with noted() as table:
        await table.get("1")


@shape("notes get")
async def a_context() -> None:
    with lent() as table:
        await table.get("1")

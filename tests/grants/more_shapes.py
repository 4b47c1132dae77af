"""Shapes of code with classes, with what the standard library calls, and with what cannot be followed."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import msgspec

from headwater import Table, uses, wait
from tests.grants.shapes import Note, Row, notes, read_from, read_row, rows, shape

T = TypeVar("T")


# Classes


class Store:
    default = notes

    def __init__(self, table: Table[Any]) -> None:
        self.table = table

    async def read(self) -> Any:
        return await self.table.get("1")

    async def read_default(self) -> Any:
        return await self.default.get("1")

    @property
    def mine(self) -> Table[Any]:
        return self.table

    @functools.cached_property
    def kept(self) -> Table[Any]:
        return self.table

    @classmethod
    def of_rows(cls) -> Store:
        return cls(rows)

    @staticmethod
    async def read_rows() -> None:
        await rows.get("1")

    async def __aenter__(self) -> Table[Any]:
        await self.table.put(self.table.model())
        return self.table

    async def __aexit__(self, *_: object) -> None:
        await notes.get("1")

    def __getitem__(self, name: str) -> Table[Any]:
        return self.table

    async def __call__(self) -> None:
        await self.table.get("1")

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield await self.table.get("1")


class Careful(Store):
    async def read(self) -> Any:
        await notes.put(Note())
        return await super().read()


store = Store(rows)
careful = Careful(rows)


@shape("rows get")
async def a_method_of_an_object_made_at_import() -> None:
    await store.read()


@shape("notes get")
async def a_method_of_an_object_made_here() -> None:
    await Store(notes).read()


@shape("notes get")
async def an_attribute_of_the_class() -> None:
    await store.read_default()


@shape("rows get", "rows query")
async def properties() -> None:
    await store.mine.get("1")
    await store.kept.query()


@shape("rows get")
async def a_class_method() -> None:
    await Store.of_rows().read()


@shape("rows get")
async def a_static_method() -> None:
    await Store.read_rows()


@shape("rows get", "notes put")
async def a_method_of_the_base_class() -> None:
    await careful.read()


@shape("rows put", "rows query", "notes get")
async def an_object_as_a_context() -> None:
    async with store as table:
        await table.query()


@shape("rows get")
async def an_object_that_is_called() -> None:
    await store()


@shape("rows get")
async def an_object_with_elements() -> None:
    await store["x"].get("1")


@shape("rows get")
async def an_object_that_is_iterated() -> None:
    async for _ in store:
        pass


@shape("notes get")
async def an_attribute_set_later() -> None:
    made = Store(notes)
    holder = Store.__new__(Store)
    holder.table = made.table
    await holder.read()


@dataclass
class Pair:
    first: Table[Any]
    second: Table[Any]


class Typed(msgspec.Struct):
    table: Any


class Delegating:
    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


@shape("notes put")
async def a_dataclass() -> None:
    pair = Pair(rows, second=notes)
    await pair.second.put(Note())


struct = Typed(notes)


@shape("notes get")
async def a_struct_made_at_import() -> None:
    await struct.table.get("1")


@shape("notes *")
async def an_object_that_passes_all_on() -> None:
    await Delegating(notes).get("1")


class Repository(Generic[T]):
    def __init__(self, table: Table[T]) -> None:
        self.table = table

    async def find(self) -> T | None:
        return await self.table.get("1")


@shape("rows get")
async def a_generic_class() -> None:
    await Repository[Row](rows).find()


@shape("rows get", "rows put")
async def a_row_that_saves_itself() -> None:
    row = await rows.get("1")
    if row is not None:
        await row.save()


@shape("rows query", "rows put")
async def rows_of_a_page_that_save_themselves() -> None:
    for row in (await rows.query()).items:
        await row.save()


# What the standard library calls


@shape("rows get", "notes get")
async def a_gather() -> None:
    await asyncio.gather(read_row("1"), read_from(notes))


@shape("rows get")
async def a_task() -> None:
    await asyncio.create_task(read_row("1"))


@shape("notes get")
async def a_map() -> None:
    for reading in map(read_from, [notes]):
        await reading


@shape("rows get")
async def a_thread() -> None:
    await asyncio.to_thread(in_thread, rows)


def in_thread(table: Table[Any]) -> None:
    wait(table.get("1"))


@shape("rows get")
async def an_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, in_thread, rows)


@shape("rows get")
async def an_import_in_the_function() -> None:
    from tests.grants import elsewhere

    await elsewhere.read()


@shape("rows get")
async def a_module() -> None:
    from tests.grants import elsewhere as there

    await there.rows.get("1")


@shape("notes get")
async def a_global_that_is_set_here() -> None:
    global late  # noqa: PLW0603
    late = notes
    await read_late()


late: Any = None


async def read_late() -> None:
    await late.get("1")


# What cannot be followed


@shape("rows *")
async def passed_to_other_code() -> None:
    await operator.methodcaller("get", "1")(rows)


@shape("notes *")
async def stored_where_nobody_looks() -> None:
    assert SimpleNamespace(table=notes).table is notes


@shape("rows *", "notes *")
async def a_name_that_is_computed() -> None:
    for verb in ("get", "history"):
        for table in (rows, notes):
            await getattr(table, verb)("1")


@shape("notes get")
@uses(notes.can("get"))
async def said_by_hand() -> None:
    await operator.methodcaller("get", "1")(notes)


@uses(notes.can("get"))
async def by_hand() -> None:
    await operator.methodcaller("get", "1")(notes)


@shape("rows get", "notes get")
async def a_function_that_says_what_it_uses() -> None:
    await rows.get("1")
    await by_hand()

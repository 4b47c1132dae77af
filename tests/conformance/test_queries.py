from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.catalog import IndexSpec, TableSpec
from headwater.engine import Engine, Query
from headwater.events import Key, KeyPart
from headwater.unit import new_commit
from tests.conformance.workbench import Store, catalog, write

pytestmark = pytest.mark.anyio
BY_KIND, BY_RANK, BY_SIZE = IndexSpec("kind", "kind"), IndexSpec("rank", "kind", "rank"), IndexSpec("size", "size")
ROWS = TableSpec(name="shop/rows", partition="id", indexes=(BY_KIND, BY_RANK, BY_SIZE))
WORDS = TableSpec(name="shop/words", partition="id", sort="word")
NUMBERS = TableSpec(name="shop/numbers", partition="id", sort="n")
LAST = "\U0010ffff"
STRINGS = [
    "",
    "A",
    "Z",
    "a",
    "a b",
    "a%",
    "a/b",
    "ab",
    "abc",
    "aÿ",
    "a😀",
    "a" + LAST * 6,
    "b",
    "é",
    "\ud7ff",
    "\uffff",
    "😀",
    LAST,
    LAST * 6,
]
INTEGERS = [-(2**63), -(2**53) - 1, -10, -9, -1, 0, 1, 9, 10, 2**53 + 1, 2**63 - 1]


async def fill(store: Store, table: str, keys: list[Key]) -> None:
    sort = "n" if table == "shop/numbers" else "word"
    commit = new_commit()
    for key in keys:
        write(commit, table, key, {"id": key[0], sort: key[1]})
    await store.engine.commit(commit)


async def pages(engine: Engine, limit: int, **options: Any) -> list[Key]:
    """All keys of a query, read in pages; no page but the last is short."""
    found: list[Key] = []
    after: tuple[KeyPart, ...] | None = None
    while True:
        page = await engine.query(Query(limit=limit, after=after, **options))
        found += [record.key for record in page.records]
        assert len(page.records) <= limit
        if page.next is None:
            return found
        assert len(page.records) == limit
        after = page.next


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 16, 17, 18, 100])
async def test_pages_of_string_keys_in_byte_order(store: Store, limit: int) -> None:
    await store.open(WORDS)
    expected = sorted(
        ((p, word) for p in ("p", "é", "q") for word in STRINGS), key=lambda key: [x.encode() for x in key]
    )
    keys: list[Key] = [*expected]
    await fill(store, "shop/words", keys[::-1])
    assert sorted(await pages(store.engine, limit, table="shop/words")) == sorted(expected)
    mine = [key for key in expected if key[0] == "q"]
    assert await pages(store.engine, limit, table="shop/words", partition="q") == mine
    assert await pages(store.engine, limit, table="shop/words", partition="q", reverse=True) == mine[::-1]


SCANS = pytest.mark.feature("ordered_scans", "rows of several partitions come in the order of their hashes")


@SCANS
@pytest.mark.parametrize("limit", [1, 17, 100])
async def test_pages_of_a_whole_table_of_strings(store: Store, limit: int) -> None:
    await store.open(WORDS)
    expected: list[Key] = [(p, word) for p in ("p", "q", "é") for word in sorted(STRINGS, key=str.encode)]
    await fill(store, "shop/words", expected[::-1])
    assert await pages(store.engine, limit, table="shop/words") == expected
    assert await pages(store.engine, limit, table="shop/words", reverse=True) == expected[::-1]


@SCANS
async def test_pages_of_a_whole_index(store: Store) -> None:
    await store.open(ROWS)
    await with_documents(store)
    assert await keys(store, index="rank") == "bdahc"
    assert await keys(store, index="rank", reverse=True) == "chadb"


@pytest.mark.parametrize("limit", [1, 2, 10, 11, 12])
async def test_pages_of_integer_keys_in_numeric_order(store: Store, limit: int) -> None:
    await store.open(NUMBERS)
    await fill(store, "shop/numbers", [("p", n) for n in reversed(INTEGERS)])
    expected = [("p", n) for n in INTEGERS]
    assert await pages(store.engine, limit, table="shop/numbers", partition="p") == expected
    assert await pages(store.engine, limit, table="shop/numbers", partition="p", reverse=True) == expected[::-1]


@pytest.mark.parametrize(
    ("after", "reverse", "expected"),
    [(9, False, []), (-9, False, [0, 1]), (0, False, [1]), (-9, True, []), (9, True, [1, 0]), (1, True, [0])],
)
async def test_a_page_goes_on_behind_a_place_outside_of_its_bounds(
    store: Store, after: int, reverse: bool, expected: list[int]
) -> None:
    await store.open(NUMBERS)
    await fill(store, "shop/numbers", [("p", n) for n in INTEGERS])
    query = Query(table="shop/numbers", partition="p", low=0, high=1, after=("p", after), reverse=reverse)
    assert [record.key[1] for record in (await store.engine.query(query)).records] == expected


async def test_composite_keys_are_never_concatenated(store: Store) -> None:
    await store.open(WORDS)
    keys: list[Key] = [("a", "b/c"), ("a/b", "c"), ("ab", "c"), ("a", "bc"), ("a%2Fb", "c")]
    for n, key in enumerate(keys):
        await store.put("shop/words", key, {"n": n})
    for n, key in enumerate(keys):
        assert await store.read("shop/words", key) == {"n": n}
        assert len(await store.engine.history("shop/words", key, 10)) == 1
    assert await store.engine.read("shop/words", ("a", "b")) is None


async def test_prefixes(store: Store) -> None:
    await store.open(WORDS)
    await fill(store, "shop/words", [("p", word) for word in STRINGS])
    for prefix in ["a", "ab", "a/", "é", "\ud7ff", "😀", LAST, LAST * 2, "none"]:
        expected = sorted((word for word in STRINGS if word.startswith(prefix)), key=str.encode)
        found = await pages(store.engine, 2, table="shop/words", partition="p", prefix=prefix)
        assert [key[1] for key in found] == expected


async def test_a_prefix_of_the_partition_without_one(store: Store) -> None:
    await store.open(WORDS)
    await fill(store, "shop/words", [("ab", "x"), ("abc", "y"), ("b", "z")])
    assert sorted(await pages(store.engine, 1, table="shop/words", prefix="ab")) == [("ab", "x"), ("abc", "y")]


@pytest.mark.parametrize("reverse", [False, True])
async def test_ranges_include_both_ends(store: Store, reverse: bool) -> None:
    await store.open(NUMBERS)
    await fill(store, "shop/numbers", [("p", n) for n in INTEGERS])
    for low in (None, -10, -5, 2**63 - 1):
        for high in (None, 9, -(2**63)):
            expected = [n for n in INTEGERS if (low is None or n >= low) and (high is None or n <= high)]
            options: dict[str, Any] = {"partition": "p", "low": low, "high": high, "reverse": reverse}
            found = await pages(store.engine, 3, table="shop/numbers", **options)
            assert [key[1] for key in found] == (expected[::-1] if reverse else expected)


DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"kind": "x", "rank": 2, "size": 1},
    "b": {"kind": "x", "rank": 1, "size": "1"},
    "c": {"kind": "y", "rank": 1},
    "d": {"kind": "x", "rank": 1},
    "e": {"kind": "x", "rank": None},
    "f": {"kind": "", "rank": 1},
    "g": {"rank": 1, "size": True},
    "h": {"kind": "x", "rank": "1"},
}


async def with_documents(store: Store) -> None:
    for id, document in DOCUMENTS.items():
        await store.put("shop/rows", id, {"id": id, **document})


async def keys(store: Store, **options: Any) -> str:
    return "".join(key[0] for key in await pages(store.engine, 2, table="shop/rows", **options))


async def check_indexes(store: Store) -> None:
    assert await keys(store, index="kind", partition="x") == "abdeh"
    assert await keys(store, index="kind", partition="x", reverse=True) == "hedba"
    assert await keys(store, index="kind", partition="y") == "c"
    assert await keys(store, index="rank", partition="x") == "bdah"
    assert await keys(store, index="rank", partition="x", low=1, high=1) == "bd"
    assert await keys(store, index="rank", partition="x", low=2, high=9, reverse=True) == "a"
    assert sorted(await keys(store, index="rank")) == list("abcdh")
    assert await keys(store, index="size", partition=1) == "a"
    assert await keys(store, index="size", partition="1") == "b"


async def test_index_queries_are_sorted_and_sparse(store: Store) -> None:
    await store.open(ROWS)
    await with_documents(store)
    await check_indexes(store)


async def test_an_index_follows_its_records(store: Store) -> None:
    await store.open(ROWS)
    await store.put("shop/rows", "a", {"id": "a", "kind": "x", "rank": 1})
    await store.put("shop/rows", "a", {"id": "a", "kind": "x", "rank": 2})
    assert await keys(store, index="rank", partition="x", high=1) == ""
    assert await keys(store, index="rank", partition="x", low=2) == "a"
    await store.put("shop/rows", "a", {"id": "a", "kind": "y"})
    assert await keys(store, index="kind", partition="x") == ""
    assert await keys(store, index="rank", partition="y") == ""
    assert await keys(store, index="kind", partition="y") == "a"
    await store.put("shop/rows", "a", None)
    assert await keys(store, index="kind") == ""


async def test_an_index_follows_several_writes_of_one_batch(store: Store) -> None:
    await store.open(ROWS)
    kinds = ["x", "y", "x", None, "z", "x", "y"]
    commits = [new_commit() for _ in kinds]
    for commit, kind in zip(commits, kinds, strict=True):
        write(commit, "shop/rows", "a", {"id": "a", "kind": kind} if kind else None)
    for future in [store.engine.commit(commit) for commit in commits]:
        await future
    assert [await keys(store, index="kind", partition=kind) for kind in "xyz"] == ["", "a", ""]


async def test_new_indexes_are_backfilled(store: Store) -> None:
    await store.open(TableSpec(name="shop/rows", partition="id"))
    await with_documents(store)
    await store.engine.install(catalog(ROWS))
    await check_indexes(store)
    await store.reopen()
    await check_indexes(store)


async def test_an_index_that_was_away_is_built_anew(store: Store) -> None:
    await store.open(ROWS)
    await with_documents(store)
    await store.engine.install(catalog(TableSpec(name="shop/rows", partition="id")))
    await store.put("shop/rows", "a", {"id": "a", "kind": "y", "rank": 2, "size": 1})
    await store.put("shop/rows", "c", None)
    await store.engine.install(catalog(ROWS))
    assert await keys(store, index="kind", partition="x") == "bdeh"
    assert await keys(store, index="kind", partition="y") == "a"


async def test_backfilling_many_records(store: Store) -> None:
    await store.open(TableSpec(name="shop/rows", partition="id"))
    most = store.engine.features.max_unit_operations
    count = min(2500, 4 * most)
    commits = [new_commit() for _ in range(0, count, most)]
    for n in range(count):
        write(commits[n // most], "shop/rows", f"{n:04}", {"id": f"{n:04}", "kind": str(n % 2)})
    await asyncio.gather(*map(store.engine.commit, commits))
    await store.engine.install(catalog(ROWS))
    found = await pages(store.engine, 700, table="shop/rows", index="kind", partition="1")
    assert found == [(f"{n:04}", "") for n in range(1, count, 2)]

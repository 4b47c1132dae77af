"""JSON Lines and Parquet files as rows."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pytest
from pydantic import BaseModel

from headwater import jsonl, parquet
from headwater.codec import codec_for
from headwater.datasets import chunks
from headwater.datasets import parquet as parquet_module
from headwater.datasets.rows import Rows
from headwater.errors import InvalidValue, TooManyRejected


class Row(BaseModel):
    group: str
    n: int
    x: float = 0.5
    tags: list[str] = []
    note: str | None = None


class Struct(msgspec.Struct):
    group: str
    n: int
    x: float = 0.5
    tags: list[str] = []
    note: str | None = None


class Item(BaseModel):
    n: int
    tags: list[str]


class Group(BaseModel):
    group: str
    items: list[Item]

    model_config = {"title": "Group"}


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 11):
        yield data[start : start + 11]


def bodies(rows: Rows[Any]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [document.body async for batch in rows.documents() for document in batch]

    return asyncio.run(collect())


@pytest.mark.parametrize("model", [Row, Struct])
@pytest.mark.parametrize("chunk", [30, 8 << 20])
def test_lines_are_rows(model: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    values = [model(group=f"é{n % 3}", n=n, tags=[f"t{n}"], note=None if n % 2 else "\n") for n in range(40)]
    encode = codec_for(model).encode
    data = b"\xef\xbb\xbf\n" + b"\r\n\n".join(encode(value) for value in values)
    assert bodies(jsonl.read(pieces(data), model)) == [encode(value) for value in values]
    grouped = jsonl.read(pieces(data), model).group(Group, by="group", into="items")
    assert bodies(grouped) == [
        codec_for(Group).encode(
            Group(group=f"é{g}", items=[Item(n=v.n, tags=v.tags) for v in values if v.group == f"é{g}"])
        )
        for g in range(3)
    ]


@pytest.mark.parametrize("chunk", [30, 8 << 20])
def test_lines_that_do_not_fit_are_rejected(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    lines = [
        '{"group":"a","n":1}',
        "",
        '{"group":"a"}',
        "{",
        '{"group":"b","n":2,"x":1e999}',
        "[]",
        '{"group":"c","n":3}',
    ]
    rows = jsonl.read(pieces("\n".join(lines).encode()), Row, max_rejected=0.9)
    assert [msgspec.json.decode(body)["n"] for body in bodies(rows)] == [1, 3]
    assert [r.line for r in rows.rejects] == [3, 4, 5, 6]
    assert (rows.rejects.count, rows.rejects.total) == (4, 6)
    with pytest.raises(TooManyRejected, match="line 3"):
        bodies(jsonl.read(pieces("\n".join(lines).encode()), Row))
    with pytest.raises(InvalidValue, match="utf-8"):
        bodies(jsonl.read(pieces(b'{"group":"\xff"}'), Row))


class Typed(BaseModel):
    s: str
    i: int
    f: float
    b: bool
    d: Decimal
    day: date
    at: datetime
    maybe: str | None


def parquet_of(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


def typed_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "s": f'"{n}' if n else "",
            "i": n - 5,
            "f": n / 7,
            "b": n % 2 == 0,
            "d": Decimal(n).scaleb(-2),
            "day": date(2024, 1, 1 + n % 28),
            "at": datetime(2024, 1, 1, 12, 0, n % 60, 250_000 * (n % 4), UTC),
            "maybe": None if n % 3 else "",
        }
        for n in range(count)
    ]


def test_parquet_columns_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_SLICE", 15)
    for count in (0, 15, 40):
        values = typed_rows(count)
        kinds: Any = {"d": pl.Decimal(10, 2), "at": pl.Datetime("us", "UTC"), "maybe": pl.String}
        frame = (
            pl.DataFrame(values, schema_overrides=kinds)
            if values
            else pl.DataFrame({n: [] for n in Typed.model_fields})
        )
        expected = [codec_for(Typed).encode(Typed(**{**row, "d": round(row["d"], 2)})) for row in values]
        assert bodies(parquet.read(pieces(parquet_of(frame)), Typed)) == expected


def test_parquet_rows_that_do_not_fit() -> None:
    frame = pl.DataFrame(
        {"group": ["a", None, "c", "d"], "n": [1.0, 2.0, 2.5, None], "x": [1.0, 2.0, 3.0, float("nan")]}
    )
    rows = parquet.read(pieces(parquet_of(frame)), Row, max_rejected=1)
    assert bodies(rows) == [b'{"group":"a","n":1,"note":null,"tags":[],"x":1.0}']
    assert [(r.line, r.column) for r in rows.rejects] == [(2, "group"), (3, "n"), (4, "n")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Parquet file"),
        (b"PAR1 not really PAR1", "no Parquet file"),
        (parquet_of(pl.DataFrame({"group": ["a"], "n": [1]}))[:-20], "no Parquet file"),
        (parquet_of(pl.DataFrame({"group": ["a"]})), "missing: n"),
        (parquet_of(pl.DataFrame({"group": [["a"]], "n": [1]})), "column group: List"),
    ],
)
def test_what_is_no_such_parquet_file_says_why(data: bytes, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        bodies(parquet.read(pieces(data), Row))

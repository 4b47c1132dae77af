"""Cells as values: the documents are, byte for byte, what the model's codec encodes."""

from __future__ import annotations

import asyncio
import csv as writer
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from headwater import csv
from headwater.codec import codec_for
from headwater.datasets.columns import LINE, texts_to_json
from headwater.datasets.models import shape_of
from headwater.datasets.rows import Document, Rows
from headwater.errors import InvalidValue

import polars as pl  # isort: skip


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Model(BaseModel):
    s: str
    i: int
    f: float
    b: bool
    d: Decimal
    day: date
    at: datetime
    colour: Colour
    level: Level
    kind: Literal["x", "y"]
    os: str | None
    oi: int | None


class Struct(msgspec.Struct):
    s: str
    i: int
    f: float
    b: bool
    d: Decimal
    day: date
    at: datetime
    colour: Colour
    level: Level
    kind: Literal["x", "y"]
    os: str | None
    oi: int | None


@dataclass
class Data:
    s: str
    i: int
    f: float
    b: bool
    d: Decimal
    day: date
    at: datetime
    colour: Colour
    level: Level
    kind: Literal["x", "y"]
    os: str | None
    oi: int | None


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def documents(rows: Rows[Any], *key: str) -> list[Document]:
    async def collect() -> list[Document]:
        return [document async for batch in rows.documents(*key) for document in batch]

    return asyncio.run(collect())


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    out = writer.DictWriter(text, [*rows[0]], quoting=writer.QUOTE_ALL)
    out.writeheader()
    out.writerows(rows)
    return text.getvalue().encode()


def text_of(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('"\\\n\t\x7f\x85/<'))
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.decimals(-99999, 99999, places=5).map(float)
VALUES = st.fixed_dictionaries(
    {
        "s": TEXT,
        "i": st.integers(-(2**63), 2**63 - 1) | st.integers(-1000, 1000),
        "f": FLOATS | st.integers(-1000, 1000).map(float),
        "b": st.booleans(),
        "d": st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(-1000, 1000, places=2),
        "day": st.dates(),
        "at": st.datetimes(timezones=ZONES) | st.datetimes(timezones=ZONES).map(lambda at: at.replace(microsecond=0)),
        "colour": st.sampled_from(Colour),
        "level": st.sampled_from(Level),
        "kind": st.sampled_from(["x", "y"]),
        "os": st.none() | TEXT.filter(bool),
        "oi": st.none() | st.integers(-1000, 1000),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=20), st.sampled_from([Model, Struct, Data]))
def test_documents_are_what_the_codec_encodes(values: list[dict[str, Any]], model: Any) -> None:
    rows = csv.read(once(as_csv([{n: text_of(v) for n, v in row.items()} for row in values])), model)
    found = documents(rows, "s", "i")
    assert [d.body for d in found] == [codec_for(model).encode(model(**row)) for row in values]
    assert [d.key for d in found] == [(row["s"], row["i"]) for row in values]
    assert all(d.digest == blake2b(d.body, digest_size=16).digest() for d in found)


class Bounded(BaseModel):
    text: str = Field(min_length=1, max_length=3)
    code: str = Field(pattern="^[a-z]+$")
    share: float = Field(ge=0, lt=1)
    count: int = Field(gt=0, le=100)
    even: int = Field(multiple_of=2)
    price: Decimal = Field(max_digits=4)
    maybe: Annotated[int, Field(ge=10)] | None = None


class BoundedStruct(msgspec.Struct):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=3)]
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]
    share: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    count: Annotated[int, msgspec.Meta(gt=0, le=100)]
    even: Annotated[int, msgspec.Meta(multiple_of=2)]
    price: Decimal
    maybe: Annotated[int, msgspec.Meta(ge=10)] | None = None


GOOD = {"text": "äöü", "code": "ab", "share": "0.5", "count": "100", "even": "4", "price": "1.50", "maybe": ""}
BAD = [
    ("text", ""),
    ("text", "abcd"),
    ("code", "A"),
    ("code", ""),
    ("share", "1.0"),
    ("share", "-0.1"),
    ("share", "nan"),
    ("share", "x"),
    ("count", "0"),
    ("count", "101"),
    ("count", "1.5"),
    ("count", ""),
    ("even", "3"),
    ("price", "x"),
    ("price", ""),
    ("maybe", "9"),
    ("maybe", "99999999999999999999"),
]


@pytest.mark.parametrize("model", [Bounded, BoundedStruct])
@pytest.mark.parametrize(("column", "text"), BAD)
def test_constraints_of_the_model_reject(model: Any, column: str, text: str) -> None:
    rows = csv.read(once(as_csv([GOOD, {**GOOD, column: text}, GOOD])), model, max_rejected=1)
    assert len(documents(rows)) == 2
    (reject,) = rows.rejects
    assert (reject.line, reject.column, reject.value) == (3, column, text)
    assert reject.reason


def test_a_row_is_rejected_once_for_its_first_bad_column() -> None:
    rows = csv.read(once(as_csv([{**GOOD, "count": "x", "even": "y"}, GOOD])), Bounded, max_rejected=1)
    assert len(documents(rows)) == 1
    assert [(r.column, r.value) for r in rows.rejects] == [("count", "x")]


NUMBERS = st.text(st.sampled_from("0123456789+-.eE_ "), max_size=12) | FLOATS.map(str) | st.integers().map(str)
TIMES = st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,6})?Z", fullmatch=True)
DATES = st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]", fullmatch=True)


def check_bulk_rule(text: str, name: str, model: Any) -> None:
    field = shape_of(model).field(name)
    frame, reasons = texts_to_json(pl.DataFrame({LINE: [1], name: [text]}), [field])
    if frame[name][0] is None:
        with pytest.raises(InvalidValue) as refused:
            field.read_text(text)
        assert reasons[name][text] == refused.value.message
    else:
        assert frame[name][0] == field.read_text(text)


EDGES = """
    0 -0 -0e5 -00 00 01 -01 007 1. .5 1.0 -0.0 1.50 0.10 0.0001 0.00001 0.000001 0.0000001 -0.000000123 1e5
    1E+5 1e999 1e-999 -0.00 100.00 1.1234567 0.0000000001 123456789012345678901234567890 -1.50
    123456789012345678 9223372036854775807 9223372036854775808 -9223372036854775809 99999999999999.0 9007199254740993.0
    12345.123456789 0.1234567891234567 0.30000000000000004 123456789.123456789 1_000 +5 inf nan 1,5 --1 1e 0x10 ١٢
    0001-01-01 0000-01-01 9999-12-31 2023-02-29 2024-02-29 2024-13-01 2024-1-1 20240101
    2024-02-30T00:00:00Z 2024-02-28T24:00:00Z 2024-02-28T23:59:60Z 0000-01-01T00:00:00Z 2024-02-28T23:59:59.500Z
    2024-02-28T23:59:59z 2024-02-28 2024-02-28T23:59:59+00:00
"""


@pytest.mark.parametrize("text", EDGES.split())
def test_the_bulk_rules_at_their_edges(text: str) -> None:
    for model in (Model, Struct):
        for name in ("s", "i", "f", "d", "day", "at"):
            check_bulk_rule(text, name, model)


@settings(max_examples=300, deadline=None)
@given(
    NUMBERS | TIMES | DATES | TEXT, st.sampled_from(["s", "i", "f", "d", "day", "at"]), st.sampled_from([Model, Struct])
)
def test_the_bulk_rules_agree_with_the_models_library(text: str, name: str, model: Any) -> None:
    check_bulk_rule(text, name, model)


def test_other_spellings_are_the_librarys_business() -> None:
    header = "s,i,f,b,d,day,at,colour,level,kind,os,oi"
    row = "x, +07 ,1e3,yes,1E3,2024-02-29,2024-01-01T00:00:00+02:00,red,2,x,,1_0"
    (document,) = documents(csv.read(once(f"{header}\n{row}\n".encode()), Model))
    assert codec_for(Model).decode(document.body) == Model(
        s="x",
        i=7,
        f=1000.0,
        b=True,
        d=Decimal("1E3"),
        day=date(2024, 2, 29),
        at=datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        colour=Colour.RED,
        level=Level.HIGH,
        kind="x",
        os=None,
        oi=10,
    )


class Aliased(BaseModel):
    own: str = Field(alias="Their Name")
    shown: int = Field(default=5, validation_alias="In", serialization_alias="out")
    made: list[str] = Field(default_factory=list)


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str
    with_default: int = 5


def test_aliases_and_defaults() -> None:
    assert documents(csv.read(once(b"Their Name\nx"), Aliased))[0].body == b'{"Their Name":"x","made":[],"out":5}'
    assert documents(csv.read(once(b"own,In\nx,7"), Aliased))[0].body == b'{"Their Name":"x","made":[],"out":7}'
    found = documents(csv.read(once(b"firstName\nx"), Renamed), "firstName")
    assert found == [(("x",), b'{"firstName":"x","withDefault":5}', found[0].digest)]


class Loose(BaseModel):
    x: float | None
    y: Any


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity"])
def test_numbers_that_are_not_finite_are_rejected(text: str) -> None:
    rows = csv.read(once(f"x,y\n{text},1\n1,2\n".encode()), Loose, max_rejected=0.5)
    assert [d.body for d in documents(rows)] == [b'{"x":1.0,"y":"2"}']
    assert [(r.line, r.column, r.value) for r in rows.rejects] == [(2, "x", text)]


def test_special_configuration_holds() -> None:
    class Lower(BaseModel):
        model_config = {"str_to_lower": True, "str_strip_whitespace": True}
        name: str

    assert [d.body for d in documents(csv.read(once(b"name\n ADA \n"), Lower))] == [b'{"name":"ada"}']


class Strict(BaseModel):
    name: str
    n: int = 3

    @field_validator("name")
    @classmethod
    def trimmed(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("no such name")
        return name.strip().title()


class Short(msgspec.Struct, omit_defaults=True, tag="short"):
    name: str
    n: int = 3

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("no such name")
        self.name = self.name.strip().title()


@dataclass
class Checked:
    name: str
    n: int = 3

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("no such name")
        self.name = self.name.strip().title()


@pytest.mark.parametrize("model", [Strict, Short, Checked])
def test_models_with_rules_of_their_own_have_the_last_word(model: Any) -> None:
    rows = csv.read(once(b"name,n\n ada ,1\nbad,2\nbob,3\n"), model, max_rejected=0.5)
    assert [d.body for d in documents(rows)] == [
        codec_for(model).encode(model(n, i)) if model is not Strict else codec_for(model).encode(model(name=n, n=i))
        for n, i in ((" ada ", 1), ("bob", 3))
    ]
    (reject,) = rows.rejects
    assert reject.line == 3
    assert "no such name" in reject.reason

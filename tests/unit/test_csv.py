"""CSV files of all kinds as rows: dialects, defects, rejects."""

from __future__ import annotations

import asyncio
import csv as oracle
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from headwater import csv
from headwater.datasets import chunks
from headwater.datasets.rows import Rows
from headwater.errors import DeclarationError, InvalidValue, TooManyRejected


class Row(BaseModel):
    a: str
    b: str
    c: str


class Typed(BaseModel):
    name: str = Field(min_length=1)
    n: int = Field(ge=0)
    note: str | None = None


async def pieces(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(data: bytes | str, model: type[Any] = Row, size: int = 1 << 20, **options: Any) -> Rows[Any]:
    return csv.read(pieces(data if isinstance(data, bytes) else data.encode(), size), model, **options)


def consume(rows: Rows[Any]) -> list[dict[str, Any]]:
    async def documents() -> list[dict[str, Any]]:
        return [msgspec.json.decode(d.body) async for batch in rows.documents() for d in batch]

    return asyncio.run(documents())


def cells(data: bytes | str, **options: Any) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in consume(read(data, **options))]


@pytest.fixture(params=[40, 8 << 20], ids=["small chunks", "one chunk"])
def _chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", request.param)


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_breaks_are_found(delimiter: str, newline: str) -> None:
    lines = ["a,b,c", *(f"{n},x{n},é" for n in range(30))]
    data = newline.join(lines).replace(",", delimiter)
    rows = read(data, size=11)
    assert [tuple(row.values()) for row in consume(rows)] == [(str(n), f"x{n}", "é") for n in range(30)]
    assert (rows.dialect.delimiter, rows.dialect.header) == (delimiter, ("a", "b", "c"))


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize(
    ("codec", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16-le"),
        ("cp1252", "cp1252"),
        ("latin-1", "cp1252"),
    ],
)
def test_encodings_are_found(codec: str, found: str) -> None:
    text = "a,b,c\n" + "plain,plain,plain\n" * 20 + "Zoë,naïve,±½\n" * 3
    for size in (1, 5, 1000):
        rows = read(text.encode(codec), size=size)
        assert [tuple(row.values()) for row in consume(rows)][-1] == ("Zoë", "naïve", "±½")
        assert rows.dialect.encoding == found


def test_a_given_encoding_and_delimiter_are_taken() -> None:
    assert cells("a:b:c\nż:2:3".encode("cp1250"), encoding="cp1250", delimiter=":") == [("ż", "2", "3")]
    assert cells("a,b,c\nż,2,3".encode("utf-16-le"), encoding="utf-16-le") == [("ż", "2", "3")]
    assert cells("a,b,c\nż,2,3".encode("utf-8-sig"), encoding="utf-8") == [("ż", "2", "3")]
    assert cells(b"a,b,c\n\x81\x8d,\x80,\xff") == [("\x81\x8d", "€", "ÿ")]
    with pytest.raises(DeclarationError, match="no encoding"):
        cells(b"a,b,c\n1,2,3", encoding="klingon")
    for delimiter in ("::", '"', "\n", "é"):
        with pytest.raises(DeclarationError, match="delimiter"):
            read(b"", delimiter=delimiter)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a,b,c\né,1,2\n".encode() + b"\xff,1,2\n", "byte 0xff near offset 13 is not utf-8"),
        ("a,b,c\né,1,é".encode()[:-1], "not utf-8"),
        ("a,b,c\n1,2,3\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\n \n\n", "empty"),
        (b"a,b\n1,2\n", "missing: c"),
        (b"x\n1\n", "missing: a, b, c"),
        (b"a,b,c,b\n1,2,3,4\n", "twice: b"),
        (b'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n', "line 3: the file ends inside of a quoted field"),
        (b'a,b,c\n1,2,"3', "line 2: the file ends inside of a quoted field"),
        (b'a,b,"c\n1,2,3\n', "missing: c"),
        (b'a,b,c\n"' + b"x\n" * 100_000, "field larger"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, message: str) -> None:
    for size in (9, 1 << 20):
        with pytest.raises(InvalidValue, match=message):
            consume(read(data, size=size))


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("a,b,c\n", []),
        ("a,b,c", []),
        ("\n\na,b,c\n\n1,2,3\n\n\n4,5,6\n\n", [("1", "2", "3"), ("4", "5", "6")]),
        (" a ,b\t, c \n1,2,3\n", [("1", "2", "3")]),
        ("c,x,a,b\n3,0,1,2\n", [("1", "2", "3")]),
        ("a,b,c,\n1,2,3,\n4,5,6,\n", [("1", "2", "3"), ("4", "5", "6")]),
        ("a,b,c\n1,2,3,\n4,5,6\n", [("1", "2", "3"), ("4", "5", "6")]),
        ('a,b,c\n"1","2,2","3""3"\n', [("1", "2,2", '3"3')]),
        ('a,b,c\n"1\n1",2,"3\r\n3"\r\n4,5,6', [("1\n1", "2", "3\r\n3"), ("4", "5", "6")]),
        ('a,b,c\n5" pipe,x"y,"q"r\n1,2,3\n', [('5" pipe', 'x"y', "qr"), ("1", "2", "3")]),
        ('"a","b","c"\n"","",""\n', [("", "", "")]),
        (",,\na,b,c\n1,2,3\n", None),
        ("a,b,c\n\x1f,2,\x1f\n", [("\x1f", "2", "\x1f")]),
        ("a,b,c\n \u2028,\x0b,\x1c\n", [(" \u2028", "\x0b", "\x1c")]),
    ],
)
def test_classical_oddities(data: str, expected: list[tuple[str, ...]] | None) -> None:
    if expected is None:
        data = data.lstrip(",\n")
        expected = [("1", "2", "3")]
    assert cells(data, size=3) == expected


def test_one_column_files() -> None:
    class One(BaseModel):
        a: str

    assert cells('a\n1\n\n2\n""\n', model=One) == [("1",), ("2",), ("",)]
    assert cells("a\n1\n\n2\n", model=One) == [("1",), ("2",)]


@pytest.mark.usefixtures("_chunked")
def test_records_of_another_length_are_rejected_with_their_lines() -> None:
    for quote in ("", '"'):
        data = f"a,b,c\n1,2,{quote}3{quote}\n\n4,5\n6\n7,8,9,10\n7,8,9,10,11,12\n1,2,3\n"
        rows = read(data, max_rejected=1)
        assert [tuple(row.values()) for row in consume(rows)] == [("1", "2", "3")] * 2
        assert [(r.line, r.reason) for r in rows.rejects] == [
            (4, "has 2 fields, the header has 3"),
            (5, "has 1 fields, the header has 3"),
            (6, "has more than 3 fields, the header has 3"),
            (7, "has more than 3 fields, the header has 3"),
        ]
        assert (rows.rejects.count, rows.rejects.total) == (4, 6)


@pytest.mark.usefixtures("_chunked")
def test_lines_of_rejects_are_physical_lines() -> None:
    data = 'name,n\n"a\nb",1\n\n"c\r\nd\n",x\nlast,-1\n'
    rows = read(data, Typed, max_rejected=1)
    assert consume(rows) == [{"name": "a\nb", "n": 1, "note": None}]
    found = [(r.line, r.column, r.value) for r in rows.rejects]
    assert found == [(5, "n", "x"), (8, "n", "-1")]
    assert [r.reason[:12] for r in rows.rejects] == ["Input should", "Input should"]
    assert rows.rejects.to_csv().decode().splitlines()[:2] == [
        "line,column,value,reason",
        '5,n,x,"Input should be a valid integer, unable to parse string as an integer"',
    ]


@pytest.mark.parametrize("row", ["1,2,3,\x1f,5", "1,2,\x1f", "1,\x1f,\x1f,\x1f"])
def test_the_splitters_own_mark_may_occur_in_a_file(row: str) -> None:
    rows = read(f"a,b,c\n{row}\n", max_rejected=1)
    assert [list(found.values()) for found in consume(rows)] == ([row.split(",")] if row.count(",") == 2 else [])
    assert rows.rejects.count == (row.count(",") != 2)


def test_nul_bytes_are_rejected() -> None:
    rows = read(b"a,b,c\n1,2,3\n4,\x00,6\n", max_rejected=0.5)
    assert len(consume(rows)) == 1
    assert [(r.line, r.column, r.reason) for r in rows.rejects] == [(3, "b", "contains a NUL character")]


def test_too_many_rejects_refuse_the_file() -> None:
    data = "name,n\n" + "".join(f"x{n},{n if n % 4 else 'bad'}\n" for n in range(100))
    assert len(consume(read(data, Typed, max_rejected=0.25))) == 75
    rows = read(data, Typed, max_rejected=0.249)
    with pytest.raises(TooManyRejected, match=r"25 of 100 rows .* line 2, n: .*; line 6, n: ") as refused:
        consume(rows)
    assert isinstance(refused.value, InvalidValue)
    assert rows.rejects.count == 25
    with pytest.raises(DeclarationError, match="share"):
        read(data, Typed, max_rejected=2)


def test_without_tolerance_nothing_behind_the_first_reject_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 100)
    data = "name,n\n" + "good,1\n" * 50 + "bad,x\n" + "good,2\n" * 50
    rows = read(data, Typed, size=10)
    got: list[Any] = []

    async def collect() -> None:
        async for value in rows:
            got.append(value.n)

    with pytest.raises(TooManyRejected):
        asyncio.run(collect())
    assert got
    assert set(got) == {1}
    assert rows.rejects.total == 101


def test_only_the_first_rejects_are_kept() -> None:
    rows = read("name,n\n" + "a,x\n" * 12_000, Typed, max_rejected=1)
    assert consume(rows) == []
    assert (len(rows.rejects), len(rows.rejects.kept)) == (12_000, 10_000)


def test_long_values_are_shortened_in_rejects_and_kept_in_rows() -> None:
    long = "x" * 1_000_000
    rows = read(f"name,n,note\n{long},1,\na,{long},\n", Typed, max_rejected=0.5)
    assert consume(rows)[0]["name"] == long
    assert len(rows.rejects.kept[0].value) == 80


def test_rows_are_read_lazily_and_once() -> None:
    touched = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal touched
        touched = True
        yield b"a,b,c\n1,2,3\n"

    rows = csv.read(body(), Row)
    assert not touched
    assert len(consume(rows)) == 1
    with pytest.raises(InvalidValue, match="consumed before"):
        consume(rows)


def test_columns_that_the_model_forbids() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: str

    with pytest.raises(InvalidValue, match="does not have: b, c"):
        cells("a,b,c\n1,2,3\n", model=Closed)


def test_an_error_of_the_body_reaches_the_consumer() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a,b,c\n1,2,3\n"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        consume(csv.read(body(), Row))


def test_polars_is_imported_only_when_a_file_is_read() -> None:
    code = "import sys; import headwater; headwater.csv.read, headwater.jsonl, headwater.parquet"
    code += "; assert 'polars' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_polars_the_error_says_how_to_install_it() -> None:
    code = """
import sys
sys.modules["polars"] = None
from headwater import DeclarationError, csv
try:
    csv.read(None, dict)
except DeclarationError as error:
    assert 'pip install "headwater[csv]"' in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


TEXT = st.text(st.sampled_from('ab é",;|\t\n\r\x1f\\\x0b\u2028') | st.characters(exclude_categories=["Cs"]), max_size=8)
CLEAN = TEXT.filter(lambda text: "\0" not in text)


DIALECTS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "quoting": st.sampled_from([oracle.QUOTE_MINIMAL, oracle.QUOTE_ALL, oracle.QUOTE_NONNUMERIC]),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
    }
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(CLEAN, CLEAN, CLEAN), max_size=12),
    DIALECTS,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.tuples(st.sampled_from([1, 16, 64, 8 << 20]), st.integers(1, 40)),
)
def test_what_pythons_csv_module_writes_is_read_back(
    rows: list[tuple[str, str, str]], dialect: dict[str, Any], encoding: str, sizes: tuple[int, int]
) -> None:
    text = io.StringIO(newline="")
    writer = oracle.writer(text, **dialect)
    writer.writerows([("a", "b", "c"), *rows])
    assume([tuple(row) for row in oracle.reader(io.StringIO(text.getvalue(), newline=""))][1:] == rows)  # a lone CR
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", sizes[0])
        assert cells(text.getvalue().encode(encoding), size=sizes[1]) == rows


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('ab,"\n\r é'), max_size=60), st.sampled_from([1, 8, 8 << 20]))
def test_any_text_is_read_as_pythons_csv_module_reads_it(text: str, chunk: int) -> None:
    data = f"a,b,c\n{text}"
    *expected, end = oracle.reader(
        io.StringIO(data + "\nend\n" if not data.endswith("\n") else data + "end\n", newline="")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", chunk)
        if end != ["end"]:
            with pytest.raises(InvalidValue, match="inside of a quoted field"):
                cells(data, max_rejected=1)
            return
        fitting = [tuple(row[:3]) for row in expected[1:] if len(row) == 3 or (len(row) == 4 and not row[3])]
        assert cells(data, max_rejected=1) == fitting

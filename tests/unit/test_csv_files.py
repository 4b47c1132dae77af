"""Real public CSV files, read like Python's csv module reads them."""

from __future__ import annotations

import asyncio
import csv as oracle
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater import csv
from headwater.codec import codec_for
from headwater.datasets import chunks
from headwater.datasets.rows import Rows


def data_folder() -> Path:
    spec = find_spec("vega_datasets")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_data"


FILES = sorted(data_folder().glob("*.csv"))


async def pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(5000):
            yield piece


def bodies(rows: Rows[Any]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [document.body async for batch in rows.documents() for document in batch]

    return asyncio.run(collect())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_read_like_pythons_csv_module_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 40_000)
    text = path.read_bytes().decode("utf-8-sig")
    header, *records = (row for row in oracle.reader(text.splitlines(keepends=True)) if row)
    fields = [f"c{n}" for n in range(len(header))]
    names = dict(zip(fields, (name.strip() for name in header), strict=True))
    model = msgspec.defstruct("Row", [(field, str) for field in fields], rename=names)
    rows = csv.read(pieces(path), model)
    found = [msgspec.json.decode(body) for body in bodies(rows)]
    assert [[row[names[field]] for field in fields] for row in found] == records
    assert rows.rejects.total == len(records)


class Airport(msgspec.Struct):
    iata: str
    name: str
    latitude: float
    longitude: float
    state: str | None = None


class Stock(msgspec.Struct):
    symbol: str
    date: str
    price: float


class Day(msgspec.Struct):
    date: str
    precipitation: float
    temp_max: float
    weather: str


@pytest.mark.parametrize(("name", "model"), [("airports", Airport), ("stocks", Stock), ("seattle-weather", Day)])
def test_typed_rows_are_what_the_codec_encodes(name: str, model: Any) -> None:
    path = data_folder() / f"{name}.csv"
    if not path.exists():
        pytest.fail(f"{name} is not among {[file.stem for file in FILES]}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        records = list(oracle.DictReader(file))
    wanted = []
    for record in records:
        texts = {f: None if f == "state" and not record[f] else record[f] for f in model.__struct_fields__}
        wanted.append(codec_for(model).encode(msgspec.convert(texts, model, strict=False)))
    assert bodies(csv.read(pieces(path), model)) == wanted

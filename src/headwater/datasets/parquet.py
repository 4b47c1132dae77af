"""Parquet files: `parquet.read(body, Row)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headwater.datasets.dialect import Dialect
from headwater.datasets.extra import require_polars
from headwater.datasets.models import Shape, shape_of
from headwater.datasets.rejects import Rejects
from headwater.datasets.scratch import scratch_folder
from headwater.errors import InvalidValue

if TYPE_CHECKING:
    import polars as pl

    from headwater.datasets.rows import Frames, Rows

T = TypeVar("T")
_SLICE = 100_000


def read(body: AsyncIterator[bytes], row: type[T], *, max_rejected: float = 0) -> Rows[T]:
    """The rows of a Parquet file, typed by the model `row`; the file is first copied to a temporary one.

    Columns are numbers, texts, booleans, dates, times and decimals. A null is None, which a field must allow. The line
    of a reject is the row's number. For the rest see `csv.read`.
    """
    require_polars("parquet.read")
    from headwater.datasets.rows import Rows

    rejects = Rejects()
    frames = _frames(body, shape_of(row), rejects)
    return Rows(row, frames, max_rejected=max_rejected, dialect=Dialect(), rejects=rejects)


async def _frames(body: AsyncIterator[bytes], shape: Shape, rejects: Rejects) -> Frames:
    with scratch_folder() as folder:
        path = folder / "rows.parquet"
        with path.open("wb") as file:
            async for piece in body:
                await asyncio.to_thread(file.write, piece)
        start: int | None = 0
        while start is not None:
            frame, start = await asyncio.to_thread(_read, path, start, shape, rejects)
            yield frame


def _read(path: Path, start: int, shape: Shape, rejects: Rejects) -> tuple[pl.DataFrame, int | None]:
    import polars as pl

    from headwater.datasets.columns import LINE
    from headwater.datasets.rows import frame_of_texts

    try:
        table = pl.scan_parquet(path, glob=False).slice(start, _SLICE).collect()
    except pl.exceptions.PolarsError as error:
        raise InvalidValue(f"this is no Parquet file that can be read: {error}", operation="parquet.read") from error
    columns, defaults, missing = [], [], []
    for field in shape.fields:
        name = next((name for name in field.columns if name in table.columns), None)
        if name is not None:
            columns.append(_texts(table[name]).alias(field.attribute))
        elif field.default is not None:
            defaults.append(field)
        else:
            missing.append(field.name)
    if missing:
        raise InvalidValue(
            f"columns that are missing: {', '.join(missing)}",
            operation="parquet.read",
            hint=f"it has {', '.join(table.columns)}",
        )
    lines = pl.int_range(start + 1, start + 1 + len(table), dtype=pl.UInt32, eager=True).alias(LINE)
    frame = frame_of_texts(shape, pl.DataFrame([lines, *columns]), rejects, defaults)
    return frame, start + len(table) if len(table) == _SLICE else None


def _texts(column: pl.Series) -> pl.Series:
    """A column as the texts that a CSV file would have."""
    import polars as pl

    kind = column.dtype
    if kind == pl.Datetime:
        zoned = column.dt.convert_time_zone("UTC") if getattr(kind, "time_zone", None) else column
        return zoned.dt.to_string("%Y-%m-%dT%H:%M:%S%.6f" + ("Z" if zoned is not column else ""))
    if kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Date, pl.Categorical, pl.Enum, pl.Null):
        return column.cast(pl.String)
    raise InvalidValue(
        f"column {column.name}: {kind} is not read", operation="parquet.read", hint="nested rows can be read as JSONL"
    )

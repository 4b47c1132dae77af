"""JSON Lines files: `jsonl.read(body, Row)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

from headwater.datasets.chunks import chunks
from headwater.datasets.dialect import Dialect, Transcoder
from headwater.datasets.extra import require_polars
from headwater.datasets.models import Shape, shape_of
from headwater.datasets.rejects import Rejects
from headwater.errors import InvalidValue

if TYPE_CHECKING:
    import polars as pl

    from headwater.datasets.rows import Frames, Rows

T = TypeVar("T")
_LONGEST = 64 << 20


def read(body: AsyncIterator[bytes], row: type[T], *, max_rejected: float = 0) -> Rows[T]:
    """The rows of a file with one JSON object a line, in UTF-8, typed by the model `row`.

    Each line is decoded and encoded by the model's codec, so this is some times slower than CSV. Blank lines are
    skipped. For the rest see `csv.read`.
    """
    require_polars("jsonl.read")
    from headwater.datasets.rows import Rows

    rejects = Rejects()
    frames = _frames(body, shape_of(row), rejects)
    return Rows(row, frames, max_rejected=max_rejected, dialect=Dialect(encoding="utf-8"), rejects=rejects)


async def _frames(body: AsyncIterator[bytes], shape: Shape, rejects: Rejects) -> Frames:
    rest, line = b"", 1
    async for chunk, final in chunks(body, Transcoder("utf-8")):
        data = rest + chunk
        end = len(data) if final else data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > _LONGEST:
            raise InvalidValue(f"line {line}: more than {_LONGEST >> 20} MiB", operation="jsonl.read")
        yield await asyncio.to_thread(_read, data[:end], line, shape, rejects)
        line += data.count(b"\n", 0, end)


def _read(data: bytes, line: int, shape: Shape, rejects: Rejects) -> pl.DataFrame:
    from headwater.datasets.rows import frame_of_bodies

    found = [(body, number) for number, body in enumerate(data.split(b"\n"), line) if body.strip()]
    rejects.total += len(found)
    return frame_of_bodies(shape, [body for body, _ in found], [number for _, number in found], rejects)

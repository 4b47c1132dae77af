"""Rows of a file as canonical documents, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import polars as pl

from headwater.codec import codec_for, decode_json
from headwater.datasets.columns import LINE, object_of, reason_of, texts_to_json
from headwater.datasets.dialect import Dialect
from headwater.datasets.grouping import Grouping
from headwater.datasets.models import Field, Shape, shape_of
from headwater.datasets.rejects import Rejects
from headwater.errors import DeclarationError, InvalidValue

T = TypeVar("T")
A = TypeVar("A")
BODY = "#body"
BATCH_ROWS = 2_000
BATCH_BYTES = 4 << 20
_split_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Frames = AsyncGenerator[pl.DataFrame, None]


class Document(NamedTuple):
    """A document's key fields, its canonical JSON, and the 16-byte BLAKE2b digest of that."""

    key: tuple[Any, ...]
    body: bytes
    digest: bytes


class Rows(Generic[T]):
    """Typed rows of a file; nothing is read before they are consumed, which can be done once.

    `rejects` and `dialect` are complete when the rows have been consumed. Consuming them raises `TooManyRejected`
    at the end of the file at the latest: until then what was handed out is provisional.
    """

    def __init__(
        self,
        model: type[T],
        frames: Frames,
        *,
        max_rejected: float = 0,
        dialect: Dialect | None = None,
        rejects: Rejects | None = None,
    ) -> None:
        if not 0 <= max_rejected <= 1:
            raise DeclarationError(f"max_rejected={max_rejected} is no share", hint="between 0 and 1")
        self.model = model
        self.rejects = Rejects() if rejects is None else rejects
        self.dialect = dialect or Dialect()
        self._frames = frames
        self._max_rejected = max_rejected
        self._grouping: Grouping | None = None
        self._consumed = False

    def group(self, model: type[A], *, by: str, into: str) -> Rows[A]:
        """One document for each value of `by`, whose list `into` has the rows with that value, in the file's order.

        `by` and the model's other fields are fields of the row, those of the group's first row, or have a
        default; the list's model picks its fields from the row by name. The whole file is read before the first
        document, and the documents are in no particular order. Raises `DeclarationError` if the models do not fit.
        """
        if self._grouping is not None:
            raise DeclarationError("rows are grouped once", operation="group")
        grouped: Rows[A] = Rows(
            model, self._frames, max_rejected=self._max_rejected, dialect=self.dialect, rejects=self.rejects
        )
        grouped._grouping = Grouping(shape_of(self.model), shape_of(model), by, into)
        return grouped

    async def documents(self, *key: str) -> AsyncGenerator[list[Document], None]:
        """The documents in batches of at most 2,000 or about 4 MiB, with the values of the fields `key`.

        `key` are names as stored. Raises `InvalidValue` for a file that cannot be read and `TooManyRejected`, a
        kind of it.
        """
        names = _stored_keys(shape_of(self.model), key)
        async with aclosing(self._bodies(names)) as frames:
            async for frame in frames:
                start, count = 0, _batch_size(frame)
                while start < len(frame):
                    yield await asyncio.to_thread(_documents, frame[start : start + count], names)
                    start += count

    async def __aiter__(self) -> AsyncIterator[T]:
        """The documents as values of the model: one Python object each, so slower than `documents`."""
        decode = codec_for(self.model).decode
        async with aclosing(self.documents()) as batches:
            async for batch in batches:
                for document in batch:
                    yield decode(document.body)

    async def _bodies(self, keys: Sequence[str]) -> Frames:
        """Frames of bodies with the JSON text of the key fields."""
        if self._consumed:
            raise InvalidValue("these rows were consumed before", operation="read rows", hint="read the file again")
        self._consumed = True
        async with aclosing(self._frames) as frames:
            if self._grouping is None:
                async for frame in frames:
                    if not (self.rejects.count and not self._max_rejected):
                        yield await asyncio.to_thread(_plain_bodies, shape_of(self.model), frame, keys)
                self.rejects.check(self._max_rejected)
                return
            async with aclosing(self._grouping.run(frames, self.rejects, self._check, keys)) as grouped:
                async for frame in grouped:
                    yield frame

    def _check(self) -> None:
        self.rejects.check(self._max_rejected)


def frame_of_texts(shape: Shape, texts: pl.DataFrame, rejects: Rejects, defaults: Sequence[Field] = ()) -> pl.DataFrame:
    """Rows of texts, in columns named by attribute, as rows of JSON text; those that do not fit are rejected."""
    fields = [field for field in shape.fields if field.attribute in texts.columns]
    frame, reasons = texts_to_json(texts, fields)
    rejects.total += len(frame)
    if any(frame[field.attribute].null_count() for field in fields):
        bad = frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
        _reject(frame.filter(bad), texts.filter(bad), fields, reasons, rejects)
        frame = frame.filter(~bad)
    if not shape.plain:
        given = {f.input: pl.col(f.attribute) for f in fields}
        bodies = (
            frame.select(object_of(given).cast(pl.Binary)).to_series() if len(frame) else pl.Series([], dtype=pl.Binary)
        )
        return frame_of_bodies(shape, bodies.to_list(), frame[LINE].to_list(), rejects)
    return frame.with_columns(pl.lit(field.default_json()).alias(field.attribute) for field in defaults)


def frame_of_bodies(shape: Shape, bodies: Sequence[bytes], lines: Sequence[int], rejects: Rejects) -> pl.DataFrame:
    """JSON documents as rows: each is decoded and encoded by the model's codec. The caller counts the rows."""
    codec = codec_for(shape.model)
    kept: list[bytes] = []
    kept_lines: list[int] = []
    for body, line in zip(bodies, lines, strict=True):
        try:
            kept.append(codec.encode(codec.decode(body)))
            kept_lines.append(line)
        except InvalidValue as error:
            rejects.add(line, "", body.decode(errors="replace"), error.message)
    cells = [_split_object(body) for body in kept]
    columns = {}
    for field in shape.fields:
        absent = field.default_json() if field.default is not None else "null"
        texts = [bytes(row[field.stored]).decode() if field.stored in row else absent for row in cells]
        columns[field.attribute] = pl.Series(texts, dtype=pl.String)
    numbers = pl.Series(kept_lines, dtype=pl.UInt32)
    return pl.DataFrame({LINE: numbers, BODY: pl.Series(kept, dtype=pl.Binary), **columns})


def _reject(
    frame: pl.DataFrame,
    texts: pl.DataFrame,
    fields: Sequence[Field],
    reasons: Mapping[str, Mapping[str, str]],
    rejects: Rejects,
) -> None:
    """Each row with its first column that does not fit."""
    room = rejects.room
    for n in range(min(room, len(frame))):
        field = next(f for f in fields if frame[f.attribute][n] is None)
        text = texts[field.attribute][n]
        rejects.add(frame[LINE][n], field.name, text or "", reason_of(reasons[field.attribute], text))
    rejects.count += max(0, len(frame) - room)


def _plain_bodies(shape: Shape, frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    cells = {field.stored: pl.col(field.attribute) for field in shape.fields}
    body = pl.col(BODY) if BODY in frame.columns else object_of(cells).cast(pl.Binary)
    return frame.select(body.alias(BODY), *(cells[key].alias(key) for key in keys))


def _stored_keys(shape: Shape, keys: Sequence[str]) -> Sequence[str]:
    stored = {field.stored for field in shape.fields}
    for key in keys:
        if key not in stored:
            raise DeclarationError(f"{shape.model.__name__} has no field {key!r}", operation="read rows")
    return keys


def _batch_size(frame: pl.DataFrame) -> int:
    if not len(frame):
        return 1
    mean: Callable[[], float] = lambda: frame.estimated_size() / len(frame)  # noqa: E731
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, mean()))))


def _documents(frame: pl.DataFrame, keys: Sequence[str]) -> list[Document]:
    bodies = frame[BODY].to_list()
    parts = [decode_json(f"[{','.join(frame[key].to_list())}]".encode()) for key in keys]
    values = zip(*parts, strict=True) if parts else ((),) * len(bodies)
    return [
        Document(key, body, blake2b(body, digest_size=16).digest()) for key, body in zip(values, bodies, strict=True)
    ]

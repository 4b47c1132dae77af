"""Rows nested into documents: one for each value of a field, with the rows in a list.

A group's rows may lie anywhere in the file. They are collected as JSON text; beyond `IN_MEMORY` they are spilled
to a temporary folder, divided by a hash of the group's value, and then grouped one part after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import polars as pl

from headwater.codec import codec_for
from headwater.datasets.columns import LINE, object_of, reason_of, recast
from headwater.datasets.models import Field, Shape, shape_of
from headwater.datasets.rejects import Rejects
from headwater.datasets.scratch import scratch_folder
from headwater.errors import DeclarationError

IN_MEMORY = 192 << 20
PARTS = 64
_ITEM = "#item"
_BODY = "#body"


class Grouping:
    """How the rows of one model become documents of another; see `Rows.group`."""

    def __init__(self, row: Shape, model: Shape, by: str, into: str) -> None:
        self._model = model
        self._by = model.field(by)
        row.field(by)
        self._into = model.field(into)
        self._item = shape_of(_item_model(self._into, model))
        self._exact = model.plain and self._item.plain
        self._outer = [field for field in model.fields if field is not self._into]
        self._recasts: list[tuple[Field, Field, str]] = []
        self._constants: dict[str, str] = {}
        for shape, prefix in ((self._item, "i:"), (model, "o:")):
            for field in shape.fields:
                if field is not self._into:
                    self._take(row, shape, field, prefix)

    def _take(self, row: Shape, shape: Shape, field: Field, prefix: str) -> None:
        """Plan where a field of a document comes from."""
        source = next((f for f in row.fields if f.attribute == field.attribute), None)
        name = prefix + field.attribute
        if source is not None:
            self._recasts.append((source, field, name))
        elif field.default is not None:
            self._constants[name] = field.default_json()
        else:
            raise DeclarationError(
                f"{shape.model.__name__}.{field.attribute} is no field of {row.model.__name__}, and has no default",
                operation="group",
            )

    async def run(
        self, frames: AsyncIterator[pl.DataFrame], rejects: Rejects, check: Callable[[], None], keys: Sequence[str]
    ) -> AsyncGenerator[pl.DataFrame, None]:
        """Frames of bodies and key fields. `check` runs once all rows are known, before the first document."""
        with scratch_folder() as folder:
            spill = Spill(folder, f"o:{self._by.attribute}")
            async for frame in frames:
                await asyncio.to_thread(self._collect, spill, frame, rejects)
            check()
            for part in range(spill.parts):
                nested = await asyncio.to_thread(self._nest, spill, part, keys)
                if nested is not None:
                    yield nested
                del nested

    def _collect(self, spill: Spill, frame: pl.DataFrame, rejects: Rejects) -> None:
        spill.add(self._nestable(frame, rejects))

    def _name(self, field: Field) -> str:
        return field.stored if self._exact else field.input

    def _nestable(self, frame: pl.DataFrame, rejects: Rejects) -> pl.DataFrame:
        """The rows as items' JSON text beside the columns of the outer fields."""
        cells, bad = [], pl.repeat(False, len(frame), eager=True)
        for source, field, name in self._recasts:
            column = frame[source.attribute]
            if not source.same_json(field):
                cast, refused = recast(column, field)
                wrong = cast.is_null() & ~bad
                for line, text in frame.filter(wrong).select(LINE, source.attribute).iter_rows():
                    rejects.add(line, source.name, text, reason_of(refused, text))
                column, bad = cast, bad | wrong
            cells.append(column.alias(name))
        table = pl.DataFrame(cells).with_columns(pl.lit(json).alias(name) for name, json in self._constants.items())
        item = object_of({self._name(f): pl.col(f"i:{f.attribute}") for f in self._item.fields})
        kept = table.filter(~bad) if bad.any() else table
        return kept.select(item.alias(_ITEM), *(pl.col(f"o:{f.attribute}") for f in self._outer))

    def _nest(self, spill: Spill, part: int, keys: Sequence[str]) -> pl.DataFrame | None:
        rows = spill.read(part)
        if rows is None or not len(rows):
            return None
        by = f"o:{self._by.attribute}"
        others = [pl.col(name).first() for name in rows.columns if name not in (by, _ITEM)]
        groups = rows.group_by(by, maintain_order=True).agg(pl.col(_ITEM), *others)
        cells = {self._name(f): pl.col(f"o:{f.attribute}") for f in self._outer}
        stored = {f.stored: pl.col(f"o:{f.attribute}") for f in self._outer}
        cells[self._name(self._into)] = pl.concat_str(pl.lit("["), pl.col(_ITEM).list.join(","), pl.lit("]"))
        body = object_of(cells).cast(pl.Binary).alias(_BODY)
        missing = [key for key in keys if key not in stored]
        if missing:
            raise DeclarationError(f"{missing[0]!r} is a list and cannot be a key", operation="group")
        nested = groups.select(body, *(stored[key].alias(key) for key in keys))
        return nested if self._exact else self._reencode(nested)

    def _reencode(self, nested: pl.DataFrame) -> pl.DataFrame:
        """A model with rules of its own has the last word, document by document."""
        codec = codec_for(self._model.model)
        bodies = [codec.encode(codec.decode(body)) for body in nested[_BODY]]
        return nested.with_columns(pl.Series(_BODY, bodies, dtype=pl.Binary))


class Spill:
    """Frames in memory up to `IN_MEMORY`, beyond that in files, by a hash of the column `by`."""

    def __init__(self, folder: Path, by: str) -> None:
        self.parts = 1
        self._folder = folder
        self._by = by
        self._held: list[pl.DataFrame] = []
        self._size = 0.0
        self._written = 0

    def add(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        self._size += frame.estimated_size()
        if self._size > IN_MEMORY:
            self._write()

    def read(self, part: int) -> pl.DataFrame | None:
        """The rows of one part, in the order in which they came."""
        if self.parts == 1:
            frames, self._held = self._held, []
            return pl.concat(frames) if frames else None
        if self._held:
            self._write()
        files = sorted((self._folder / str(part)).glob("*.arrow"))
        return pl.concat([pl.read_ipc(file) for file in files]) if files else None

    def _write(self) -> None:
        self.parts = PARTS
        rows = pl.concat(self._held)
        self._held, self._size = [], 0.0
        divided = rows.with_columns((pl.col(self._by).hash(seed=0) % PARTS).alias("#part"))
        for (part,), frame in divided.partition_by("#part", as_dict=True, include_key=False).items():
            folder = self._folder / str(part)
            folder.mkdir(exist_ok=True)
            frame.write_ipc(folder / f"{self._written:06}.arrow", compression="lz4")
        self._written += 1


def _item_model(into: Field, model: Shape) -> type[Any]:
    inner = get_args(into.annotation)
    if get_origin(into.annotation) is list and len(inner) == 1 and isinstance(inner[0], type):
        return inner[0]
    raise DeclarationError(
        f"{model.model.__name__}.{into.attribute} is no list of a model",
        operation="group",
        hint="declare it as list[Model]",
    )

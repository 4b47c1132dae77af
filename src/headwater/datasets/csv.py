"""CSV files: `csv.read(body, Row)`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

from headwater.datasets.chunks import chunks
from headwater.datasets.dialect import Dialect, Header, Transcoder, read_header
from headwater.datasets.extra import require_polars
from headwater.datasets.models import Field, Shape, shape_of
from headwater.datasets.rejects import Rejects
from headwater.errors import DeclarationError, InvalidValue

if TYPE_CHECKING:
    import polars as pl

    from headwater.datasets.records import Records, Splitter
    from headwater.datasets.rows import Frames, Rows

T = TypeVar("T")
_LONGEST = 64 << 20


def read(
    body: AsyncIterator[bytes],
    row: type[T],
    *,
    delimiter: str = "",
    encoding: str = "",
    max_rejected: float = 0,
) -> Rows[T]:
    """The rows of a CSV file with a header, typed by the model `row`; nothing is read before they are consumed.

    The delimiter (comma, semicolon, tab, bar) and the encoding (UTF-8, UTF-16 with a byte order mark, else
    Windows-1252) are found by looking, unless they are given; `rows.dialect` tells them. Columns are
    found by the model's names and aliases, in any order; unknown ones are ignored, unless the model forbids them. An
    empty cell is None where the field allows it. Rows that do not fit go to `rows.rejects`; a share of them above
    `max_rejected` refuses the whole file with `TooManyRejected`. A file that cannot be read is an `InvalidValue`:
    empty, without a column that the model requires, with a column twice, not in its encoding, cut off inside of quotes.
    """
    require_polars("csv.read")
    from headwater.datasets.rows import Rows

    if delimiter and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\x1f'):
        raise DeclarationError(f"{delimiter!r} is no delimiter", operation="csv.read", hint="one ASCII character")
    rejects, dialect = Rejects(), Dialect(delimiter=delimiter)
    frames = _Reader(shape_of(row), rejects, dialect, encoding).frames(body)
    return Rows(row, frames, max_rejected=max_rejected, dialect=dialect, rejects=rejects)


class _Reader:
    def __init__(self, shape: Shape, rejects: Rejects, dialect: Dialect, encoding: str) -> None:
        self._shape = shape
        self._rejects = rejects
        self._dialect = dialect
        self._transcoder = Transcoder(encoding)
        self._wanted = {name for field in shape.fields for name in field.columns}
        self._splitter: Splitter | None = None
        self._places: dict[int, Field] = {}
        self._defaults: list[Field] = []

    async def frames(self, body: AsyncIterator[bytes]) -> Frames:
        rest = b""
        async for chunk, final in chunks(body, self._transcoder):
            frame, rest = await asyncio.to_thread(self._read, rest + chunk, final)
            if len(rest) > _LONGEST:
                raise InvalidValue(
                    f"more than {_LONGEST >> 20} MiB without the end of a record",
                    operation="csv.read",
                    hint="is a quote not closed, or is this no CSV file?",
                )
            if frame is not None:
                yield frame

    def _read(self, data: bytes, final: bool) -> tuple[pl.DataFrame | None, bytes]:
        if self._splitter is None:
            header, delimiter = read_header(data, self._dialect.delimiter, self._wanted)
            if header.size == len(data) and not final:
                return None, data  # it may go on in the next chunk
            self._begin(header, delimiter)
            data = data[header.size :]
        assert self._splitter is not None
        records, rest = self._splitter.split(data, final=final)
        return self._typed(records, has_nul=b"\0" in data), rest

    def _begin(self, header: Header, delimiter: str) -> None:
        from headwater.datasets.records import Splitter

        if not header.names:
            raise InvalidValue("the file is empty: it has no header", operation="csv.read")
        self._dialect.delimiter, self._dialect.header = delimiter, header.names
        self._find_columns(header)
        self._splitter = Splitter(delimiter, len(header.names), header.lines + 1)

    def _find_columns(self, header: Header) -> None:
        names = header.names
        shown = ", ".join(names)
        if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
            raise InvalidValue(f"columns that occur twice: {', '.join(twice)}", operation="csv.read", hint=shown)
        missing = []
        for field in self._shape.fields:
            found = next((name for name in field.columns if name in names), None)
            if found is not None:
                self._places[names.index(found)] = field
            elif field.default is not None:
                self._defaults.append(field)
            else:
                missing.append(field.name)
        if missing:
            raise InvalidValue(
                f"columns that are missing: {', '.join(missing)}", operation="csv.read", hint=f"it has {shown}"
            )
        unknown = [name for n, name in enumerate(names) if n not in self._places and name]
        if unknown and self._shape.closed:
            raise InvalidValue(
                f"columns that {self._shape.model.__name__} does not have: {', '.join(unknown)}", operation="csv.read"
            )

    def _typed(self, records: Records, *, has_nul: bool) -> pl.DataFrame:
        import polars as pl

        from headwater.datasets.columns import LINE
        from headwater.datasets.rows import frame_of_texts

        self._dialect.encoding = self._transcoder.encoding
        width = len(self._dialect.header)
        for line, count in records.ragged:
            found = f"more than {width}" if count > width else str(count)
            self._rejects.add(line, "", "", f"has {found} fields, the header has {width}")
        self._rejects.total += len(records.ragged)
        cells = records.cells.select(
            LINE,
            *(
                (pl.col(str(n)).replace("", None) if f.optional else pl.col(str(n))).alias(f.attribute)
                for n, f in sorted(self._places.items())
            ),
        )
        if has_nul:
            cells = self._without_nul(cells)
        return frame_of_texts(self._shape, cells, self._rejects, self._defaults)

    def _without_nul(self, cells: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        for field in self._places.values():
            bad = pl.col(field.attribute).str.contains("\0", literal=True).fill_null(value=False)
            for line, text in cells.filter(bad).select("#line", field.attribute).iter_rows():
                self._rejects.total += 1
                self._rejects.add(line, field.name, text, "contains a NUL character")
            cells = cells.filter(~bad)
        return cells

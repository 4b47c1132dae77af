"""The bytes of a CSV file as columns of texts: a chunk at a time, with the line on which each record starts.

In a chunk whose lines are all records, polars splits the fields. That is certain in a chunk without quotes, and in one
whose every line is well formed by itself. In all other chunks (line breaks or stray quotes inside of fields) Python's
csv module does; it is slower, and its reading of such files is the one that people are used to.

To find short and long records, every line is given one more field, a mark: in a record of the right length it is
found right behind the last column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import polars as pl

from headwater.datasets.columns import LINE
from headwater.errors import InvalidValue

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

_MARK = b"\x1f"
_END = "\x1fend\x1f"
_BATCH = 10_000


@dataclass
class Records:
    """Cells in the columns "0", "1", … beside `LINE`; `ragged` has line and number of fields of other records."""

    cells: pl.DataFrame
    ragged: list[tuple[int, int]] = field(default_factory=list)


class Splitter:
    """Splits chunk after chunk. `line` is the number of the next line."""

    def __init__(self, delimiter: str, width: int, line: int) -> None:
        self.line = line
        self._delimiter = delimiter
        self._width = width
        self._names = [str(n) for n in range(width)]
        between = f"\\x{ord(delimiter):02x}"
        cell = rf'(?:"(?:[^"]|"")*"|[^"{between}]*)'
        self._well_formed = rf"^{cell}(?:{between}{cell})*$"

    def split(self, data: bytes, *, final: bool) -> tuple[Records, bytes]:
        """The records of `data`, and the bytes behind them, which the next chunk is to begin with.

        Raises `InvalidValue` when the file ends inside of a quoted field.
        """
        cut = len(data) if final else _last_break(data)
        whole, rest = data[:cut], data[cut:]
        if not whole:
            return Records(self._frame([], [])), rest
        if _MARK not in whole:
            lines = whole.replace(b"\r\n", b"\n")
            if b'"' not in lines:
                return self._split_lines(lines.replace(b"\r", b"\n"), None), rest
            if self._width > 1 and b"\r" not in lines and self._all_well_formed(lines):
                return self._split_lines(lines, '"'), rest
        records, open_bytes = self._split_by_module(whole, final)
        return records, open_bytes + rest

    def _all_well_formed(self, lines: bytes) -> bool:
        return bool(pl.Series([lines.decode()]).str.split("\n").explode().str.contains(self._well_formed).all())

    def _split_lines(self, lines: bytes, quote: str | None) -> Records:
        if not lines.endswith(b"\n"):
            lines += b"\n"
        delimiter = self._delimiter.encode()
        header = delimiter.join(name.encode() for name in [*self._names, "over", "beyond"])
        cells = pl.read_csv(
            header + b"\n" + lines.replace(b"\n", delimiter + _MARK + b"\n"),
            separator=self._delimiter,
            quote_char=quote,
            infer_schema=False,
            empty_string_is_null=False,
            truncate_ragged_lines=True,
        ).with_row_index(LINE, offset=self.line)
        self.line += len(cells)
        mark = _MARK.decode()
        is_blank = (pl.col("0") == "") & (pl.col("1" if self._width > 1 else "over") == mark)
        if (cells["over"] == mark).all() and (self._width > 1 or not cells.select(is_blank).to_series().any()):
            return Records(cells.drop("over", "beyond"))
        is_right = (pl.col("over") == mark) | ((pl.col("over") == "") & (pl.col("beyond") == mark))
        odd = cells.filter(~is_right & ~is_blank)
        columns = [*self._names, "over"]
        ragged = [(row[0], _fields_in(row[1:], mark)) for row in odd.select(LINE, *columns, "beyond").iter_rows()]
        return Records(cells.filter(is_right & ~is_blank).select(LINE, *self._names), ragged)

    def _split_by_module(self, data: bytes, final: bool) -> tuple[Records, bytes]:
        lines = list(io.StringIO(data.decode(), newline=""))
        if final:
            lines.append(f"{_END}\n")
        parts, ragged = [self._frame([], [])], []
        held: list[tuple[int, list[str]]] = []  # the last record may go on in the next chunk
        for batch in self._batches(csv.reader(iter(lines), delimiter=self._delimiter)):
            rows, held = [*held, *batch[:-1]], batch[-1:]
            right = [(line, row[: self._width]) for line, row in rows if self._fits(row)]
            ragged += [(line, len(row)) for line, row in rows if row and not self._fits(row)]
            parts.append(self._frame([line for line, _ in right], [row for _, row in right]))
        start, row = held[0]
        if final and row != [_END]:
            raise InvalidValue(
                f"line {start}: the file ends inside of a quoted field: it is cut off, or a quote is not closed",
                operation="read rows",
            )
        rest = "" if final else "".join(lines[start - self.line :])
        self.line = start
        return Records(pl.concat(parts), ragged), rest.encode()

    def _batches(self, reader: CsvReader) -> Iterator[list[tuple[int, list[str]]]]:
        """Small batches: many rows at once would keep the garbage collector busy."""
        line = self.line
        while True:
            batch = []
            try:
                for row in islice(reader, _BATCH):
                    batch.append((line, row))
                    line = self.line + reader.line_num
            except csv.Error as error:
                raise InvalidValue(
                    f"line {line}: {error}", operation="read rows", hint="is a quote not closed?"
                ) from error
            if not batch:
                return
            yield batch

    def _fits(self, row: list[str]) -> bool:
        return len(row) == self._width or (len(row) == self._width + 1 and not row[-1])

    def _frame(self, lines: list[int], rows: list[list[str]]) -> pl.DataFrame:
        columns = list(zip(*rows, strict=True)) if rows else [()] * self._width
        cells = [pl.Series(name, column, dtype=pl.String) for name, column in zip(self._names, columns, strict=True)]
        return pl.DataFrame([pl.Series(LINE, lines, dtype=pl.UInt32), *cells])


def _fields_in(cells: tuple[str, ...], mark: str) -> int:
    return cells.index(mark) if mark in cells else len(cells)


def _last_break(data: bytes) -> int:
    """Behind the last line break that is sure to be one: a CR at the end may be half of a CR LF."""
    found = data.rfind(b"\n")
    return (found if found >= 0 else data.rfind(b"\r", 0, len(data) - 1)) + 1

"""Rows that do not fit their model: counted all, the first ones kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import msgspec

from headwater.errors import TooManyRejected

KEPT = 10_000
_SHOWN = 80
_NAMED = 3


class Reject(msgspec.Struct, frozen=True):
    """`line` is the physical line on which the row starts (of Parquet: its number), `value` is shortened."""

    line: int
    column: str
    value: str
    reason: str


class Rejects:
    """What was rejected so far; complete once the rows have been consumed.

    `count` is the number of rejected rows, `total` that of all rows. `kept` has the first 10,000 rejects, by line.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self._kept: list[Reject] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Reject]:
        return iter(self.kept)

    @property
    def kept(self) -> list[Reject]:
        return sorted(self._kept, key=lambda reject: reject.line)

    @property
    def room(self) -> int:
        return KEPT - len(self._kept)

    def add(self, line: int, column: str, value: str, reason: str) -> None:
        self.count += 1
        if self.room:
            shown = value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
            self._kept.append(Reject(line, column, shown, reason))

    def to_csv(self) -> bytes:
        """The kept rejects as a CSV file with the columns line, column, value, reason."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(Reject.__struct_fields__)
        writer.writerows((r.line, r.column, r.value, r.reason) for r in self.kept)
        return text.getvalue().encode()

    def check(self, max_rejected: float) -> None:
        """Raise `TooManyRejected` when the share of rejected rows is above `max_rejected`."""
        if self.count <= max_rejected * self.total:
            return
        first = "; ".join(f"line {r.line}{f', {r.column}' if r.column else ''}: {r.reason}" for r in self.kept[:_NAMED])
        raise TooManyRejected(
            f"{self.count} of {self.total} rows do not fit (at most {max_rejected:.4g} of them may): {first}",
            operation="read rows",
            hint="all of them are in rows.rejects; max_rejected= lets a share of them pass",
        )

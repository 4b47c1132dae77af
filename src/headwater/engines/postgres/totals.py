"""How many messages came to queues and left them, in all processes: each adds what it counted with its beats."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headwater.applying.state import Counts
from headwater.engines.postgres.database import Database

_ADD = (
    "INSERT INTO @counted AS c SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[])"
    " ON CONFLICT (queue) DO UPDATE SET sent = c.sent + excluded.sent, settled = c.settled + excluded.settled,"
    " retried = c.retried + excluded.retried"
)
_ALL = "SELECT queue, sent, settled, retried FROM @counted"
Sums = tuple[int, int, int]
_NOTHING: Sums = (0, 0, 0)


class Totals:
    """`tell` adds, `learn` asks what all have told; `of` is that with what this process has not told since."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._told: dict[int, Sums] = {}
        self._learnt: dict[int, Sums] = {}
        self._told_then: dict[int, Sums] = {}

    async def tell(self, database: Database, counts: Mapping[int, Counts]) -> None:
        """May add twice when the answer is lost: these are figures for looking at."""
        async with self._turn:
            now = {number: _sums(found) for number, found in counts.items()}
            news = {
                number: fresh
                for number, sums in sorted(now.items())
                if any(fresh := _less(sums, self._told.get(number, _NOTHING)))
            }
            if news:
                await database.fetch(_ADD, list(news), *(list(column) for column in zip(*news.values(), strict=True)))
                self._told = now

    async def learn(self, database: Database) -> None:
        async with self._turn:
            rows = await database.fetch(_ALL)
            self._learnt = {row[0]: (row[1], row[2], row[3]) for row in rows}
            self._told_then = self._told

    def of(self, number: int, counts: Counts) -> Sums:
        fresh = _less(_sums(counts), self._told_then.get(number, _NOTHING))
        sent, settled, retried = self._learnt.get(number, _NOTHING)
        return sent + fresh[0], settled + fresh[1], retried + fresh[2]


def _sums(counts: Counts) -> Sums:
    return counts.sent, counts.settled, counts.retried


def _less(now: Sums, before: Sums) -> Sums:
    return now[0] - before[0], now[1] - before[1], now[2] - before[2]

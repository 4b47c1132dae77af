"""The views of `headwater sql`, as SELECT statements on the tables that an engine provides.

`record` (and `staged`, for a table that merges a load), `event`, `dead`, `attempt` and `name` have the columns of the
SQLite engine's schema; what has the messages, each with its event, is the engine's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apsw

from headwater.catalog import TableSpec

SAMPLE = 200
"""How many rows are looked at for the fields of a table without a model."""


class Shown(NamedTuple):
    """A table to be shown: its number, and the load that it merges. An engine that has no table `staged` gives the name
    of one with what it makes of the `records` instead."""

    spec: TableSpec
    number: int
    load: int | None = None
    records: str = "record"


class View(NamedTuple):
    """`names` are what it can be selected from by."""

    names: tuple[str, ...]
    select: str


def _time(expression: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {expression} / 1000.0, 'unixepoch')"


def _event(part: str, envelope: str = "e.envelope", source: str = "n.name") -> str:
    return f"event_part({envelope}, {source}, '{part}') AS {part}"


_SOURCE_OF_LETTER = "event_part(d.envelope, '', 'source')"


def store_views(messages: str) -> tuple[View, ...]:
    """`messages`: a table or a query with queue, position, grp, receives, sent_ms and ready_ms of messages, and with
    id, source, envelope and trace of their events."""
    return (
        View(
            ("events",),
            f"SELECT e.seq AS position, e.id, {_time('e.time_ms')} AS time, n.name AS source, {_event('type')},"
            f" {_event('subject')}, {_event('data')}, {_event('old')}, e.trace, {_event('cause')}, {_event('depth')}"
            " FROM event e JOIN name n ON n.id = e.source",
        ),
        View(
            ("messages",),
            "SELECT q.name AS queue, m.position, m.id AS event, n.name AS source, "
            + ", ".join(_event(part, "m.envelope") for part in ("type", "subject", "data"))
            + f", m.grp AS fifo_group, m.receives, {_time('m.sent_ms')} AS sent,"
            f" iif(m.ready_ms > 0, {_time('m.ready_ms')}, NULL) AS ready, m.trace"
            f" FROM {messages} m JOIN name q ON q.id = m.queue JOIN name n ON n.id = m.source",
        ),
        View(
            ("dead_letters",),
            f"SELECT d.id, q.name AS queue, d.event_id AS event, {_SOURCE_OF_LETTER} AS source, "
            + ", ".join(
                _event(part, "d.envelope", _SOURCE_OF_LETTER) for part in ("type", "subject", "data", "old", "trace")
            )
            + f", d.grp AS fifo_group, d.receives, d.reason, {_time('d.died_ms')} AS died"
            " FROM dead d JOIN name q ON q.id = d.queue",
        ),
        View(
            ("failures",),
            f"SELECT a.event_id AS event, q.name AS queue, a.n AS receive, a.outcome, a.error, {_time('a.started_ms')}"
            f" AS started, {_time('a.ended_ms')} AS ended FROM attempt a JOIN name q ON q.id = a.queue",
        ),
    )


def table_view(connection: apsw.Connection, shown: Shown, *, now_ms: int, hidden: Sequence[str]) -> View:
    """The view of a table, named "app/table" and app_table."""
    spec, number, load, records = shown
    fields = [field for field in _fields(connection, shown) if field not in hidden and '"' not in field]
    columns = ", ".join(_columns(spec, fields, hidden))
    unexpired = f"(r.expires_ms IS NULL OR r.expires_ms > {now_ms}) AND sound(r.body, r.crc, r.pk)"
    select = f"SELECT {columns} FROM {records} r WHERE r.tbl = {number} AND {unexpired}"
    if load is not None:
        in_force = (
            f"NOT EXISTS (SELECT 1 FROM staged s WHERE s.load = {load} AND s.pk = r.pk AND s.sk = r.sk"
            f" AND (s.body IS NOT NULL OR s.expires_ms IS NULL OR s.expires_ms <= {now_ms}))"
        )
        staged = f"SELECT {columns} FROM staged r WHERE r.load = {load} AND r.body IS NOT NULL AND {unexpired}"
        select = f"{select} AND {in_force} UNION ALL {staged}"
    return View((spec.name, re.sub(r"\W", "_", spec.name)), select)


def _columns(spec: TableSpec, fields: list[str], hidden: Sequence[str]) -> Iterator[str]:
    document = "CAST(r.body AS TEXT)"
    for field in fields:
        if field in (spec.partition, spec.sort):
            yield f'r.{"pk" if field == spec.partition else "sk"} AS "{field}"'
        else:
            yield f'{document} ->> {_path(field)} AS "{field}"'
    yield "json_array(r.pk, r.sk) AS _key" if spec.sort else "r.pk AS _key"
    yield "r.version AS _version"
    yield f"iif(r.expires_ms IS NULL, NULL, {_time('r.expires_ms')}) AS _expires"
    yield f"json_remove({document}, {', '.join(map(_path, hidden))}) AS _body" if hidden else f"{document} AS _body"


def _path(field: str) -> str:
    return "'$.\"" + field.replace("'", "''") + "\"'"


def _fields(connection: apsw.Connection, shown: Shown) -> list[str]:
    """The fields of the model; without one, those of the first rows."""
    spec = shown.spec
    if spec.fields:
        return list(spec.fields)
    found = dict.fromkeys(field for field in (spec.partition, spec.sort) if field)
    for table, column, value in ((shown.records, "tbl", shown.number), ("staged", "load", shown.load)):
        if value is None:
            continue
        rows = connection.execute(
            "SELECT DISTINCT j.key FROM (SELECT CAST(body AS TEXT) AS body FROM"
            f" {table} WHERE {column} = ? AND body IS NOT NULL LIMIT {SAMPLE}) r, json_each(r.body) j ORDER BY 1",
            (value,),
        )
        found.update(dict.fromkeys(field for (field,) in rows))
    return list(found)

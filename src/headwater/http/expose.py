"""`app.expose`: a table as REST resources, its routes and its reads (`row_writes` has the rest).

With an owner each caller has its own rows only. Whatever is asked of another's row is answered as for a missing one,
before conditions are looked at; lists read the caller's partition only, so neither pages nor cursors tell of others.
"""

from __future__ import annotations

import asyncio
import gzip
import math
from functools import lru_cache

from starlette.types import Receive, Scope, Send

from headwater.codec import decode_json, encode_json
from headwater.engine import RecordPage
from headwater.events import Caller
from headwater.http.answers import Headers
from headwater.http.declarations import Exposure
from headwater.http.direct import DirectRoute, header, send_json
from headwater.http.etags import etag, matches
from headwater.http.listing import ListReader, read_parameters
from headwater.http.rest_openapi import RestDocumentation
from headwater.http.row_writes import RowWrites
from headwater.http.rows import ExposedRows
from headwater.http.schemas import ModelSchema
from headwater.pages import write_cursor

COMPRESSED_FROM = 1024
IN_THREAD_FROM = 128 * 1024
_ITEM_PARAMETERS = frozenset({"fields"})


class RowReads:
    """GET and HEAD of a list and of a row. Rows are passed on as they are stored, undecoded where that is possible."""

    def __init__(self, rows: ExposedRows) -> None:
        exposure = rows.exposure
        self._rows = rows
        self._table = exposure.table
        self.lists = ListReader(exposure, rows.is_integer)
        scope = b"no-cache" if exposure.read.open else b"private, no-cache"
        self._headers: Headers = [(b"vary", b"accept-encoding"), (b"cache-control", scope)]

    async def list_rows(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        listing = self.lists.read(scope["query_string"], caller.subject)
        page = await self._table.query_records(listing.query)
        await self._send(scope, send, self._join(page, listing.fields, caller), [])

    def _join(self, page: RecordPage, fields: tuple[str, ...], caller: Caller) -> bytes:
        records = page.records
        if self._rows.shared_keys:  # an index may lag behind a change of the owner
            records = [record for record in records if self._rows.owns(record, caller)]
        bodies = [_selected(self._table.body_of(record), fields) for record in records]
        return b'{"items":[' + b",".join(bodies) + b'],"cursor":' + encode_json(write_cursor(page.next)) + b"}"

    async def read_row(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        fields = self.lists.fields(read_parameters(scope["query_string"], _ITEM_PARAMETERS))
        record = await self._rows.find(self._rows.key_of(scope, caller), caller)
        if record is None:
            raise self._rows.missing()
        tag = (b"etag", etag(record.version))
        known = header(scope, b"if-none-match")
        if known is not None and matches(known, record.version, weak=True):
            await send({"type": "http.response.start", "status": 304, "headers": [tag, *self._headers]})
            await send({"type": "http.response.body"})
            return
        await self._send(scope, send, _selected(self._table.body_of(record), fields), [tag])

    async def _send(self, scope: Scope, send: Send, body: bytes, headers: Headers) -> None:
        headers += self._headers
        if len(body) > COMPRESSED_FROM and accepts_gzip(header(scope, b"accept-encoding") or ""):
            headers.append((b"content-encoding", b"gzip"))
            body = _compressed(body) if len(body) < IN_THREAD_FROM else await asyncio.to_thread(_compressed, body)
        if scope["method"] != "HEAD":
            await send_json(send, 200, body, headers)
            return
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})


def _selected(body: bytes, fields: tuple[str, ...]) -> bytes:
    if not fields:
        return body
    row = decode_json(body)
    return encode_json({name: row[name] for name in fields if name in row})


def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, 5, mtime=0)


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is accepted, and not less than no encoding (RFC 9110 §12.5.3)."""
    weights: dict[str, float] = {}
    for item in accept_encoding.split(","):
        coding, *parameters = item.split(";")
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                weight = _weight(value)
        weights[coding.strip().lower()] = weight
    gzipped = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzipped > 0 and gzipped >= weights.get("identity", 0.0)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if math.isfinite(weight) else 0.0


def routes_of(exposure: Exposure) -> list[DirectRoute]:
    """The routes of an exposed table."""
    name = exposure.table.name.partition("/")[2]
    schema = ModelSchema(exposure.table.model, f"{exposure.title}.row", "serialization")
    rows = ExposedRows(exposure, schema)
    document = RestDocumentation(rows, name, schema)
    path, parts = exposure.path, exposure.path_fields
    routes = []
    if "GET" in exposure.methods:
        reads = RowReads(rows)
        listed, read = document.list_rows(reads.lists), document.read_row()
        routes += [
            DirectRoute("GET", path, reads.list_rows, exposure.read, **listed),
            DirectRoute("GET", path, reads.read_row, exposure.read, parts=parts, **read),
        ]
    writes = RowWrites(rows)
    if "POST" in exposure.methods:
        routes.append(DirectRoute("POST", path, writes.create, exposure.write, **document.create()))
    verbs = {"PUT": writes.replace, "PATCH": writes.patch, "DELETE": writes.delete}
    documented = {"PUT": document.replace, "PATCH": document.patch, "DELETE": document.delete}
    routes += [
        DirectRoute(method, path, serve, exposure.write, parts=parts, **documented[method]())
        for method, serve in verbs.items()
        if method in exposure.methods
    ]
    return routes

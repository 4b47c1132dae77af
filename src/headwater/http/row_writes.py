"""POST, PUT, PATCH and DELETE of the rows of an exposed table, each in the request's unit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.types import Receive, Scope, Send

from headwater.codec import decode_json, encode_json
from headwater.engine import Record
from headwater.errors import AlreadyExists, Forbidden, InvalidValue
from headwater.events import Caller, Key
from headwater.http.answers import Headers
from headwater.http.direct import JSON, header, invalid, located, media_type, read_body, send_json, unsupported
from headwater.http.etags import check_conditions, etag
from headwater.http.merge_patch import merge_patch
from headwater.http.rows import ExposedRows
from headwater.ids import new_id

MERGE_PATCH = "application/merge-patch+json"
Document = dict[str, Any]


class RowWrites:
    def __init__(self, rows: ExposedRows) -> None:
        self._rows = rows
        self._table = rows.table
        self._owner = rows.owner

    async def create(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """A new row. Where callers share the key space its id is always made here, so that none can be probed."""
        document = await _read_object(scope, receive, (JSON,))
        fixed: Document = {}
        if self._owner:
            if not caller.subject:
                raise Forbidden("the caller has no subject that could own a row", operation="request")
            fixed[self._owner] = caller.subject
        made = self._rows.made_field
        if self._rows.shared_keys and made in document:
            raise invalid("extra_forbidden", f"{made!r} is made by the server", "body", made)
        if made not in document and made not in fixed and not self._rows.is_integer(made):
            fixed[made] = new_id()
        row = self._build(document, fixed)
        key: Key = self._table.key_of(row)
        if await self._table.read_record(key) is not None:
            raise AlreadyExists("there is such a row", operation="request", resource=self._table.name)
        await self._table.put(row)
        parts = "/".join(quote(str(part), safe="") for part in self._rows.path_parts(key))
        location = f"{scope.get('root_path', '')}{self._rows.exposure.path}/{parts}"
        await self._answer(send, 201, key, [(b"location", location.encode())])

    async def replace(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """A row in place of the present one; a new one where callers do not share the key space."""
        document = await _read_object(scope, receive, (JSON,))
        key = self._rows.key_of(scope, caller)
        present = await self._rows.find(key, caller)
        if present is None and self._rows.shared_keys:
            raise self._rows.missing()
        _check(scope, present)
        await self._table.put(self._build(document, self._fixed(key, caller)))
        await self._answer(send, 201 if present is None else 200, key)

    async def patch(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """The present row with a merge patch (RFC 7396) applied. Its key and its owner can't change."""
        patch = await _read_object(scope, receive, (MERGE_PATCH, JSON))
        key = self._rows.key_of(scope, caller)
        present = await self._present(key, caller)
        _check(scope, present)
        fixed = self._fixed(key, caller)
        merged = merge_patch(decode_json(self._table.body_of(present)), patch)
        for name in fixed:
            merged.setdefault(name, None)
        await self._table.put(self._build(merged, fixed))
        await self._answer(send, 200, key)

    async def delete(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        key = self._rows.key_of(scope, caller)
        _check(scope, await self._present(key, caller))
        await self._table.delete(*key[: len(self._rows.key_fields)])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def _present(self, key: Key, caller: Caller) -> Record:
        found = await self._rows.find(key, caller)
        if found is None:
            raise self._rows.missing()
        return found

    def _fixed(self, key: Key, caller: Caller) -> Document:
        """The fields that a row of this key has in any case."""
        fixed: Document = dict(zip(self._rows.key_fields, key, strict=False))
        if self._owner:
            fixed[self._owner] = caller.subject
        return fixed

    def _build(self, document: Document, fixed: Mapping[str, Any]) -> Any:
        """The row of a document, validated. Fixed fields are filled in; another value, or a model that changes it, is
        refused."""
        row = self._decode({**fixed, **document})
        for name, value in fixed.items():
            if self._rows.value_of(row, name) != value:
                raise invalid("value_error", f"{name!r} cannot have another value here", "body", name)
        return row

    def _decode(self, document: Document) -> Any:
        try:
            return self._table.codec.decode(encode_json(document))
        except InvalidValue as error:
            error.operation, error.resource, error.errors = "request", self._table.name, located(error, "body")
            raise
        except (OverflowError, RecursionError) as error:
            raise invalid("value_error", f"the row cannot be stored: {error}", "body") from error

    async def _answer(self, send: Send, status: int, key: Key, headers: Headers | None = None) -> None:
        """The row as the unit has just written it."""
        written = await self._table.read_record(key)
        await send_json(send, status, written.body, [(b"etag", etag(written.version)), *(headers or ())])


def _check(scope: Scope, present: Record | None) -> None:
    version = None if present is None else present.version
    check_conditions(header(scope, b"if-match"), header(scope, b"if-none-match"), version)


async def _read_object(scope: Scope, receive: Receive, accepted: Sequence[str]) -> Document:
    body = await read_body(receive)
    if not body or body.isspace():
        raise invalid("missing", "the body is empty", "body")
    if media_type(scope) not in accepted:
        raise unsupported(scope, accepted)
    try:
        document = decode_json(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("json_invalid", f"the body is no JSON: {error}", "body") from error
    if not isinstance(document, dict):
        raise invalid("dict_type", "the body is no JSON object", "body")
    return document

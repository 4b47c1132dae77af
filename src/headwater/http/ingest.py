"""`app.ingest`: POSTs straight into a queue, validated and stored as canonical JSON in one commit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from headwater.codec import decode_json, encode_json
from headwater.errors import InvalidValue
from headwater.events import Caller
from headwater.http.context import KEY
from headwater.http.declarations import Ingestion
from headwater.http.direct import JSON, DirectRoute, invalid, located, media_type, read_body, send_json, unsupported
from headwater.http.schemas import ModelSchema

NDJSON = "application/x-ndjson"
MAX_BATCH = 1000
_split_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_PLAIN_JSON = (b"content-type", b"application/json")
_ID = {"type": "string"}


class Intake:
    """One queue's endpoint."""

    def __init__(self, ingestion: Ingestion) -> None:
        self._queue = ingestion.queue.name
        self._decode = ingestion.queue.codec.decode
        self._encode = ingestion.queue.codec.encode
        self._group = ingestion.group

    async def serve(self, scope: Scope, receive: Receive, send: Send, _: Caller) -> None:
        body = await read_body(receive)
        if not body or body.isspace():
            raise invalid("missing", "the body is empty", "body")
        kind = JSON if _PLAIN_JSON in scope["headers"] else media_type(scope)
        if kind == JSON and not body.lstrip().startswith(b"["):
            message, group = self._read(body, ("body",))
            answer = b'{"id":"' + self._send(scope, message, group).encode() + b'"}'
        elif kind == JSON:
            answer = self._send_all(scope, enumerate(_items(body)))
        elif kind == NDJSON:
            lines = enumerate(body.split(b"\n"), 1)
            answer = self._send_all(scope, ((n, line) for n, line in lines if line and not line.isspace()))
        else:
            raise unsupported(scope, (JSON, NDJSON))
        await send_json(send, 202, answer)

    def _read(self, body: bytes, place: tuple[str | int, ...]) -> tuple[bytes, str | None]:
        """The message's canonical JSON and its group; raises `InvalidValue` with the places of what is wrong."""
        try:
            message: bytes = self._encode(self._decode(body))
        except InvalidValue as error:
            error.operation, error.resource, error.errors = "send", self._queue, located(error, *place)
            raise
        except RecursionError:
            raise invalid("json_invalid", "the JSON is nested too deeply", *place) from None
        if not self._group:
            return message, None
        group = decode_json(message).get(self._group)
        if group is None or group == "" or isinstance(group, dict | list):
            raise invalid("missing", f"{self._group!r} is the message's group: a text or number", *place, self._group)
        return message, group if isinstance(group, str) else str(group)

    def _send(self, scope: Scope, message: bytes, group: str | None) -> str:
        id: str = scope[KEY].unit.send(self._queue, message, group=group, dedup="", delay_ms=None, unordered=True)
        return id

    def _send_all(self, scope: Scope, items: Iterable[tuple[int, bytes]]) -> bytes:
        """Send all items or none; each is known by its place in the array, or by its line."""
        messages: list[tuple[bytes, str | None]] = []
        errors: list[Any] = []
        for place, item in items:
            if len(messages) + len(errors) == MAX_BATCH:
                raise invalid("too_long", f"more than {MAX_BATCH} messages", "body")
            try:
                messages.append(self._read(item, ("body", place)))
            except InvalidValue as error:
                errors += error.errors
        if errors:
            refused = InvalidValue(f"{len(errors)} invalid values; no message was sent", operation="send")
            refused.resource, refused.errors = self._queue, errors
            raise refused
        if not messages:
            raise invalid("too_short", "there is no message in the body", "body")
        return encode_json({"ids": [self._send(scope, message, group) for message, group in messages]})


def _items(body: bytes) -> list[bytes]:
    try:
        return [bytes(item) for item in _split_array(body)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("json_invalid", f"the body is no JSON array: {error}", "body") from error


def route_of(ingestion: Ingestion) -> DirectRoute:
    queue, name = ingestion.queue, ingestion.queue.name.partition("/")[2]
    message = f"{ingestion.title}.message"
    schema = ModelSchema(queue.model, message, "validation")
    ref = {"$ref": f"#/components/schemas/{message}"}
    batch = {"type": "array", "items": ref, "minItems": 1, "maxItems": MAX_BATCH}
    one = {"type": "object", "required": ["id"], "properties": {"id": _ID}, "additionalProperties": False}
    ids = {"type": "array", "items": _ID}
    many = {"type": "object", "required": ["ids"], "properties": {"ids": ids}, "additionalProperties": False}
    content = {JSON: {"schema": {"oneOf": [ref, batch]}}, NDJSON: {"schema": {"type": "string", "minLength": 2}}}
    return DirectRoute(
        "POST",
        ingestion.path,
        Intake(ingestion).serve,
        ingestion.auth,
        name=f"send_to_{name}",
        summary=f"Send to {name}",
        description="Answers when the messages are durable. Of a batch all are sent, or none.",
        tags=[name],
        status_code=202,
        responses={202: {"description": "Accepted", "content": {JSON: {"schema": {"oneOf": [one, many]}}}}},
        openapi_extra={"requestBody": {"required": True, "content": content}},
        schemas={message: schema.root, **schema.components},
    )

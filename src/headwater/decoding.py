"""From a delivery's bytes to the event that a handler receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from headwater.codec import Codec, decode_json, encode_json
from headwater.errors import InvalidValue
from headwater.events import INSERTED, MODIFIED, Delivery, Event, Inserted, Modified, Removed

E_co = TypeVar("E_co", covariant=True)
Decode = Callable[[Delivery], E_co]
Upgrade = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]


def upgraded(body: bytes, schema: int, wanted: int, upgrade: Upgrade) -> bytes:
    """The document brought from the model version `schema` to `wanted`, one step after the other."""
    if schema == wanted:
        return body
    if schema > wanted:
        raise InvalidValue(
            f"the document has model version {schema}, this deploy knows {wanted}",
            hint="deploy the newer version, or write an upgrade for it",
        )
    document = decode_json(body)
    for version in range(schema, wanted):
        document = upgrade[version](document)
    return encode_json(document)


def event_decoder(codec: Codec[Any], schema: int | None = None, upgrade: Upgrade | None = None) -> Decode[Any]:
    """Decode messages to `Event`, changes to `Inserted`, `Modified` or `Removed`, images to the codec's model."""
    steps = upgrade or {}

    def image(body: bytes | None, found: int) -> Any:
        if body is None:
            return None
        return codec.decode(body if schema is None else upgraded(body, found, schema, steps))

    def decode(delivery: Delivery) -> Any:
        event = delivery.event
        common: dict[str, Any] = {
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "time_ms": event.time_ms,
            "attributes": event.attributes,
            "cause": event.cause,
            "caller": event.caller,
            "attempt": delivery.receives,
            "idempotency_key": f"{event.id}/{delivery.queue}",
            "trace": event.trace,
        }
        if event.key is None:
            return Event(data=image(event.data, event.schema), **common)
        new, old = image(event.data, event.schema), image(event.old, event.old_schema)
        data = old if new is None else new
        if event.type == INSERTED:
            return Inserted(data=data, new=new, key=event.key, version=event.version, **common)
        if event.type == MODIFIED:
            return Modified(data=data, new=new, old=old, key=event.key, version=event.version, **common)
        return Removed(data=data, old=old, key=event.key, version=event.version, expired=event.expired, **common)

    return decode

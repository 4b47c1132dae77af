"""Records as DynamoDB items and back, in the low-level form of its API: `{"name": {"S": "value"}}`.

The fields of a document are attributes of the same name, so that people and other programs can read them. What
DynamoDB's numbers cannot tell (1.0 from 1), cannot hold (1e300) or what its names cannot be (empty, ours, nested too
deeply) is in `hw_body` besides: the canonical JSON, byte for byte. A deleted record is a *tombstone*: it tells who
deleted it, by which commit and in which trace, and DynamoDB's time to live takes it away later.
"""

from __future__ import annotations

import base64
import hashlib
from decimal import Decimal
from typing import Any

import msgspec

from headwater.applying.state import Stored
from headwater.aws.keys import pack_part, pack_place, unpack_part
from headwater.catalog import TableSpec, index_entry
from headwater.codec import INT64, decode_json, encode_json
from headwater.events import Caller, Key

Item = dict[str, dict[str, Any]]
PK, SK = "hw_pk", "hw_sk"
VERSION, SCHEMA, BODY, GONE = "hw_v", "hw_s", "hw_body", "hw_gone"
EXPIRES, TTL = "hw_x", "hw_ttl"
"""When it expires: in milliseconds, for readers; in seconds, for DynamoDB."""
ORIGIN = "hw_m"
OURS = "hw_"
MOST_ITEM = 400 * 1024
_FOREIGN = "foreign-"
_DEEPEST = 30
"""DynamoDB allows 32 levels, the attribute's own among them."""
_LEAST, _GREATEST = Decimal("1e-130"), Decimal("9.9e125")


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an item's last write: its commit's time and what its change is caused by. `expired` marks a tombstone that
    ends a record whose time to live had passed."""

    time_ms: int
    cause: str | None = None
    caller: Caller | None = None
    trace: str = ""
    depth: int = 0
    expired: bool = False


class Image(msgspec.Struct, frozen=True):
    """What an item says. `body` is None of a tombstone; `version` and `origin` are missing of what others wrote."""

    key: Key
    body: bytes | None
    version: str = ""
    schema: int = 1
    expires_ms: int | None = None
    origin: Origin | None = None

    def is_present(self, now_ms: int) -> bool:
        return self.body is not None and (self.expires_ms is None or self.expires_ms > now_ms)


def version_of(image: Image) -> str:
    """The version of a record for who reads it; one that others wrote is told by its content."""
    if image.version:
        return image.version
    return _FOREIGN + hashlib.blake2b(image.body or b"", digest_size=16).hexdigest()


def is_foreign(version: str) -> bool:
    return version.startswith(_FOREIGN)


_encode_origin = msgspec.msgpack.Encoder().encode
_decode_origin = msgspec.msgpack.Decoder(Origin).decode


def index_attributes(index: str) -> tuple[str, str]:
    """The key of an index: its partition part, and the place there."""
    return f"hw_i_{index}", f"hw_j_{index}"


def pack_key(spec: TableSpec, key: Key) -> Item:
    item: Item = {PK: {"S": key[0]}}
    if spec.sort:
        item[SK] = {"S": pack_part(key[1])}
    return item


def unpack_key(item: Item) -> Key:
    return item[PK]["S"], unpack_part(item[SK]["S"]) if SK in item else ""


def pack_record(spec: TableSpec, key: Key, record: Stored, origin: Origin) -> Item:
    """The item of a present record."""
    item = pack_document(record.body)
    item.update(pack_key(spec, key))
    item.update(pack_entries(spec, key, decode_json(record.body)))
    item[VERSION] = {"S": record.version}
    item[SCHEMA] = {"N": str(record.schema)}
    item[ORIGIN] = {"B": _encode_origin(origin)}
    if record.expires_ms is not None:
        item[EXPIRES] = {"N": str(record.expires_ms)}
        item[TTL] = {"N": str(max(0, -(-record.expires_ms // 1000)))}
    return item


def pack_tombstone(spec: TableSpec, key: Key, version: str, origin: Origin) -> Item:
    return {
        **pack_key(spec, key),
        VERSION: {"S": version},
        GONE: {"BOOL": True},
        ORIGIN: {"B": _encode_origin(origin)},
        TTL: {"N": str(origin.time_ms // 1000)},
    }


def pack_entries(spec: TableSpec, key: Key, document: dict[str, Any]) -> Item:
    """The attributes that put the record into the table's indexes."""
    found: Item = {}
    for index in spec.indexes:
        entry = index_entry(index, document)
        if entry:
            partition, place = index_attributes(index.name)
            found[partition] = {"S": pack_part(entry[0])}
            found[place] = {"S": pack_place(entry[1], *key)}
    return found


def unpack(item: Item) -> Image:
    """Also of a stream's image, where binary values may be base64, and of an item that others wrote."""
    expires = item.get(EXPIRES)
    origin = item.get(ORIGIN)
    schema = item.get(SCHEMA)
    return Image(
        unpack_key(item),
        None if GONE in item else unpack_document(item),
        item[VERSION]["S"] if VERSION in item else "",
        int(schema["N"]) if schema else 1,
        int(expires["N"]) if expires else None,
        _decode_origin(unpack_binary(origin)) if origin else None,
    )


def pack_document(body: bytes) -> Item:
    """A document's attributes; whatever they are, `unpack_document` gives back exactly these bytes."""
    item: Item = {}
    for name, value in decode_json(body).items():
        if name and not name.startswith(OURS) and (packed := _pack_value(value, 1)):
            item[name] = packed
    if item_size(item) > MOST_ITEM:
        item = {}
    if unpack_document(item) != body:
        item[BODY] = {"B": body}
        if item_size(item) > MOST_ITEM:
            item = {BODY: {"B": body}}
    return item


def unpack_document(item: Item) -> bytes:
    """The canonical JSON of an item's document."""
    if BODY in item:
        return unpack_binary(item[BODY])
    return encode_json({name: _unpack_value(value) for name, value in item.items() if not name.startswith(OURS)})


def unpack_binary(value: dict[str, Any]) -> bytes:
    """A binary value: bytes from the API, base64 text in a function's event."""
    content = value["B"]
    return base64.b64decode(content) if isinstance(content, str) else bytes(content)


def _pack_value(value: Any, level: int) -> dict[str, Any] | None:
    """None for what DynamoDB cannot hold."""
    if level > _DEEPEST:
        return None
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int():
            return {"N": str(value)}
        case float():
            return {"N": repr(value)} if value == 0 or _LEAST <= abs(Decimal(repr(value))) <= _GREATEST else None
        case list():
            items = [_pack_value(item, level + 1) for item in value]
            return None if None in items else {"L": items}
        case dict():
            fields = {name: _pack_value(item, level + 1) for name, item in value.items()}
            return None if None in fields.values() or "" in fields else {"M": fields}
    return None


def _unpack_value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "NULL":
            return None
        case "N":
            return _unpack_number(content)
        case "L":
            return [_unpack_value(item) for item in content]
        case "M":
            return {name: _unpack_value(item) for name, item in content.items()}
        case "B":
            return content if isinstance(content, str) else base64.b64encode(content).decode()
        case "SS":
            return sorted(content)
        case "NS":
            return sorted(_unpack_number(item) for item in content)
        case "BS":
            return sorted(_unpack_value({"B": item}) for item in content)
    return content


def _unpack_number(text: str) -> int | float:
    try:
        whole = int(text)
    except ValueError:
        number = Decimal(text)
        whole = int(number) if number == number.to_integral_value() else 0
        if not whole and number:
            return float(text)
    return whole if whole in INT64 else float(text)


def item_size(item: Item) -> int:
    """How large DynamoDB finds an item, in bytes; never too small."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return min(21, len(content) // 2 + 2)
        case "B":
            return len(content)
        case "L":
            return 3 + sum(1 + _value_size(item) for item in content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _value_size(item) for name, item in content.items())
    return 1

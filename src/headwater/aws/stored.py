"""The items of the store table: the catalog with subscriptions and pauses, claims, markers, dead letters, failures.

Its keys: `hw_pk` says what an item is and of what, `hw_sk` which. What is too long for a key ends in a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from headwater.aws.items import EXPIRES, PK, SK, TTL, Item, unpack_binary
from headwater.aws.keys import pack_part, unpack_part
from headwater.catalog import Catalog, RouteSpec
from headwater.events import Envelope

CATALOG = "catalog"
"""The partition with the catalog: read as a whole."""
HEAD, APP, SUBSCRIPTION, PAUSE = "head", "app#", "subscription#", "pause#"
REVISION, CONTENT = "hw_revision", "hw_content"
KEPT_MS = 15 * 86_400_000
"""How long it is told of a message's attempts: longer than SQS keeps any."""
_MOST_PK, _MOST_SK = 2048, 1024
_DAY_MS = 86_400_000


class StoredCatalog(msgspec.Struct):
    revision: int = 0
    apps: dict[str, Catalog] = {}
    subscriptions: dict[str, RouteSpec] = {}
    paused: set[str] = set()


def read_catalog(items: Sequence[Item]) -> StoredCatalog:
    """From all items of the partition `CATALOG`."""
    found = StoredCatalog(apps={}, subscriptions={}, paused=set())
    for item in items:
        name = item[SK]["S"]
        if name == HEAD:
            found.revision = int(item[REVISION]["N"])
        elif name.startswith(APP):
            found.apps[name.removeprefix(APP)] = msgspec.json.decode(unpack_binary(item[CONTENT]), type=Catalog)
        elif name.startswith(SUBSCRIPTION):
            route = msgspec.json.decode(unpack_binary(item[CONTENT]), type=RouteSpec)
            found.subscriptions[name.removeprefix(SUBSCRIPTION)] = route
        elif name.startswith(PAUSE):
            found.paused.add(name.removeprefix(PAUSE))
    return found


def catalog_item(name: str, content: Any = None) -> Item:
    """Of an app, a subscription or a pause: `APP + "shop"` with its `Catalog`, and so on."""
    item = key(CATALOG, name)
    if content is not None:
        item[CONTENT] = {"B": msgspec.json.encode(content)}
    return item


def head_item(revision: int) -> Item:
    return {**key(CATALOG, HEAD), REVISION: {"N": str(revision)}}


def key(partition: str, sort: str) -> Item:
    return {PK: {"S": _short(partition, _MOST_PK)}, SK: {"S": _short(pack_part(sort), _MOST_SK)}}


def _short(text: str, most: int) -> str:
    if len(text) * 4 <= most or len(text.encode()) <= most:
        return text
    return f"{text.encode()[: most - 70].decode(errors='ignore')}#{hashlib.sha256(text.encode()).hexdigest()}"


def claim_key(scope: str, id: str) -> Item:
    return key(f"claim#{scope}", id)


def claim_item(scope: str, id: str, expires_ms: int, result: bytes) -> Item:
    return {
        **claim_key(scope, id),
        EXPIRES: {"N": str(expires_ms)},
        TTL: {"N": str(max(0, -(-expires_ms // 1000)))},
        CONTENT: {"B": result},
    }


def read_claim(item: Item) -> tuple[int, bytes]:
    """When it expires, and its result."""
    return int(item[EXPIRES]["N"]), unpack_binary(item[CONTENT])


def marker_key(marker: str) -> Item:
    return key(marker, "done")


def marker_item(marker: str, until_ms: int) -> Item:
    """Says that the effect of a message was committed, for as long as SQS may deliver it again."""
    return {**marker_key(marker), TTL: {"N": str((until_ms + _DAY_MS) // 1000)}}


class Letter(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A dead letter as it is kept."""

    event: Envelope
    message_id: str
    receives: int
    reason: str
    died_ms: int
    group: str | None = None
    failures: tuple[dict[str, Any], ...] = ()


_encode_letter = msgspec.msgpack.Encoder().encode
_decode_letter = msgspec.msgpack.Decoder(Letter).decode


def letter_key(queue: str, id: int) -> Item:
    return {PK: {"S": f"dead#{queue}"}, SK: {"S": pack_part(id)}}


def letter_item(queue: str, id: int, letter: Letter) -> Item:
    return {**letter_key(queue, id), CONTENT: {"B": _encode_letter(letter)}}


def read_letter(item: Item) -> Letter:
    return _decode_letter(unpack_binary(item[CONTENT]))


class Failed(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One attempt of a message that did not end in a plain acknowledgement."""

    receive: int
    outcome: str
    error: str
    traceback: str = ""
    started_ms: int = 0
    ended_ms: int = 0


def attempts_partition(message_id: str) -> str:
    return f"attempts#{message_id}"


def attempt_item(message_id: str, commit: str, attempt: Failed, until_ms: int) -> Item:
    """Commits' ids sort by time, so a message's attempts are in order."""
    return {
        **key(attempts_partition(message_id), commit),
        CONTENT: {"B": msgspec.msgpack.encode(attempt)},
        TTL: {"N": str(until_ms // 1000)},
    }


def read_attempts(items: Sequence[Item]) -> tuple[dict[str, Any], ...]:
    return tuple(
        msgspec.structs.asdict(msgspec.msgpack.decode(unpack_binary(item[CONTENT]), type=Failed)) for item in items
    )


def letter_place(item: Item) -> tuple[str, int]:
    """A dead letter's queue and id."""
    return item[PK]["S"].removeprefix("dead#"), int(unpack_part(item[SK]["S"]))

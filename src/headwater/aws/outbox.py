"""The outbox: what a commit publishes and sends, as items that are part of its transaction.

The stream of the table hands them to the relay: those of one partition key in the order of their commits. So what must
stay in order has a partition key that says so, and all else one of its own commit.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headwater.aws.items import PK, SK, TTL, Item, unpack_binary
from headwater.catalog import Catalog, ways_from
from headwater.codec import decode_json
from headwater.events import Envelope

CONTENT = "hw_emits"
KEPT_MS = 86_400_000
_MOST_BYTES = 350 * 1024


class Posted(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event for its source's routes, or for `queue` alone. `turn` is what sets a redriven message apart."""

    event: Envelope
    queue: str = ""
    group: str | None = None
    delay_ms: int | None = None
    turn: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Posted]).decode


class Orders:
    """Which of what is posted must stay in order, by a catalog's routes. Immutable."""

    def __init__(self, catalog: Catalog) -> None:
        self._queues = catalog.queues
        self._routes = catalog.routes
        self._by_source: dict[str, set[str]] = {}

    def order(self, posted: Posted) -> str:
        """The name of the order that an event belongs to; empty when it belongs to none."""
        if posted.queue:
            spec = self._queues.get(posted.queue)
            return f"{posted.queue}#{posted.group or ''}" if spec and spec.fifo else ""
        source = posted.event.source
        groups = self._groups(source)
        if not groups:
            return ""
        if len(groups) > 1:
            return source
        (field,) = groups
        return f"{source}#{_group(posted.event, field)}"

    def _groups(self, source: str) -> set[str]:
        """By which fields the FIFO queues that a source leads to are grouped; "$subject" for its events' subject."""
        if source not in self._by_source:
            self._by_source[source] = {
                next((route.group for route in reversed(way) if route.group), "$subject")
                for way in ways_from(source, self._queues, self._routes)
                if self._queues[way[-1].target].fifo
            }
        return self._by_source[source]


def _group(event: Envelope, field: str) -> str:
    if field == "$subject":
        return event.subject or event.id
    document = None if event.data is None else decode_json(event.data)
    value = document.get(field) if isinstance(document, dict) else None
    return "" if value is None else str(value)


def pack_outbox(commit: str, posted: Sequence[Posted], orders: Orders, now_ms: int) -> list[Item]:
    """The commit's items: one for each order, more when it has much to say."""
    by_order: dict[str, list[Posted]] = {}
    for entry in posted:
        by_order.setdefault(orders.order(entry), []).append(entry)
    items: list[Item] = []
    for order, entries in by_order.items():
        for part in _parts(entries):
            items.append(
                {
                    PK: {"S": _fitting(order) or f"commit#{commit}"},
                    SK: {"S": f"{commit}#{len(items):04d}"},
                    CONTENT: {"B": part},
                    TTL: {"N": str((now_ms + KEPT_MS) // 1000)},
                }
            )
    return items


def unpack_outbox(item: Item) -> list[Posted]:
    return _decode(unpack_binary(item[CONTENT]))


def _parts(entries: Sequence[Posted]) -> list[bytes]:
    parts: list[bytes] = []
    begin = size = 0
    sizes = [len(_encode(entry)) for entry in entries]
    for at, more in enumerate(sizes):
        if size + more > _MOST_BYTES and at > begin:
            parts.append(_encode(entries[begin:at]))
            begin, size = at, 0
        size += more
    return [*parts, _encode(entries[begin:])]


def _fitting(order: str) -> str:
    """As a partition key, of at most 2,048 bytes: orders that are cut alike are kept together."""
    return order.encode()[:2048].decode(errors="ignore")

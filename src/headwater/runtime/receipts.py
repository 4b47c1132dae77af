"""Receipts: what a consumer over HTTP shows to settle or extend a delivery.

A receipt is its lease (position, fencing token, receive count, until when the delivery can be held at the most, and
what its span is to say), and an HMAC over it, the queue and the caller it was given to, under a key derived from the
server's secret key. So nobody can make one, use it for another queue, or use another caller's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable

import msgspec

from headwater.events import Caller, Delivery, Envelope
from headwater.tracing import new_span

_MAC = 16
_encode = msgspec.msgpack.encode


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """What a receipt says; `until_ms` bounds how long it is good, however often the lease is extended.

    `event`, `trace` and `caused` (by a request or a handler) are of the delivery's event, `span` is the attempt's.
    """

    position: int
    fence: int
    receives: int
    until_ms: int
    event: str
    trace: str
    caused: bool
    span: str

    @classmethod
    def of(cls, delivery: Delivery, until_ms: int) -> Lease:
        event = delivery.event
        told = (event.id, event.trace, event.cause is not None, new_span())
        return cls(delivery.position, delivery.fence, delivery.receives, until_ms, *told)

    def delivery(self, queue: str) -> Delivery:
        """The delivery without its event's content."""
        event = Envelope(id=self.event, source="", type="", trace=self.trace, cause="" if self.caused else None)
        return Delivery(queue=queue, position=self.position, fence=self.fence, receives=self.receives, event=event)


class Receipts:
    """Makes and reads receipts; `derive` gives the key, when the first one is needed."""

    def __init__(self, derive: Callable[[], bytes]) -> None:
        self._derive = derive
        self._key = b""

    def make(self, lease: Lease, queue: str, caller: Caller) -> str:
        body = _encode(lease)
        return base64.urlsafe_b64encode(self._mac(body, queue, caller) + body).rstrip(b"=").decode()

    def read(self, receipt: str, queue: str, caller: Caller) -> Lease | None:
        """The lease; None for what was not made here for this queue and caller."""
        try:
            raw = base64.b64decode(receipt + "=" * (-len(receipt) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        mac, body = raw[:_MAC], raw[_MAC:]
        if not hmac.compare_digest(mac, self._mac(body, queue, caller)):
            return None
        return msgspec.msgpack.decode(body, type=Lease)

    def _mac(self, body: bytes, queue: str, caller: Caller) -> bytes:
        self._key = self._key or self._derive()
        bound = _encode((body, queue, caller.method, caller.tenant, caller.subject))
        return hmac.digest(self._key, bound, hashlib.sha256)[:_MAC]

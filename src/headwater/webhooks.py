"""Webhooks: an HTTP endpoint as the target of a route, and the signature that goes with each delivery.

A webhook is a queue with a handler of Headwater's own: deliveries are retried, dead-lettered, redriven and traced
like all others. Each is a POST of the event as CloudEvents 1.0 JSON, signed per Standard Webhooks 1.0.0: HMAC-SHA256
of "id.timestamp.body" with the bytes that stand in base64 after "whsec_". Identity: `webhook-id` is the message's id,
the same for each attempt and after a redrive. An answer of 2xx acknowledges; all else leaves the message in the queue.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Unpack
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from headwater.clock import SystemClock, from_ms
from headwater.decoding import Decode
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError, Unauthenticated
from headwater.events import Delivery, Envelope
from headwater.handlers import HandlerSpec, QueueOptions
from headwater.late import Late, resolve
from headwater.sources import Feed, Target
from headwater.work import current

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.catalog import RouteSpec

Secret: TypeAlias = str | SecretStr
PREFIX = "whsec_"
TIMEOUT_S = 10.0
POLICY: QueueOptions = {"max_receives": 8, "backoff": "10s", "retention": "7d"}
"""What a webhook's queue has unless it is declared otherwise."""
_MIN_SECRET = 16
_HINT = "write whsec_ and the base64 of 24 to 64 random bytes"
_ATTRIBUTES = frozenset(
    ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64")
)
_is_extension = re.compile(r"[a-z0-9]{1,20}").fullmatch
"""CloudEvents 1.0, naming of context attributes."""


# Signatures


def new_secret() -> str:
    """A secret of 32 random bytes."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def secret_key(secret: Secret) -> bytes:
    """The bytes of a secret; raises `DeclarationError`, without the secret in it."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise DeclarationError("the webhook's secret is not base64", hint=_HINT) from None
    if len(key) < _MIN_SECRET:
        raise DeclarationError(f"the webhook's secret has only {len(key)} bytes", hint=_HINT)
    return key


def _signature(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    signed = f"{id}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def signed_headers(id: str, timestamp_s: int, body: bytes, secret: Secret) -> dict[str, str]:
    """The three headers of a signed delivery."""
    signature = _signature(secret_key(secret), id, str(timestamp_s), body)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp_s), "webhook-signature": signature}


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secret: Secret | Iterable[Secret],
    *,
    now: datetime | None = None,
    tolerance: Duration = "5m",
) -> str:
    """Check the signature of a received webhook (Standard Webhooks) on the bytes of its body; its id.

    The id is the same for each attempt to deliver one message: use it to drop what was received before. Several
    secrets are accepted while a sender changes over. `tolerance` bounds how far the timestamp may be from `now`
    (default: the server's time), before and after. Raises `Unauthenticated`, which answers 401, and
    `DeclarationError` for a secret that is none.
    """
    keys = [secret_key(one) for one in ([secret] if isinstance(secret, Secret) else secret)]
    given = {name.lower(): value for name, value in headers.items()}
    id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not id or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise _unverified("the headers webhook-id, webhook-timestamp and webhook-signature are required")
    offered = [one.encode("utf-8", "surrogatepass") for one in given.get("webhook-signature", "").split(" ") if one]
    expected = [_signature(key, id, timestamp, body).encode() for key in keys]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in offered]
    if not any(matches):
        raise _unverified("the webhook's signature is wrong")
    if abs(int(timestamp) * 1000 - _now_ms(now)) > to_ms(tolerance):
        raise _unverified("the webhook's timestamp is too far from the present")
    return id


def _now_ms(now: datetime | None) -> int:
    if now is not None:
        return int(now.timestamp() * 1000)
    unit = current.get()
    return (SystemClock() if unit is None else unit.engine.clock).wall_ms()


def _unverified(message: str) -> Unauthenticated:
    return Unauthenticated(message, operation="verify webhook")


def cloud_event(event: Envelope) -> bytes:
    """The event as CloudEvents 1.0 in structured JSON; a change's data has `old`, `new` and `version`.

    Attributes of the message whose names CloudEvents allows are extension attributes.
    """
    told: dict[str, Any] = {
        name: value for name, value in event.attributes.items() if _is_extension(name) and name not in _ATTRIBUTES
    }
    told |= {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
    if event.subject:
        told["subject"] = event.subject
    told["time"] = from_ms(event.time_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told["datacontenttype"] = "application/json"
    new = msgspec.Raw(event.data or b"null")
    if event.key is None:
        told["data"] = new
    else:
        told["data"] = {"old": msgspec.Raw(event.old or b"null"), "new": new, "version": event.version}
    return msgspec.json.encode(told)


# Declarations


class Deliverer(Protocol):
    """What a running server does for webhooks (`app.Binding`)."""

    async def deliver(self, delivery: Delivery, url: str, secret: Secret) -> None:
        """POST the delivery's event; returns when the endpoint has accepted it, and raises otherwise."""
        ...

    async def subscribe(self, route: RouteSpec, url: str, secret: Secret | None) -> Subscribed:
        """Deliver what the route selects (its target is not looked at) to a URL from now on."""
        ...

    async def unsubscribe(self, id: str) -> bool:
        """End a subscription, of a URL or a queue; False when there is none of this id."""
        ...


class Subscribed(str):
    """A subscription's id. `secret` is the secret that was made for it, shown this once; "" when none was made."""

    __slots__ = ("secret",)
    secret: str

    def __new__(cls, id: str, secret: str = "") -> Subscribed:
        made = super().__new__(cls, id)
        made.secret = secret
        return made


class Deliveries(Feed[Delivery]):
    """The feed of webhook handlers: deliveries as they are stored."""

    def __init__(self, name: str) -> None:
        self.name = name

    def decoder(self) -> Decode[Delivery]:
        return _as_stored


def _as_stored(delivery: Delivery) -> Delivery:
    return delivery


class Webhook(Target):
    """Made by `webhook`; the app that routes to it gets a queue of its name and the handler that delivers."""

    def __init__(
        self, url: str | Late[str], secret: Secret | Late[str] | Late[SecretStr], name: str, options: QueueOptions
    ) -> None:
        self.name = name or _name_for(url)
        self.options: QueueOptions = {**POLICY, **options}
        self._url = url
        self._secret = secret

    def resolve(self, app: App[Any]) -> tuple[str, Secret]:
        """URL and secret, from the app's settings where they are late."""
        secret: Secret = self._secret.pick(app.settings) if isinstance(self._secret, Late) else self._secret
        return resolve(self._url, app), secret

    def handler(self, app: App[Any], queue: str) -> HandlerSpec:
        async def deliver(delivery: Delivery) -> None:
            url, secret = self.resolve(app)
            await app.binding.webhooks.deliver(delivery, url, secret)

        return webhook_handler(self.name, queue, deliver)


def webhook_handler(name: str, queue: str, deliver: Any) -> HandlerSpec:
    """The handler of a webhook's queue."""
    return HandlerSpec(name=name, queue=queue, fn=deliver, feed=Deliveries(queue), timeout_s=TIMEOUT_S)


def webhook(
    url: str | Late[str],
    *,
    secret: Secret | Late[str] | Late[SecretStr],
    name: str = "",
    **options: Unpack[QueueOptions],
) -> Webhook:
    """An HTTP endpoint to route to: `source.to(webhook("https://…", secret=…), match=…)`.

    Each event is POSTed as CloudEvents JSON, signed with `secret` ("whsec_…"). `url` and `secret` may be late
    values (`app.late`); they are kept in no store. `name` is the queue's; without one it is made of the URL, so a late
    URL needs one. `options` are the queue's; by default 8 receives, a back-off of 10 s, 7 days of retention.
    """
    if isinstance(secret, str | SecretStr):
        secret_key(secret)
    return Webhook(url, secret, name, options)


def _name_for(url: str | Late[str]) -> str:
    if isinstance(url, Late):
        raise DeclarationError("a webhook with a late URL needs a name", operation="declare webhook", hint="name=…")
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    words = re.sub(r"[^a-z0-9]+", "-", host)[:40].strip("-")
    return f"webhook-{words}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"

"""Topics and queues: publishing, sending, and subscriptions made at run time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headwater.catalog import QueueSpec
from headwater.codec import codec_for
from headwater.decoding import Decode, event_decoder
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError, HeadwaterError, InvalidValue
from headwater.events import Event
from headwater.metrics import Metric, queue_metric
from headwater.permits import Guarded, guard
from headwater.sources import Feed, Pattern, Source, Target
from headwater.webhooks import Secret, Subscribed
from headwater.work import UnitOfWork, current

if TYPE_CHECKING:
    from headwater.app import App

T = TypeVar("T")


class Topic(Target, Source[Event[T]], Guarded, Generic[T]):
    """Declared by `app.topic`: what is published reaches every queue that is routed from it."""

    kind = "topic"

    def __init__(self, app: App[Any], name: str, model: type[T], *, foreign: bool = False) -> None:
        self.app = app
        self.name = name
        self.model = model
        self.foreign = foreign
        self.codec = codec_for(model)

    def decoder(self) -> Decode[Event[T]]:
        return event_decoder(self.codec)

    async def publish(self, data: T, *, attributes: Mapping[str, str] | None = None, dedup: str = "") -> str:
        """Publish one message; the event's id. In a unit of work it is published with its commit.

        `dedup` drops a second message with the same id within five minutes and, outside a unit, returns the
        first one's id. Raises `InvalidValue`, `TooLarge`.
        """
        if self.foreign:
            raise DeclarationError("another app's topic can be consumed only", operation="publish", resource=self.name)
        guard(self, "publish")
        body = _encode(self, data)
        names = dict(attributes) if attributes else {}
        outer = current.get()
        unit = outer or UnitOfWork(self.app.binding.engine)
        id = unit.publish(self.name, body, names, dedup=dedup)
        return id if outer else unit.duplicate_of(id, await unit.commit())

    async def subscribe(
        self,
        target: str,
        *,
        match: Pattern | None = None,
        group: str = "",
        delay: Duration | None = None,
        secret: Secret | None = None,
    ) -> Subscribed:
        """Route the topic to a queue ("app/queue") or a URL from now on, durably; the subscription's id.

        A URL is a webhook with a queue of its own. `secret` signs its deliveries; without one a secret is made, and
        shown this once as the id's `secret`. The same subscription again returns the same id; with another `secret`
        it is signed with that one from now on. Raises `UnknownResource`, `DeclarationError`.
        """
        guard(self, "subscribe")
        route = self.route(target, match=match, old=None, new=None, group=group, delay=delay)
        binding = self.app.binding
        if "://" in target:
            return await binding.webhooks.subscribe(route, target, secret)
        if secret is not None:
            raise DeclarationError("secret= is for URLs", operation="subscribe", resource=target)
        return Subscribed((await binding.engine.subscribe(route)).id)

    async def unsubscribe(self, id: str) -> bool:
        """End a subscription; False when there is none of this id."""
        guard(self, "subscribe")
        return await self.app.binding.webhooks.unsubscribe(id)


class Queue(Target, Feed[Event[T]], Guarded, Generic[T]):
    """Declared by `app.queue`: waits durably for its one handler, which `app.on(queue)` declares."""

    kind = "queue"

    def __init__(self, app: App[Any], spec: QueueSpec, model: type[T]) -> None:
        self.app = app
        self.name = spec.name
        self.spec = spec
        self.model = model
        self.codec = codec_for(model)

    def decoder(self) -> Decode[Event[T]]:
        return event_decoder(self.codec)

    @property
    def depth(self) -> Metric:
        """How many messages wait or are being handled, at the end of each minute."""
        return self._metric("depth")

    @property
    def oldest_age(self) -> Metric:
        """For how many seconds a message has been ready, or being handled, the longest-waiting one."""
        return self._metric("oldest_age")

    @property
    def dead_letters(self) -> Metric:
        """How many dead letters there are."""
        return self._metric("dead_letters")

    def _metric(self, name: str) -> Metric:
        found = queue_metric(name, self.name)
        assert found is not None
        return found

    async def send(self, data: T, *, group: str | None = None, dedup: str = "", delay: Duration | None = None) -> str:
        """Send one message straight to this queue; the event's id. In a unit of work it goes with its commit.

        `group` is required by a queue declared `fifo=True`. `dedup` drops a second message with the same id
        within five minutes ("content" stands for a hash of the message). `delay` replaces the queue's. Raises
        `QueueFull` beyond `max_depth`, `InvalidValue`, `TooLarge`.
        """
        guard(self, "send")
        if self.spec.fifo and group is None:
            raise InvalidValue("a FIFO queue needs group=", operation="send", resource=self.name)
        body = _encode(self, data)
        delay_ms = None if delay is None else to_ms(delay)
        dedup = _content_hash(body) if dedup == "content" else dedup
        outer = current.get()
        unit = outer or UnitOfWork(self.app.binding.engine)
        id = unit.send(self.name, body, group=group, dedup=dedup, delay_ms=delay_ms, unordered=True)
        return id if outer else unit.duplicate_of(id, await unit.commit())


def _encode(resource: Topic[T] | Queue[T], data: T) -> bytes:
    try:
        return resource.codec.encode(data)
    except HeadwaterError as error:
        error.operation, error.resource = "send", resource.name
        raise


def _content_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

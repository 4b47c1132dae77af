"""Admin operations on messages that wait, and on what feeds queues."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from headwater.engine import Waiting
from headwater.errors import DeclarationError, InvalidValue, UnknownResource
from headwater.messaging import Queue, Topic
from headwater.runtime.admin_base import AdminBase, event_json, time_of
from headwater.runtime.operations import Document, Limit, Name, operation

After = Annotated[int, msgspec.Meta(ge=0)]


class QueueOperations(AdminBase):
    @operation(writes=True)
    async def send(
        self,
        *,
        queue: Name,
        data: Document,
        group: str | None = None,
        dedup: str = "",
        delay: str | None = None,
    ) -> dict[str, Any]:
        """Send a message straight to a queue. `group` is for FIFO queues, `delay` a duration such as "5m"."""
        spec = await self.queue_spec(queue)
        self.check_model("queues", queue, data)
        target: Queue[dict[str, Any]] = Queue(self.stand_in, spec, dict)
        try:
            return {"id": await target.send(data, group=group, dedup=dedup, delay=delay)}
        except DeclarationError as error:
            raise InvalidValue(error.message, operation="send", resource=queue, hint=error.hint) from error

    @operation(writes=True)
    async def publish(
        self, *, topic: Name, data: Document, attributes: dict[str, str] | None = None, dedup: str = ""
    ) -> dict[str, Any]:
        """Publish a message to a topic."""
        await self.check_topic(topic)
        if topic in await self.schedule_names():
            raise InvalidValue(
                "it is a schedule, whose messages are ticks",
                operation="publish",
                resource=topic,
                hint=f"`headwater schedule run {topic} JSON` makes one, with parameters",
            )
        self.check_model("topics", topic, data)
        source: Topic[dict[str, Any]] = Topic(self.stand_in, topic, dict)
        return {"id": await source.publish(data, attributes=attributes, dedup=dedup)}

    @operation()
    async def peek(self, *, queue: Name, limit: Limit = 20, after: After = 0) -> dict[str, Any]:
        """Messages as they wait, without leasing them. `after` is the `next` of the page before."""
        await self.queue_spec(queue)
        found = await self.engine.peek(queue, limit, after)
        now_ms = await self.engine.now_ms()
        return {
            "messages": [_waiting_json(message, now_ms) for message in found],
            "next": found[-1].position if len(found) == limit else None,
        }

    @operation(writes=True)
    async def pause(self, *, queue: Name) -> dict[str, Any]:
        """Hand out nothing more of a queue, durably; what is leased finishes."""
        return await self._pause(queue, True)

    @operation(writes=True)
    async def resume(self, *, queue: Name) -> dict[str, Any]:
        """Hand out a paused queue's messages again."""
        return await self._pause(queue, False)

    async def _pause(self, queue: str, paused: bool) -> dict[str, Any]:
        await self.queue_spec(queue)
        await self.engine.pause(queue, paused)
        return {"queue": queue, "paused": paused}

    @operation(writes=True)
    async def purge(self, *, queue: Name) -> dict[str, Any]:
        """Remove all messages of a queue that are not leased, for good. Dead letters stay."""
        await self.queue_spec(queue)
        return {"queue": queue, "purged": await self.engine.purge(queue)}

    @operation()
    async def subscriptions(self, *, topic: str = "") -> dict[str, Any]:
        """The subscriptions made at run time, of one topic or of all."""
        if topic:
            await self.check_topic(topic)
        routes = (await self.engine.catalog()).routes
        urls = {hook.queue: hook.url for hook in await self.webhooks.rows()}
        made = [
            {**msgspec.to_builtins(route), "url": urls.get(route.target)}
            for route in routes
            if route.id and topic in ("", route.source)
        ]
        return {"subscriptions": sorted(made, key=lambda route: str(route["id"]))}

    @operation(writes=True)
    async def subscribe(
        self,
        *,
        topic: Name,
        queue: str = "",
        url: str = "",
        match: Document | None = None,
        group: str = "",
        delay: str | None = None,
        secret: str | None = None,
    ) -> dict[str, Any]:
        """Route a topic to a queue or a URL from now on; the same subscription again answers the same id.

        `secret` signs what is delivered to the URL; without one a secret is made, and only this answer shows it.
        """
        if bool(queue) == bool(url) or (url and "://" not in url):
            raise InvalidValue("give a queue, or a URL with its scheme", operation="subscribe", resource=topic)
        await self.check_topic(topic)
        if queue:
            await self.queue_spec(queue)
        source: Topic[dict[str, Any]] = Topic(self.stand_in, topic, dict)
        try:
            id = await source.subscribe(queue or url, match=match, group=group, delay=delay, secret=secret)
        except DeclarationError as error:
            raise InvalidValue(error.message, operation="subscribe", resource=topic, hint=error.hint) from error
        return {"id": str(id), "secret": id.secret} if id.secret else {"id": str(id)}

    @operation(writes=True)
    async def unsubscribe(self, *, id: Name) -> dict[str, Any]:
        """End a subscription made at run time; what still waits for a URL is discarded."""
        if not await self.webhooks.unsubscribe(id):
            raise UnknownResource(
                "there is no subscription of this id",
                operation="unsubscribe",
                resource=id,
                hint="`headwater topic subscriptions` lists them",
            )
        return {"id": id}

    @operation(writes=True)
    async def replay(self, *, table: Name, queue: Name) -> dict[str, Any]:
        """Put each present row of a table into a queue as an inserted change, for a late subscriber."""
        await self.table_spec(table)
        await self.queue_spec(queue)
        return {"table": table, "queue": queue, "replayed": await self.engine.replay(table, queue)}


def _waiting_json(message: Waiting, now_ms: int) -> dict[str, Any]:
    return {
        "id": f"{message.event.id}/{message.queue}",
        "position": message.position,
        "receives": message.receives,
        "ready": time_of(message.ready_ms) if message.ready_ms > now_ms else None,
        "group": message.group,
        "event": event_json(message.event),
        "failures": list(message.failures),
    }

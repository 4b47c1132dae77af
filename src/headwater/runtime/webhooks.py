"""Webhooks at run time: deliveries, and subscriptions of URLs.

A subscribed URL has a row in `headwater/webhooks` (id: a hash of what is subscribed, so that the same subscription is
the same webhook), a queue `headwater/webhook-<id>` in the catalog of Headwater's own app, and a route. Queue, row and
route are made in this order, each in a commit of its own; what is missing after a crash is made by subscribing
again. Ending it removes the route, then the row; messages left in the queue are discarded, and the next start drops
the empty queue.

An endpoint's answer decides: 2xx acknowledges, 410 disables the endpoint (alarm event, durable pause, dead letter),
429 and 503 with Retry-After wait so long, all else is a failure with back-off. The secret of a row is sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec

from headwater.applying.installing import part_of
from headwater.calls import calling
from headwater.catalog import QueueSpec, RouteSpec
from headwater.codec import encode_json
from headwater.engine import Subscription
from headwater.errors import Discard, HeadwaterError, Retry, Undeliverable, UnknownResource
from headwater.events import Delivery
from headwater.graph import Graph
from headwater.handlers import HandlerSpec
from headwater.http.addresses import EgressRules
from headwater.http.outbound import MAX_ANSWER, Answer, Outbound, origin_of
from headwater.retry_after import asked_wait_s
from headwater.runtime.seal import Seal
from headwater.system import NAME, Alarm, Hook, System
from headwater.unit import Write
from headwater.webhooks import (
    TIMEOUT_S,
    Secret,
    Subscribed,
    cloud_event,
    new_secret,
    secret_key,
    signed_headers,
    webhook_handler,
)
from headwater.work import UnitOfWork, caused_by

PREFIX = f"{NAME}/webhook-"
SHOWN = 200
"""How much of an answer stands in an error."""
_TRIES = 3
Reach = Callable[[str], tuple[httpx.AsyncBaseTransport | None, str | None]]


class WebhookRules(msgspec.Struct, frozen=True):
    """Where webhooks may go, and where the key is that seals their secrets.

    With `stand_ins`, applications in this process answer for their hosts: for tests.
    """

    egress: EgressRules = EgressRules()
    key_file: Path = Path(".headwater/secret.key")
    stand_ins: bool = False


class DeliveryFailed(HeadwaterError):
    """The endpoint did not accept the delivery."""


async def _no_server(queue: str) -> None:
    """Nobody consumes here; the next server does."""


class Webhooks:
    """Subscribes and delivers (`webhooks.Deliverer`). A server gives `consume`, which starts a queue's consumer."""

    def __init__(
        self,
        system: System,
        graph: Graph,
        rules: WebhookRules | None,
        reach: Reach,
        *,
        consume: Callable[[str], Awaitable[None]] = _no_server,
        outbound: Outbound | None = None,
    ) -> None:
        rules = rules or WebhookRules()
        self.outbound = outbound or Outbound(rules.egress)
        self._system = system
        self._graph = graph
        self._seal = Seal(rules.key_file)
        self._stand_ins = rules.stand_ins
        self._reach = reach
        self._consume = consume
        self._changing = asyncio.Lock()

    # Subscriptions

    async def subscribe(self, route: RouteSpec, url: str, secret: Secret | None) -> Subscribed:
        """Deliver what the route selects to the URL from now on. With another secret, that one signs from now on.

        Raises `DeclarationError` for a URL or secret that cannot be, `UnknownResource` for an unknown source.
        """
        self._target(url)
        wanted = "" if secret is None else _checked(secret)
        queue = PREFIX + _digest(route, url)
        route = msgspec.structs.replace(route, target=queue)
        async with self._changing:
            engine = self._system.app.binding.engine
            catalog = await engine.catalog()
            if route.source not in catalog.topics:
                raise UnknownResource(
                    "the store has no topic of this name", operation="subscribe", resource=route.source
                )
            made = ""
            if not wanted and not any(present.target == queue for present in catalog.routes):
                made = wanted = new_secret()
            subscription = await self._make(route, url, wanted)
            await self._consume(queue)
        return Subscribed(subscription.id, made)

    async def _make(self, route: RouteSpec, url: str, secret: str) -> Subscription:
        """Queue, row and route; anew when another server's start has just dropped the queue that nobody used yet."""
        engine, queue = self._system.app.binding.engine, route.target
        spec = QueueSpec(
            name=queue,
            max_receives=8,
            backoff_ms=10_000,
            retention_ms=7 * 86_400_000,
            fifo=bool(route.group),
        )
        self._graph.add_queue(spec, self._handler(queue))
        for _ in range(_TRIES):
            await engine.install(part_of(self._graph.catalog, NAME))
            if secret:
                await self._write(queue, route.source, url, secret)
            with contextlib.suppress(UnknownResource):
                return await engine.subscribe(route)
        return await engine.subscribe(route)

    async def unsubscribe(self, id: str) -> bool:
        """End a subscription, of a URL or a queue; False when there is none of this id."""
        engine = self._system.app.binding.engine
        async with self._changing:
            route = next((route for route in (await engine.catalog()).routes if route.id == id), None)
            if route is None or not await engine.unsubscribe(id):
                return False
            if route.target.startswith(PREFIX):
                unit = UnitOfWork(engine)
                table = self._system.webhooks
                unit.write(Write(table.name, table.key(_id_of(route.target)), unit.next_id()))
                await unit.commit()
                await engine.pause(route.target, False)
        return True

    async def restore(self) -> None:
        """Declare the queues of the webhooks that the store has, and of ended ones with messages to discard."""
        engine = self._system.app.binding.engine
        stored = await engine.catalog()
        wanted = {hook.queue for hook in await self.rows()}
        wanted |= {stats.queue for stats in await engine.stats() if stats.depth}
        for name, spec in stored.queues.items():
            if name.startswith(PREFIX) and name in wanted:
                self._graph.add_queue(spec, self._handler(name))

    async def follow(self) -> None:
        """Consume the queues of webhooks that were subscribed at other servers."""
        wanted = {hook.queue for hook in await self.rows()} - self._graph.handlers.keys()
        if wanted:
            stored = await self._system.app.binding.engine.catalog()
            for queue in wanted & stored.queues.keys():
                self._graph.add_queue(stored.queues[queue], self._handler(queue))
                await self._consume(queue)

    async def rows(self) -> list[Hook]:
        """The webhooks subscribed at run time; their secrets are sealed."""
        return await self._system.rows(self._system.webhooks)

    async def _write(self, queue: str, topic: str, url: str, secret: str) -> None:
        """The row, outside of any unit of work that may be open."""
        engine, table = self._system.app.binding.engine, self._system.webhooks
        id = _id_of(queue)
        row = Hook(
            id=id,
            topic=topic,
            queue=queue,
            url=url,
            secret_sealed=self._seal.seal(secret, queue),
            created_ms=await engine.now_ms(),
        )
        unit = UnitOfWork(engine)
        unit.write(Write(table.name, table.key(id), unit.next_id(), table.codec.encode(row)))
        await unit.commit()

    def _handler(self, queue: str) -> HandlerSpec:
        id = _id_of(queue)

        async def deliver(delivery: Delivery) -> None:
            hook = await self._system.read(self._system.webhooks, id)
            if hook is None:
                raise Discard("its subscription has ended")
            await self.deliver(delivery, hook.url, self._seal.open(hook.secret_sealed, queue))

        return webhook_handler("webhook", queue, deliver)

    # Deliveries

    def check(self, url: str, secret: Secret) -> None:
        """Raise `DeclarationError` for a URL or secret that no delivery can use."""
        secret_key(secret)
        self._target(url)

    async def deliver(self, delivery: Delivery, url: str, secret: Secret) -> None:
        """POST the event, signed; returns when the endpoint has accepted it."""
        body = cloud_event(delivery.event)
        clock = self._system.app.binding.clock
        headers = {
            "content-type": "application/cloudevents+json",
            "user-agent": "Headwater",
            "accept-encoding": "identity",
            **signed_headers(delivery.message_id, clock.wall_ms() // 1000, body, secret),
        }
        target, inside = self._target(url)
        origin = origin_of(target)
        with calling(self._system.app, "POST webhook", origin, headers) as answered:
            if inside is None:
                answer = await self.outbound.post(target, headers, body, timeout_s=TIMEOUT_S)
            else:
                answer = await _post_inside(inside, target, headers, body)
            answered.append(answer.status)
        await self._judge(delivery, origin, answer)

    def _target(self, url: str) -> tuple[httpx.URL, httpx.AsyncBaseTransport | None]:
        """The URL taken apart, and in tests the transport of a host that is served in this process.

        A server reaches its own apps by their names, too: but not with webhooks, whose guard would not see it.
        """
        try:
            inside = self._reach(httpx.URL(url).host)[0] if self._stand_ins else None
        except httpx.InvalidURL:
            inside = None
        return (self.outbound.check(url), None) if inside is None else (httpx.URL(url), inside)

    async def _judge(self, delivery: Delivery, origin: str, answer: Answer) -> None:
        if 200 <= answer.status < 300:
            return
        if answer.status == 410:
            await self._disable(delivery, origin)
            raise Undeliverable(f"{origin} answered 410: the endpoint is gone and now disabled")
        said = f"answered {answer.status}: {_shown(answer.body)}"
        wait_s = None
        if answer.status in (429, 503):
            now_s = self._system.app.binding.clock.wall_ms() / 1000
            wait_s = asked_wait_s(answer.headers.get("retry-after", ""), now_s)
        if wait_s is not None:
            raise Retry(after=wait_s, reason=f"{origin} {said}")
        hint = "redirects are not followed" if 300 <= answer.status < 400 else ""
        raise DeliveryFailed(said, operation="POST", resource=origin, hint=hint)

    async def _disable(self, delivery: Delivery, origin: str) -> None:
        """Tell it, then hand out no more: a crash in between makes the next attempt do both."""
        engine, queue = self._system.app.binding.engine, delivery.queue
        alarm = Alarm(
            name="webhook-gone",
            resource=queue,
            detail=f"{origin} answered 410; the queue is paused, `headwater queue resume {queue}` enables it again",
        )
        topic = self._system.alarms
        unit = UnitOfWork(engine, caused_by(delivery))
        unit.publish(topic.name, topic.codec.encode(alarm), {}, dedup=f"webhook-gone {queue}")
        await unit.commit()
        await engine.pause(queue, True)


async def _post_inside(
    transport: httpx.AsyncBaseTransport, url: httpx.URL, headers: dict[str, str], body: bytes
) -> Answer:
    """To an application of this process: the harness answers for a host (`services=`)."""
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.post(url, headers=headers, content=body, follow_redirects=False)
    return Answer(response.status_code, dict(response.headers), response.content[:MAX_ANSWER])


def _checked(secret: Secret) -> str:
    secret_key(secret)
    return secret if isinstance(secret, str) else secret.get_secret_value()


def _digest(route: RouteSpec, url: str) -> str:
    """What is subscribed, as a name."""
    told = (route.source, url, route.match, route.group, route.delay_ms)
    return hashlib.sha256(encode_json(told)).hexdigest()[:24]


def _id_of(queue: str) -> str:
    return queue.removeprefix(PREFIX)


def _shown(body: bytes) -> str:
    """The beginning of an answer, fit for a line of a log."""
    text = body[:SHOWN].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)

"""An endpoint that webhooks are delivered to, and what tests of webhooks share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headwater import App, Topic, verify_webhook, webhook
from headwater.errors import Unauthenticated
from headwater.testing import Harness
from tests.runtime.samples import Job

SECRET = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"
CANARIES = (b"Y2FuYXJ5", b"canary")
"""The secret, and the bytes that it stands for."""
URL = "https://partner.example/hooks"
Answering = Callable[[int], Response]


class Partner:
    """An endpoint as an ASGI application; `answering` gives the answer to the n-th request."""

    def __init__(self, answering: Answering = lambda n: Response(status_code=204)) -> None:
        self.answering = answering
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        await self.answering(len(self.bodies))(scope, receive, send)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    def numbers(self) -> list[int]:
        return [event["data"]["n"] for event in self.events]


def shop() -> tuple[App[None], Topic[Job]]:
    app = App("shop")
    return app, app.topic("news", Job)


def hooked(answering: Answering = lambda n: Response(status_code=204)) -> tuple[App[None], Topic[Job], Partner]:
    """A topic that is routed to the partner's webhook, whose queue is "shop/hook"."""
    app, news = shop()
    news.to(webhook(URL, secret=SECRET, name="hook"))
    return app, news, Partner(answering)


async def failures(h: Harness, queue: str = "shop/hook") -> list[str]:
    (message,) = await h.messages(queue)
    return [str(failure["error"]) for failure in message.failures]


def verifies(partner: Partner, secret: str) -> bool:
    """Whether all deliveries are signed with this secret, at whatever time."""
    for headers, body in zip(partner.headers, partner.bodies, strict=True):
        try:
            verify_webhook(headers, body, secret, tolerance="30000d")
        except Unauthenticated:
            return False
    return True


def assert_absent(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    for path in files:
        content = path.read_bytes()
        assert not any(canary in content for canary in CANARIES), path

"""A third party that deletes in its own time: an ASGI application whose answers a test can bend."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import httpx
import msgspec
from pydantic import BaseModel

from headwater import App, Event, Operation, Tracked
from headwater.loads import ALARMS
from headwater.operations.outcomes import Verdict
from headwater.sources import Source
from headwater.testing import Harness

Bend = Callable[["Vendor", str, str], "tuple[int, dict[str, str], Any] | Exception | None"]


class Vendor:
    """`bend` may answer in place of the vendor, by (method, path); `deletions` has what was begun, by id."""

    def __init__(self) -> None:
        self.deletions: dict[str, str] = {}
        self.by_key: dict[str, str] = {}
        self.subjects: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.bend: Bend = lambda vendor, method, path: None
        self.keyed = True
        self.after: Bend = lambda vendor, method, path: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        self.calls[method] += 1
        answer = self.bend(self, method, path)
        if answer is None:
            done = self._serve(method, path, headers, body)
            answer = self.after(self, method, path) or done
        if isinstance(answer, Exception):
            raise answer
        status, more, content = answer
        text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        kind = {"content-type": "text/html" if isinstance(content, str) else "application/json"} | more
        encoded = [(name.encode(), value.encode()) for name, value in kind.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": text})

    def _serve(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], Any]:
        if method == "POST":
            key = headers.get("idempotency-key", "")
            id = self.by_key.get(key) if self.keyed else None
            if id is None:
                id = f"d{len(self.deletions) + 1}"
                self.by_key[key] = id
                self.deletions[id] = "pending"
                self.subjects[id] = json.loads(body)["customer"]
            return 202, {}, {"id": id}
        id = path.rpartition("/")[2]
        if id not in self.deletions:
            return 404, {}, {"error": "unknown"}
        if method == "DELETE":
            self.deletions[id] = "cancelled"
            return 204, {}, ""
        return 200, {}, {"status": self.deletions[id]}

    def finish(self, status: str = "done") -> None:
        for id, present in self.deletions.items():
            if present == "pending":
                self.deletions[id] = status


class Deletion(BaseModel):
    customer_id: str


class Answer(BaseModel):
    status: Literal["pending", "done", "rejected", "cancelled"]
    priority: int = 0


def make_app(**options: Any) -> tuple[App[None], Operation[Deletion, Answer]]:
    app = App("erasure")
    return app, make_operation(app, **options)


def make_operation(app: App[Any], **options: Any) -> Operation[Deletion, Answer]:
    vendor = app.service("vendor")
    settings: dict[str, Any] = {"every": "1h", "overdue": "3d"} | options
    deletions = app.operation("deletions", Deletion, Answer, service=vendor, **settings)

    @deletions.on_start
    async def start(op: Tracked[Deletion]) -> httpx.Response:
        return await vendor.client.post(
            "/deletions", json={"customer": op.request.customer_id}, headers={"Idempotency-Key": op.idempotency_key}
        )

    @deletions.on_poll
    async def poll(op: Tracked[Deletion]) -> httpx.Response:
        return await vendor.client.get(f"/deletions/{op.external_id}")

    @deletions.on_answer
    def judge(answer: Answer) -> Verdict:
        words: dict[str, Verdict] = {"done": "completed", "rejected": "failed", "cancelled": "cancelled"}
        return words.get(answer.status, "pending")

    return deletions


def declare_cancel(app: App[Any], deletions: Operation[Deletion, Answer]) -> None:
    @deletions.on_cancel
    async def cancel(op: Tracked[Deletion]) -> httpx.Response:
        return await app.services["vendor"].client.delete(f"/deletions/{op.external_id}")


def record_events(app: App[Any], **sources: Source[Any]) -> list[tuple[str, str]]:
    """(name of the source, subject) of each event, as they come."""
    told: list[tuple[str, str]] = []

    def listen(name: str, source: Source[Any]) -> None:
        @app.on(source, name=f"told-{name}")
        async def tell(event: Event[Any]) -> None:
            told.append((name, getattr(event.data, "subject", event.subject)))

    for name, source in sources.items():
        listen(name, source)
    return told


async def alarms(h: Harness) -> list[tuple[str, str]]:
    """(name, state) of what was told to a person, in order."""
    events = await h.supervisor.engine.events(0, 1_000_000)
    told = [msgspec.json.decode(one.event.data or b"") for one in events if one.event.source == ALARMS]
    return [(alarm["name"], alarm["state"]) for alarm in told]

"""A raw ASGI client: it sees each message that an application sends, at the moment it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Headers = dict[str, str]


class Exchange:
    """One request. `on_start` runs when the response starts; `chunks` is the body as it comes in."""

    def __init__(self, app: Any, method: str = "POST", path: str = "/", headers: Headers | None = None) -> None:
        self.app = app
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
        }
        self.on_start: Callable[[], Awaitable[None]] | None = None
        self.messages: list[dict[str, Any]] = []
        self.received = 0

    async def run(self, *chunks: bytes, disconnect: bool = False) -> Exchange:
        """Send the body; with `disconnect` the client goes before its end."""
        feed = self._feed(chunks, disconnect)

        async def receive() -> dict[str, Any]:
            async for message in feed:
                self.received += 1
                return message
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            self.messages.append(message)
            if message["type"] == "http.response.start" and self.on_start is not None:
                await self.on_start()

        await self.app(self.scope, receive, send)
        return self

    async def _feed(self, chunks: tuple[bytes, ...], disconnect: bool) -> AsyncIterator[dict[str, Any]]:
        for n, chunk in enumerate(chunks or (b"",)):
            last = n == max(len(chunks), 1) - 1
            yield {"type": "http.request", "body": chunk, "more_body": disconnect or not last}
        if disconnect:
            yield {"type": "http.disconnect"}

    @property
    def status(self) -> int:
        starts = [message for message in self.messages if message["type"] == "http.response.start"]
        assert len(starts) == 1, self.messages
        status: int = starts[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

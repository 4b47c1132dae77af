"""A catalog seen over a bad line: answers that come late, in any order, or not at all."""

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]


class SlowCatalog:
    """Passes requests on to the catalog and holds its answers back.

    What is answered was true when the request came in, and may be false when it arrives. With `up` False every
    request is answered 503 at once. `hold_next` keeps the next answer back until `release`.
    """

    def __init__(self, inner: Asgi, roll: random.Random, slowest_s: float = 0) -> None:
        self._inner = inner
        self._roll = roll
        self._slowest_s = slowest_s
        self.up = True
        self.requests = 0
        self.late = 0
        self.held = asyncio.Event()
        self._hold = False
        self._released = asyncio.Event()

    def hold_next(self) -> None:
        self._hold = True

    def release(self) -> None:
        self._released.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.requests += 1
        if not self.up:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"closed for stock-taking"})
            return
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._inner(scope, receive, keep)
        if self._hold:
            self._hold = False
            self.held.set()
            await self._released.wait()
        pause = self._roll.choice([0, self._roll.uniform(0, self._slowest_s)])
        self.late += pause > 0
        await asyncio.sleep(pause)
        for message in answer:
            await send(message)

"""The one stream of a page: which parts of the house have changed, once a second at most, for all pages together.

Topics are fingerprints of what the operations answer: a page that hears a new one fetches its parts anew. They are
worked out only while somebody listens for them, and the more seldom the longer that and the pages take: keeping pages
fresh takes a fortieth of the server's time, until they are as old as they may be. The stream ends when the server
drains, and when its page is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from starlette.responses import StreamingResponse

from headwater.clock import Clock
from headwater.console.house import House
from headwater.errors import HeadwaterError

PERIOD_S = 1.0
MOST_S = 10.0
"""The longest pause between two looks."""
_PAUSE_FOR_WORK = 40
_ALIVE_S = 15.0
Sample = Callable[[House], Awaitable[object]]


def asking(operation: str, **parameters: object) -> Sample:
    async def sample(house: House) -> object:
        return await house.call(operation, parameters)

    return sample


async def minute(house: House) -> object:
    """Changes with each minute: then metrics have new figures."""
    return (await house.call("status", {}))["time"][:16]


async def clock(house: House) -> object:
    """Changes when somebody pauses or moves it, not by itself."""
    told = await house.call("clock-show", {})
    return told["running"], round(told["ahead_ms"] / 1000) if told["running"] else told["time"]


async def letters(house: House) -> object:
    """How many each queue has: reading them takes the longer the more there are."""
    return [(queue["name"], queue["dead"]) for queue in (await house.call("queues", {}))["queues"]]


TOPICS: dict[str, Sample] = {
    "queues": asking("queues"),
    "letters": letters,
    "alarms": asking("alarms"),
    "schedules": asking("schedules"),
    "tail": asking("tail"),
    "mail": asking("mails"),
    "audit": asking("audit", limit=1),
    "workers": asking("workers"),
    "keys": asking("keys"),
    "clock": clock,
    "minute": minute,
}


class Stream:
    def __init__(self, house: House, clock: Clock) -> None:
        self._house = house
        self.clock = clock
        self._marks: dict[str, str] = {}
        self._listeners: dict[asyncio.Queue[dict[str, str] | None], frozenset[str]] = {}
        self._spent_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()
        self._ended = False

    def stir(self) -> None:
        """Look now: something was done."""
        self._stirred.set()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A page is made."""
        begun = self.clock.monotonic()
        try:
            yield
        finally:
            self._spent_s += self.clock.monotonic() - begun

    def end(self) -> None:
        """The server drains: all streams end."""
        self._ended = True
        for listener in self._listeners:
            listener.put_nowait(None)
        if self._task is not None:
            self._task.cancel()

    def response(self, topics: str) -> StreamingResponse:
        """The changes of the topics, which are given with spaces between."""
        telling = self._tell(frozenset(topics.split()))
        return StreamingResponse(telling, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _tell(self, topics: frozenset[str]) -> AsyncIterator[bytes]:
        if self._ended:
            return
        changes: asyncio.Queue[dict[str, str] | None] = asyncio.Queue()
        self._listeners[changes] = topics
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield _event("marks", self._marks)
            while True:
                try:
                    marks = await asyncio.wait_for(changes.get(), _ALIVE_S)
                except TimeoutError:
                    yield b": alive\n\n"
                    continue
                if marks is None:
                    return
                yield _event("marks", marks)
        finally:
            del self._listeners[changes]

    async def _watch(self) -> None:
        while self._listeners:
            self._stirred.clear()
            begun = self.clock.monotonic()
            changed = {}
            for topic in frozenset().union(*self._listeners.values()) & TOPICS.keys():
                mark = await self._mark(TOPICS[topic])
                if mark and self._marks.get(topic) != mark:
                    self._marks[topic] = changed[topic] = mark
            if changed:
                for listener in self._listeners:
                    listener.put_nowait(changed)
            worked_s = self.clock.monotonic() - begun + self._spent_s
            self._spent_s = 0.0
            pause_s = min(max(PERIOD_S, worked_s * _PAUSE_FOR_WORK), MOST_S)
            sleeping = asyncio.ensure_future(self.clock.sleep(pause_s))
            stirred = asyncio.ensure_future(self._stirred.wait())
            try:
                await asyncio.wait({sleeping, stirred}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                stirred.cancel()

    async def _mark(self, sample: Sample) -> str:
        try:
            answer = await sample(self._house)
        except HeadwaterError:
            return ""
        return hashlib.sha256(json.dumps(answer, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()

"""Models that the tests of the runtime share, and short ways to watch handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, Field

from headwater import Queue
from headwater.codec import decode_json
from headwater.testing import Harness
from tests.patience import PATIENCE_S


class Item(BaseModel):
    id: str
    n: int = 0
    tags: list[str] = Field(default_factory=list)
    kind: str = ""


class Job(BaseModel):
    id: str = ""
    n: int = 0


class Part(BaseModel):
    box: str
    place: int | str
    kind: str = ""


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in real time, for what another task or thread must do."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def waiting(h: Harness, queue: Queue[Any] | str) -> list[Any]:
    """The data of the messages that wait in a queue."""
    return [decode_json(message.event.data or b"null") for message in await h.messages(queue, 10_000)]


async def refusal(call: Awaitable[Any], kind: type[Exception]) -> Exception:
    """The error that the call raises."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"it raised no {kind.__name__}")

"""Questions of an engine: a few at a time, each in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headwater.engine import Answer

AT_ONCE = 2


class Asking:
    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asked: set[asyncio.Task[Answer]] = set()
        self.ending = False
        """Whether statements that run are to end."""

    async def ask(self, answer: Callable[[], Answer]) -> Answer:
        task = asyncio.get_running_loop().create_task(self._ask(answer))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return await asyncio.shield(task)

    async def _ask(self, answer: Callable[[], Answer]) -> Answer:
        async with self._room:
            return await asyncio.to_thread(answer)

    async def end(self) -> None:
        """Have those that run end, and wait until they have let the store go."""
        self.ending = True
        await asyncio.gather(*self._asked, return_exceptions=True)
        self.ending = False

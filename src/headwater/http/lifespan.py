"""The lifespan of an app's endpoints: `app.http.router.lifespan_context` and start-up hooks, run by the supervisor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

STATE = "headwater_lifespan_state"


class Lifespan:
    """`start`, then `stop`: both ends run in one task, which cancel scopes inside of it need.

    What it yields is the state of every request (`request.state`), as with any ASGI server.
    """

    def __init__(self, http: FastAPI) -> None:
        self._http = http
        self._started: asyncio.Future[None] | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises what the start-up raises."""
        self._started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(self._started), name=f"lifespan {self._http.title}")
        await self._started

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            async with self._http.router.lifespan_context(self._http) as state:
                setattr(self._http, STATE, dict(state or {}))
                started.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def stop(self) -> None:
        """Run the shut-down; raises what it raises. Does nothing when it never started."""
        task, self._task = self._task, None
        if task is not None:
            self._stop.set()
            await task


def state_of(http: Any) -> dict[str, Any]:
    """What the app's lifespan has yielded."""
    found: dict[str, Any] = getattr(http, STATE, {})
    return found

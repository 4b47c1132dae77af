"""What a tour's steps are given: HTTP to the running server, its admin API, and the command line."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.config import admin_socket

if TYPE_CHECKING:
    import httpx

Step = Callable[[], Awaitable[Sequence[str]]]
"""Does something, checks what came of it, and returns the lines that tell it; raises when it did not come true."""
COMMAND_S = 60.0
ANSWER_S = 60.0


class TourFailed(Exception):
    """A step did not come true."""


class Stage:
    """Open while the tour is played; `http` is rooted at the server, above the apps."""

    def __init__(self, address: str, store: str, folder: Path) -> None:
        self._address = address
        self._store = store
        self._folder = folder
        self.http: httpx.AsyncClient
        self._admin: httpx.AsyncClient

    async def __aenter__(self) -> Stage:
        import httpx

        socket = httpx.AsyncHTTPTransport(uds=str(admin_socket(self._store)))
        self.http = httpx.AsyncClient(base_url=self._address, timeout=ANSWER_S)
        self._admin = httpx.AsyncClient(transport=socket, base_url="http://admin/v1", timeout=ANSWER_S)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.aclose()
        await self._admin.aclose()

    async def admin(self, operation: str, **parameters: Any) -> Any:
        """Call one operation of the admin API; raises `TourFailed` with its error."""
        answer = await self._admin.post(f"/{operation}", json=parameters)
        if answer.is_error:
            raise TourFailed(f"{operation}: {answer.text}")
        return answer.json()

    async def command(self, *arguments: str) -> str:
        """What `headwater ARGUMENTS` prints; raises `TourFailed` when it exits other than 0."""
        environment = {**os.environ, "HEADWATER_STORE": self._store, "NO_COLOR": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "headwater.cli",
            *arguments,
            cwd=self._folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), COMMAND_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise TourFailed(f"headwater {' '.join(arguments)}: {errors.decode().strip()}")
        return output.decode()

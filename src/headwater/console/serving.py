"""The console of a running server: its admin operations, its settings, its issuers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.types import ASGIApp

from headwater.clock import Clock
from headwater.config import Config, address_of
from headwater.console.application import make_console
from headwater.console.guard import ConsoleSettings, Guard
from headwater.console.stream import Stream
from headwater.runtime.admin import Admin


class ServedHouse:
    """`house.House` in the server's own process."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def describe(self) -> list[dict[str, Any]]:
        return self._admin.describe()

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        return await self._admin.call(operation, parameters)

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]:
        return await self._admin.put_object(parameters, data)

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
        return await self._admin.open_object(parameters)


def serve_console(admin: Admin, config: Config, clock: Clock) -> tuple[ASGIApp, Callable[[], None]]:
    host, port = address_of("console", config.console.address)
    settings = ConsoleSettings(host=host, port=port, hosts=config.console.hosts, tokens=config.console.tokens)
    house = ServedHouse(admin)
    stream = Stream(house, clock)
    return make_console(house, Guard(settings), stream, store=config.store), stream.end

"""The console of a running server: its admin operations, its settings, its issuers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import jwt
from starlette.types import ASGIApp

from headwater.clock import Clock
from headwater.config import Config, Console, address_of
from headwater.console.application import make_console
from headwater.console.guard import ConsoleSettings, Guard, Role, Verified, Verify
from headwater.console.hiding import Hiding
from headwater.console.house import House
from headwater.console.stream import Stream
from headwater.errors import DeclarationError
from headwater.events import Caller
from headwater.runtime.admin import Admin
from headwater.runtime.posting import read_secret

MIN_TOKEN = 16


class ServedHouse:
    """`house.House` in the server's own process."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def describe(self) -> list[dict[str, Any]]:
        return self._admin.describe()

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        return await self._admin.call(operation, parameters, f"console: {by}")

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]:
        return await self._admin.put_object(parameters, data, f"console: {by}")

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
        return await self._admin.open_object(parameters)


def serve_console(admin: Admin, config: Config, clock: Clock) -> tuple[ASGIApp, Callable[[], None]]:
    """The console's application, and what ends its streams. Raises `DeclarationError` when nobody could sign in."""
    access = admin.access
    return console_of(ServedHouse(admin), config, clock, access.verify if access.rules.issuers else None)


def console_of(
    house: House, config: Config, clock: Clock, verify: Callable[[str], Awaitable[Caller]] | None
) -> tuple[ASGIApp, Callable[[], None]]:
    """The same over any house; `verify` judges the tokens of issuers, if there are some."""
    hiding = Hiding(house, config.console.hidden)
    guard = Guard(console_settings(config.console), None if verify is None else _verifying(verify), clock)
    stream = Stream(hiding, clock)
    return make_console(hiding, guard, stream, store=config.store), stream.end


def console_settings(console: Console, environ: Mapping[str, str] | None = None) -> ConsoleSettings:
    """The settings with the tokens that variables have. Raises `DeclarationError` for one that could be guessed."""
    variables = os.environ if environ is None else environ
    host, port = ("127.0.0.1", 0) if console.address is None else address_of("console", console.address)
    tokens: dict[str, Role] = {}
    for text, role in console.tokens.items():
        token = read_secret(text, variables, "console.tokens").get_secret_value()
        if len(token) < MIN_TOKEN:
            raise DeclarationError(
                f"a token of the console has fewer than {MIN_TOKEN} characters",
                operation="configure",
                resource="console.tokens",
                hint="make one with `openssl rand -hex 32`",
            )
        tokens[token] = role
    return ConsoleSettings(host=host, port=port, hosts=console.hosts, tokens=tokens)


def _verifying(verify: Callable[[str], Awaitable[Caller]]) -> Verify:
    """A session must not outlive the token that began it."""

    async def verified(token: str) -> Verified:
        caller = await verify(token)
        claims = jwt.decode(token, options={"verify_signature": False})  # `verify` has just judged it
        return Verified(caller.subject, caller.roles, int(claims["exp"]))

    return verified

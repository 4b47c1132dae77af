"""`headwater console`: the console over any store, through its server or by opening it for each operation."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from headwater.cli.session import BY, Session, call_alone, check_present, connect, error_of
from headwater.cli.transfers import Alone
from headwater.clock import SystemClock
from headwater.config import Config, Console, admin_socket
from headwater.console.serving import console_of
from headwater.engines import make_engine
from headwater.errors import CommitUnknown, HeadwaterError, Unavailable
from headwater.http.edge import Edge
from headwater.http.tokens import TokenVerifier
from headwater.runtime.admin import Admin
from headwater.runtime.listener import PublicListener, address_at, bind_console, until_started
from headwater.runtime.logs import configure_logs
from headwater.runtime.rules import access_rules

_TIMEOUT_S = 60.0


def serve_console(session: Session, address: str | None) -> None:
    """Serve the console of a store until Ctrl-C. Raises `UnknownResource` when there is no store."""
    configure_logs(lowest="warning")
    check_present(session.store)
    changes: dict[str, Any] = {"store": session.store}
    if address is not None:
        changes["console"] = msgspec.structs.replace(session.config.console, address=address)
    asyncio.run(_serve(session, msgspec.structs.replace(session.config, **changes)))


async def _serve(session: Session, config: Config) -> None:
    clock = SystemClock()
    rules = access_rules(config)
    verifier = TokenVerifier(rules.issuers, clock, rules.secrets) if rules.issuers else None
    app, end_streams = console_of(StoreHouse(session), config, clock, verifier.verify if verifier else None)
    with bind_console(_place(config.console)) as bound:
        listener = PublicListener(app, bound, Edge(config.limits, clock), config, headers={})
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        serving = listener.start()
        stopped = asyncio.create_task(stop.wait())
        await until_started([listener], [serving])
        print(
            f"headwater console {address_at(bound, config)}\n  store       {config.store}", file=sys.stderr, flush=True
        )
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        end_streams()
        listener.end(0)
        stopped.cancel()
        await serving
    if verifier is not None:
        await verifier.close()


def _place(console: Console) -> str | None:
    """Whoever calls the command wants a console, even where the settings switch the server's off."""
    return console.address or None


class StoreHouse:
    """`headwater.console.house.House` of a store: whether a server owns it is looked at for each operation."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._described = Admin(make_engine(session.store, read_only=True), store=session.store).describe()
        self._writes = {operation["operation"] for operation in self._described if operation["writes"]}
        self._writing = asyncio.Lock()

    def describe(self) -> list[dict[str, Any]]:
        return self._described

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        client = self._client(by)
        if client is not None:
            async with client:
                with _answering(operation, writes=operation in self._writes):
                    answer = await client.post(f"/v1/{operation}", json=dict(parameters))
            return _read(answer)
        if operation not in self._writes:
            return await self._call_alone(operation, parameters, by)
        async with self._writing:
            return await self._call_alone(operation, parameters, by)

    async def _call_alone(self, operation: str, parameters: Mapping[str, Any], by: str) -> Any:
        return await call_alone(self._session.store, self._session.config, operation, dict(parameters), _named(by))

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]:
        client = self._client(by)
        if client is None:
            async with self._writing, Alone(self._session, read_only=False) as admin:
                return await admin.put_object(parameters, data, _named(by))
        async with client:
            with _answering("put", writes=True):
                answer = await client.put("/v1/objects", params=_query(parameters), content=data)
        return dict(_read(answer))

    async def open_object(self, parameters: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
        client = self._client("")
        return self._open_alone(parameters) if client is None else _open_served(client, parameters)

    @asynccontextmanager
    async def _open_alone(self, parameters: Mapping[str, Any]) -> AsyncIterator[Any]:
        async with Alone(self._session, read_only=True) as admin, await admin.open_object(parameters) as body:
            yield body

    def _client(self, by: str) -> httpx.AsyncClient | None:
        """Of the server that owns the store; None when there is none."""
        connection = connect(self._session.store)
        if connection is None:
            return None
        connection.close()
        transport = httpx.AsyncHTTPTransport(uds=str(admin_socket(self._session.store)))
        headers = {BY: quote(_named(by))}
        return httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers, timeout=_TIMEOUT_S)


class ServedObject:
    """An object as the server hands it out: what it is (`info`), and its bytes."""

    def __init__(self, info: Any, chunks: Callable[[], AsyncIterator[bytes]]) -> None:
        self.info = info
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()


class ObjectInfo(msgspec.Struct, frozen=True):
    """What the console needs to know of an object."""

    key: str
    size: int
    content_type: str


@asynccontextmanager
async def _open_served(client: httpx.AsyncClient, parameters: Mapping[str, Any]) -> AsyncIterator[ServedObject]:
    async with client, client.stream("GET", "/v1/objects", params=_query(parameters)) as answer:
        if answer.status_code >= 400:
            await answer.aread()
            _read(answer)
        told = msgspec.json.decode(answer.headers["Headwater-Object"], type=ObjectInfo)
        yield ServedObject(told, answer.aiter_raw)


def _query(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {"parameters": json.dumps(dict(parameters))}


def _named(by: str) -> str:
    return f"console: {by}"


@contextmanager
def _answering(operation: str, *, writes: bool) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        if not writes:
            raise Unavailable("the server went away", operation=operation, hint="load the page again") from error
        raise CommitUnknown(
            "the server went away before it answered; whether it was done is not known",
            operation=operation,
            hint="look before you repeat it",
        ) from error


def _read(answer: httpx.Response) -> Any:
    try:
        content = answer.json()
    except ValueError as error:
        raise HeadwaterError(f"the server answered {answer.status_code} without JSON", operation="console") from error
    if answer.status_code >= 400:
        raise error_of(content)
    return content

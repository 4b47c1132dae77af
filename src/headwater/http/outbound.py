"""Requests to addresses that others choose: a POST that cannot be turned against this machine's own network.

The guard stands where connections are made. A name is resolved once; every address that it stands for is judged,
one that is not permitted refuses the name; the connection goes to a judged address, so that another answer of
the resolver later changes nothing. TLS verifies the name of the URL all the same. Redirects are not followed, proxies
of the environment not used, and only the first 64 KiB of an answer are read.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence

import httpcore
import httpx
import msgspec

from headwater.errors import DeclarationError, HeadwaterError
from headwater.http.addresses import EgressRules, literal_address

MAX_ANSWER = 64 * 1024
CONNECTIONS = 256
KEEP_ALIVE_S = 30.0
_is_name = re.compile(rb"[a-z0-9._-]+").fullmatch
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_HINT = "`allow` under [default.webhooks] in headwater.toml permits networks, `http = true` URLs without TLS"


class Refused(HeadwaterError):
    """The request would go where the rules do not permit; nothing was sent."""


class Failed(HeadwaterError):
    """The request had no answer: whether it arrived is not known."""


class Answer(msgspec.Struct, frozen=True):
    """An answer; names of headers are in lower case, the body is its beginning."""

    status: int
    headers: dict[str, str]
    body: bytes


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Guard(httpcore.AsyncNetworkBackend):
    """Connects to judged addresses only."""

    def __init__(self, rules: EgressRules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in await self._judged(host, port):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"the name cannot be resolved: {error.strerror or error}") from error
        for address in addresses:
            if not self._rules.permits(address):
                raise Refused(f"{host} stands for {address}, where webhooks may not go", hint=_HINT)
        return addresses

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise Refused("webhooks do not go to sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class Outbound:
    """Posts to URLs that the rules permit, over connections that are kept for a while."""

    def __init__(
        self,
        rules: EgressRules | None = None,
        *,
        resolve: Resolve = resolve_name,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules or EgressRules()
        self._guard = Guard(self._rules, resolve)
        self._tls = tls
        self._pool: httpcore.AsyncConnectionPool | None = None

    def check(self, url: str) -> httpx.URL:
        """The URL, taken apart. Raises `DeclarationError` for one that can never be posted to."""
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError, ValueError):
            raise DeclarationError("the webhook's URL is not a URL", hint="write https://host/path") from None
        wrong = ""
        literal = literal_address(parsed.host)
        if parsed.scheme != "https" and not (parsed.scheme == "http" and self._rules.http):
            wrong = "the URL of a webhook begins with https://"
        elif literal is None and not _is_name(parsed.raw_host):
            wrong = "the URL has no host, or one that is no name"
        elif parsed.port is not None and not 0 < parsed.port < 65536:
            wrong = f"there is no port {parsed.port}"
        elif parsed.userinfo:
            wrong = "the URL of a webhook has no user name or password; deliveries are signed"
        elif literal is not None and not self._rules.permits(literal):
            wrong = f"{literal} is an address where webhooks may not go"
        if wrong:
            raise DeclarationError(wrong, operation="webhook", resource=origin_of(parsed), hint=_HINT)
        return parsed

    async def post(self, url: httpx.URL, headers: dict[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """POST and read the answer. Raises `Refused` and `Failed`; any status is an answer."""
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_S,
                network_backend=self._guard,
            )
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        try:
            async with self._pool.stream(
                "POST", target, headers=list(headers.items()), content=body, extensions={"timeout": limits}
            ) as response:
                content = await _beginning(response)
        except Refused as error:
            error.operation, error.resource = "POST", origin_of(url)
            raise
        except httpcore.TimeoutException as error:
            raise Failed(f"no answer within {timeout_s:g} s", operation="POST", resource=origin_of(url)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise Failed(str(error) or type(error).__name__, operation="POST", resource=origin_of(url)) from error
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status, answered, content)

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.aclose()


async def _beginning(response: httpcore.Response) -> bytes:
    read = bytearray()
    async for chunk in response.aiter_stream():
        read += chunk
        if len(read) >= MAX_ANSWER:
            break
    return bytes(read[:MAX_ANSWER])


def origin_of(url: httpx.URL) -> str:
    """Scheme, host and port: what may stand in a log; a path can be a secret."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"

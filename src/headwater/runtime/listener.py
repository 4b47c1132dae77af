"""Listening: uvicorn on a socket that is bound already, and the sockets themselves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headwater.config import Config, address_of
from headwater.errors import DeclarationError
from headwater.http.edge import Edge
from headwater.http.protocol import EdgeProtocol

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
CONSOLE_PORT, _PORTS = 8001, 100
_HSTS = {"Strict-Transport-Security": "max-age=31536000"}


class Listener(uvicorn.Server):
    """uvicorn without signal handlers of its own; by default as the admin API needs it."""

    def __init__(self, app: ASGIApp, bound: socket.socket, options: Mapping[str, Any] | None = None) -> None:
        chosen: dict[str, Any] = {"http": HttpToolsProtocol, "proxy_headers": False, **(options or {})}
        super().__init__(
            uvicorn.Config(
                app, lifespan="off", log_config=None, access_log=False, server_header=False, backlog=2048, **chosen
            )
        )
        self.config.timeout_graceful_shutdown = 1
        self._bound = bound

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.serve(sockets=[self._bound]))

    def end(self, grace_s: float) -> None:
        """Take no new connections; requests in flight have so long to finish."""
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self.should_exit = True


class PublicListener(Listener):
    """The address that everybody reaches: with limits, security headers, TLS, and proxies only as configured."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        edge: Edge,
        config: Config,
        headers: Mapping[str, str] = SECURITY_HEADERS,
    ) -> None:
        context = tls_context(config)
        headers = headers if context is None else {**headers, **_HSTS}
        options = {
            "http": functools.partial(EdgeProtocol, edge),
            "headers": list(headers.items()),
            "proxy_headers": bool(config.proxies),
            "forwarded_allow_ips": list(config.proxies),
            "ssl_context_factory": None if context is None else lambda *_: context,
        }
        super().__init__(app, bound, options)
        self.edge = edge

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.edge.begin(lambda: self.server_state.connections)
        try:
            await super().serve(sockets)
        finally:
            self.edge.end()


async def until_started(listeners: Sequence[Listener], servers: Sequence[asyncio.Task[None]]) -> None:
    """Until all take connections. Raises what ends one of their servers before."""
    while not all(listener.started for listener in listeners):
        for server in servers:
            if server.done():
                server.result()
        await asyncio.sleep(0.005)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """The certificate and key of the settings; raises `DeclarationError` naming the file that cannot be used."""
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        for path in (config.tls_cert, config.tls_key):
            Path(path).open("rb").close()
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        unreadable = error.filename if isinstance(error, OSError) else None
        raise DeclarationError(
            f"the certificate and its key cannot be used: {error}",
            operation="start",
            resource=unreadable or config.tls_cert,
            hint="give the chain and the key of it as PEM files, the key without a password",
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the server is ready."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise DeclarationError(
            f"cannot listen: {error.strerror or error}",
            operation="start",
            resource=f"{host}:{port}",
            hint="another process may listen there; choose another address with --host and --port",
        ) from error
    return bound


def make_private(folder: Path) -> None:
    """Make the folder of sockets, in a place where others may make folders, too; refuse one that is not this user's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise DeclarationError(
            "the folder of the admin socket is not this user's alone",
            operation="start",
            resource=str(folder),
            hint="remove it, or set TMPDIR to a folder of this user",
        )


def bind_console(address: str | None) -> socket.socket:
    """The console's socket: of the address, or without one of the first free port from 8001 on.

    It listens at once, so that nobody else gets the same port; who connects waits until the server is ready.
    """
    if address is not None:
        try:
            return bind(*address_of("console", address))
        except DeclarationError as error:
            error.hint = 'another process may listen there; give console.address another one, or "" for no console'
            raise
    for port in range(CONSOLE_PORT, CONSOLE_PORT + _PORTS):
        with contextlib.suppress(DeclarationError, OSError):
            bound = bind("127.0.0.1", port)
            try:
                bound.listen()
            except OSError:
                bound.close()
                raise
            return bound
    raise DeclarationError(
        f"the ports {CONSOLE_PORT} to {CONSOLE_PORT + _PORTS - 1} are all taken",
        operation="start",
        resource="console",
        hint='give console.address in headwater.toml; "" is for no console',
    )


def address_at(bound: socket.socket, config: Config) -> str:
    """The base URL of what is served at a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"{'https' if config.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def bind_locally(path: Path) -> socket.socket:
    """The admin socket, which only this user can connect to. The store's lock, or its name, makes it this process's."""
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise DeclarationError(
            f"the admin socket cannot be made: {error.strerror}", operation="start", resource=str(path)
        ) from error
    finally:
        os.umask(before)
    return bound

"""How a command reaches a store: through the server that owns it, or, when none runs, by opening it.

Reads then open it read-only; writes own it for as long as they take, or, where many processes may have it open, join
them. Either way it is the same operation of `runtime.admin.Admin` that runs, and its answer that comes back.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from headwater import errors
from headwater.config import Config, absolute_store, admin_sockets, find_folder, load_config
from headwater.errors import CommitUnknown, HeadwaterError, StoreError, UnknownResource
from headwater.store_url import is_file_store

BY = "Headwater-By"
TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 5.0
_STORE_FILES = ("store.db", "board", "lock")
"""Any of them makes a folder a store, if a damaged one. Secret keys may lie in the folder before it is one."""


class Session:
    """The store that the options, HEADWATER_STORE or headwater.toml name."""

    def __init__(self, store: str = "", env: str = "") -> None:
        config = load_config(find_folder(Path.cwd()), environment=env)
        self.store = absolute_store(store, Path.cwd()) if store else config.store
        self.environment = config.environment
        self.config = config

    def call(self, operation: str, **parameters: Any) -> Any:
        """Run one operation; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        connection = connect(self.store)
        if connection is None:
            return self._call_alone(operation, given)
        try:
            return _call_server(connection, operation, given)
        finally:
            connection.close()

    def _call_alone(self, operation: str, parameters: dict[str, Any]) -> Any:
        import asyncio

        return asyncio.run(call_alone(self.store, self.config, operation, parameters))


async def call_alone(store: str, config: Config, operation: str, parameters: dict[str, Any], by: str = "") -> Any:
    """Open the store, run the operation, and give the store back."""
    from headwater.engines import make_engine
    from headwater.objects import make_blobs
    from headwater.runtime.admin import Admin
    from headwater.runtime.logs import configure_logs
    from headwater.runtime.rules import webhook_rules

    configure_logs(lowest="warning")
    check_present(store)
    reader = make_engine(store, read_only=True)
    await reader.open()
    try:
        place = objects_url(config, store) if operation == "check" else ""
        blobs = make_blobs(place) if place else None
        admin = Admin(reader, store=store, blobs=blobs)
        if not admin.writes(operation):
            return await admin.call(operation, parameters)
    finally:
        await reader.close()
    owner = make_engine(store)
    await owner.open()
    try:
        alone = Admin(owner, store=store, webhooks=webhook_rules(config))
        return await alone.call(operation, parameters, by or who())
    finally:
        await owner.close()


def who() -> str:
    """Who runs the command, for the audit."""
    try:
        return f"command line: {getpass.getuser()}"
    except (OSError, KeyError):  # the user has no name
        return f"command line: user {os.getuid()}"


def objects_url(config: Config, store: str) -> str:
    """Where the objects of a store are, which may be another one than the settings name."""
    return msgspec.structs.replace(config, store=store).objects_url


def check_present(store: str) -> None:
    """Raise `UnknownResource` when nothing is where the store should be: looking must not make one."""
    folder = Path(store.partition(":")[2])
    if is_file_store(store) and not any((folder / name).exists() for name in _STORE_FILES):
        raise UnknownResource(
            "there is no store",
            operation="open",
            resource=store,
            hint="`headwater run` makes it; --store, HEADWATER_STORE or headwater.toml say where it is",
        )


class _LocalConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket that is connected already."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = connected


def _is_trusted(client: socket.socket, path: Path, store: str) -> bool:
    """Whether this user, the store's or root listens: the socket of a deep folder stands in a shared one."""
    trusted = {os.getuid(), 0}
    if is_file_store(store):
        trusted.add(Path(store.partition(":")[2]).stat().st_uid)
    if not hasattr(socket, "SO_PEERCRED"):
        return is_file_store(store) or path.lstat().st_uid in trusted
    _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user in trusted


def connect(store: str) -> _LocalConnection | None:
    """A connection to a server of the store on this machine; None when none runs."""
    return next(filter(None, (_connect(path, store) for path in admin_sockets(store))), None)


def _connect(path: Path, store: str) -> _LocalConnection | None:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(CONNECT_TIMEOUT_S)
    try:
        client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    except OSError as error:
        client.close()
        raise StoreError(
            f"the server of the store cannot be reached: {error}", operation="connect", resource=str(path)
        ) from error
    if not _is_trusted(client, path, store):
        client.close()
        raise StoreError("the socket belongs to another user", operation="connect", resource=str(path))
    client.settimeout(TIMEOUT_S)
    return _LocalConnection(client)


def _call_server(connection: _LocalConnection, operation: str, parameters: dict[str, Any], by: str = "") -> Any:
    body = json.dumps(parameters).encode()
    try:
        headers = {"Content-Type": "application/json", BY: quote(by or who())}
        connection.request("POST", f"/v1/{operation}", body, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CommitUnknown(
            "the server went away before it answered; whether it was done is not known",
            operation=operation,
            hint="look before you repeat it",
        ) from error
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise HeadwaterError(
            f"the server answered {response.status} without JSON", operation=operation, hint="its log says more"
        ) from error
    if response.status >= 400:
        raise error_of(answer)
    return answer


def error_of(body: dict[str, Any]) -> HeadwaterError:
    """The error that the server raised, from its JSON."""
    kind = getattr(errors, str(body.get("error", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, HeadwaterError)):
        kind = HeadwaterError
    texts = {name: str(body.get(name, "")) for name in ("operation", "resource", "hint")}
    return kind(str(body.get("detail", "the server failed")), **texts)

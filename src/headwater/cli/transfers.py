"""Bytes of objects between a command and a store: through the server that owns it, or by opening the store."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headwater.cli.session import BY, Session, check_present, connect, error_of, objects_url, who
from headwater.errors import CommitUnknown, HeadwaterError

if TYPE_CHECKING:
    from headwater.runtime.admin import Admin

Take = Callable[[bytes], object]
_CHUNK = 256 * 1024


def put_object(session: Session, parameters: dict[str, Any], data: Iterable[bytes], size: int | None) -> dict[str, Any]:
    """Store an object; `size` is known of a file. The object as JSON."""
    connection = connect(session.store)
    if connection is None:
        return asyncio.run(_put_alone(session, parameters, data))
    length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
    headers = {**length, BY: quote(who())}
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early: the answer says why
            connection.request("PUT", _path(parameters), _exactly(data, size), headers, encode_chunked=size is None)
        answer = json.loads(_answered(connection, "put").read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _went_away("put") from error
    finally:
        connection.close()
    return dict(answer)


def get_object(session: Session, parameters: dict[str, Any], begin: Callable[[dict[str, Any]], Take]) -> dict[str, Any]:
    """Read an object: `begin` gets it as JSON and returns what takes its bytes. Ends well only when all have come."""
    connection = connect(session.store)
    if connection is None:
        return asyncio.run(_get_alone(session, parameters, begin))
    try:
        response = _answered_to(connection, parameters)
        info: dict[str, Any] = json.loads(response.headers["Headwater-Object"])
        take, left = begin(info), info["size"]
        while chunk := _received(response):
            left -= len(chunk)
            take(chunk)
        if left:
            raise _went_away("get")
    finally:
        connection.close()
    return info


def _answered_to(connection: http.client.HTTPConnection, parameters: dict[str, Any]) -> http.client.HTTPResponse:
    try:
        connection.request("GET", _path(parameters))
        return _answered(connection, "get")
    except (OSError, http.client.HTTPException) as error:
        raise _went_away("get") from error


def _received(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _went_away("get") from error


def _answered(connection: http.client.HTTPConnection, operation: str) -> http.client.HTTPResponse:
    response = connection.getresponse()
    if response.status >= 400:
        try:
            raise error_of(json.loads(response.read()))
        except ValueError:
            raise HeadwaterError(f"the server answered {response.status} without JSON", operation=operation) from None
    return response


def _exactly(data: Iterable[bytes], size: int | None) -> Iterator[bytes]:
    """The data; raises when it has another size than the server was told."""
    left = size
    for chunk in data:
        if left is not None:
            left -= len(chunk)
            if left < 0:
                break
        yield chunk
    if left:
        raise HeadwaterError("the file changed while it was read; nothing was stored", operation="put")


def _path(parameters: dict[str, Any]) -> str:
    return f"/v1/objects?parameters={quote(json.dumps(parameters), safe='')}"


def _went_away(operation: str) -> HeadwaterError:
    if operation == "get":
        return HeadwaterError("the server went away before all bytes had come", operation=operation)
    return CommitUnknown(
        "the server went away before it answered; whether the object is stored is not known",
        operation=operation,
        hint="look before you repeat it",
    )


async def _put_alone(session: Session, parameters: dict[str, Any], data: Iterable[bytes]) -> dict[str, Any]:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in data:
            yield chunk

    async with Alone(session, read_only=False) as admin:
        return await admin.put_object(parameters, chunks(), who())


async def _get_alone(
    session: Session, parameters: dict[str, Any], begin: Callable[[dict[str, Any]], Take]
) -> dict[str, Any]:
    from headwater.http.objects import described

    async with Alone(session, read_only=True) as admin, await admin.open_object(parameters) as body:
        info = described(body.info)
        take = begin(info)
        async for chunk in body:
            take(chunk)
        return info


class Alone:
    """The operations on the store and its objects, opened for as long as the command takes."""

    def __init__(self, session: Session, *, read_only: bool) -> None:
        from headwater.engines import make_engine
        from headwater.objects import make_blobs

        check_present(session.store)
        self._store = session.store
        self._read_only = read_only
        self._engine = make_engine(session.store, read_only=read_only)
        self._blobs = make_blobs(objects_url(session.config, session.store))

    async def __aenter__(self) -> Admin:
        from headwater.runtime.admin import Admin
        from headwater.runtime.logs import configure_logs

        configure_logs(lowest="warning")
        await self._engine.open()
        admin = Admin(self._engine, store=self._store, blobs=self._blobs)
        try:
            if not self._read_only:
                await self._blobs.open(await admin.system.owner())
            elif place := await admin.system.read(admin.system.places, "objects"):
                await self._blobs.check(place.owner)
        except BaseException:
            await self.__aexit__()
            raise
        return admin

    async def __aexit__(self, *_: object) -> None:
        await self._blobs.close()
        await self._engine.close()

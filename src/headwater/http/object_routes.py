"""`app.expose` of a bucket: the routes to its objects, for callers that may, and for presigned URLs.

Whatever follows the path is the key, percent-encoded; a slash may stand as it is. With a prefix of their own callers
name their keys without it and cannot name any other, so that another's object is like a missing one. A request for an
object that has a query is a presigned one: nothing but its signature lets it in. Only to read a version (`?version=…`)
is a request like one without a query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from headwater.buckets import Bucket
from headwater.errors import Forbidden, StoreError
from headwater.http.context import context_of
from headwater.http.declarations import ObjectExposure
from headwater.http.direct import DirectRoute
from headwater.http.object_openapi import ObjectDocumentation
from headwater.http.objects import Objects, Visit
from headwater.http.require import Auth, anyone

ServeObject: TypeAlias = Callable[[Scope, Receive, Send, Visit], Awaitable[None]]
log = structlog.get_logger("headwater")
_READS = ("GET", "HEAD")
FORM_OVERHEAD = 64 * 1024
"""What a form may have besides its file."""


class ObjectRoute(DirectRoute):
    """One method on the bucket, or with `parts` on an object. `auth` None lets in presigned URLs alone."""

    def __init__(
        self, method: str, exposure: ObjectExposure, serve: ServeObject, auth: Auth | None, **documented: Any
    ) -> None:
        self._visit = serve
        self._bucket: Bucket = exposure.bucket
        self._own_prefix = exposure.own_prefix
        self._admits = auth
        super().__init__(method, exposure.path, _unused, auth or anyone(), **documented)

    def _read_parts(self, scope: Scope, path: str) -> dict[str, str] | None:
        """The key is all that follows, from the path as it was sent."""
        full = scope["path"].removesuffix(path) + self.prefix + "/"
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        *before, tail = raw.decode("latin-1").split("/", full.count("/"))
        if not tail or unquote("/".join(before)) + "/" != full:
            return None
        try:
            return {"key": unquote(tail, errors="strict")}
        except UnicodeDecodeError:
            return None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in self.answered:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        visit = await self._admit(scope)
        try:
            await self._visit(scope, receive, send, visit)
        except ClientDisconnect:
            return  # nobody is there to answer to; nothing is committed
        except StoreError as error:
            log.warning("objects cannot be read or stored", error=str(error))
            error.resource = self._bucket.name  # where they are kept is nobody's business
            raise

    async def _admit(self, scope: Scope) -> Visit:
        key = scope["path_params"].get("key", "")
        query: bytes = scope["query_string"]
        if key and query and not (scope["method"] in _READS and query.startswith(b"version=")):
            presigner = context_of(scope).app.binding.presigner
            return Visit(key, grant=presigner.read(query, scope["method"], self._bucket.name, key))
        if self._admits is None:
            raise Forbidden("only presigned URLs let in here", operation="request", resource=self._bucket.name)
        caller = await self._admits.admit(scope)
        if not self._own_prefix:
            return Visit(key)
        if not caller.subject:
            raise Forbidden("the caller has no subject that could own an object", operation="request")
        prefix = own_prefix(caller.subject)
        return Visit(prefix + key, prefix)


def own_prefix(subject: str) -> str:
    """The prefix of a caller's own keys: its subject as one segment."""
    return subject.replace("%", "%25").replace("/", "%2F") + "/"


def routes_of(exposure: ObjectExposure) -> list[DirectRoute]:
    """The routes of an exposed bucket."""
    objects = Objects(exposure)
    document = ObjectDocumentation(exposure)
    read, write = exposure.read, exposure.write
    put = ObjectRoute("PUT", exposure, objects.put, write, parts=("key",), **document.put())
    post = ObjectRoute("POST", exposure, objects.post, None, parts=("key",), **document.post())
    put.streams = exposure.bucket.max_size
    post.streams = exposure.bucket.max_size + FORM_OVERHEAD
    found = [
        ObjectRoute("GET", exposure, objects.read, read, parts=("key",), **document.read()),
        put,
        post,
        ObjectRoute("DELETE", exposure, objects.delete, write, parts=("key",), **document.delete()),
    ]
    if read is not None:
        found.insert(0, ObjectRoute("GET", exposure, objects.list_objects, read, **document.list_objects()))
    return list(found)


async def _unused(*_: Any) -> None:
    raise NotImplementedError

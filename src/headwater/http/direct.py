"""Routes that Headwater serves itself: documented like any endpoint, run without Request, Response and dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import msgspec
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from headwater.errors import InvalidValue, UnsupportedMedia
from headwater.events import Caller
from headwater.http.answers import Headers, invalid_values
from headwater.http.require import Auth

Serve: TypeAlias = Callable[[Scope, Receive, Send, Caller], Awaitable[None]]
JSON = "application/json"


class DirectRoute(APIRoute):
    """One method at a path, or at a path and the key parts below it, which may hold any character percent-encoded.

    `allowed` has the methods of all routes at the path; `schemas` goes into the document's components. `streams` is how
    many bytes of a body it takes as they come; 0 leaves that to the server's limits.
    """

    streams = 0

    def __init__(
        self, method: str, path: str, serve: Serve, auth: Auth, *, parts: Sequence[str] = (), **documented: Any
    ) -> None:
        full = "".join((path, *(f"/{{{name}}}" for name in parts)))
        self.schemas: dict[str, Any] = documented.pop("schemas", {})
        super().__init__(full, _undocumented, methods=[method], dependencies=[auth], response_model=None, **documented)
        self.allowed = with_head(self.methods)
        self.answered = with_head(self.methods)
        self.parts = tuple(parts)
        self.prefix = path
        self._below = path + "/"
        self._auth = auth
        self._serve = serve

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path = route_path(scope)
        parameters: dict[str, str] | None = {}
        if self.parts:
            parameters = self._read_parts(scope, path) if path.startswith(self._below) else None
        elif path != self.prefix:
            parameters = None
        if parameters is None:
            return Match.NONE, {}
        found = {"endpoint": self.endpoint, "path_params": parameters, "route": self}
        return (Match.FULL if scope["method"] in self.answered else Match.PARTIAL), found

    def _read_parts(self, scope: Scope, path: str) -> dict[str, str] | None:
        """The key parts, from the path as it was sent: an encoded slash separates nothing."""
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        try:
            head, *parts = raw.decode("ascii").rsplit("/", len(self.parts))
            if not all(parts) or unquote(head) != scope["path"].removesuffix(path) + self.prefix:
                return None
            return {name: unquote(part, errors="strict") for name, part in zip(self.parts, parts, strict=True)}
        except ValueError:
            return None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in self.answered:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await self._serve(scope, receive, send, await self._auth.admit(scope))


def header(scope: Scope, name: bytes) -> str | None:
    """The request header's value, several of them as one list; None when there is none."""
    found = [value for known, value in scope["headers"] if known == name]
    return b", ".join(found).decode("latin-1") if found else None


def media_type(scope: Scope) -> str:
    """The content type without its parameters, in lower case."""
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower()


def unsupported(scope: Scope, accepted: Sequence[str]) -> UnsupportedMedia:
    sent = media_type(scope)
    return UnsupportedMedia(
        f"the content type {sent} is not read here" if sent else "the content type is missing",
        operation="request",
        hint=f"send {' or '.join(accepted)}",
    )


async def read_body(receive: Receive) -> bytes:
    """The whole body. The unit layer has bounded its size."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        return body
    chunks = [body]
    while message["type"] != "http.disconnect" and message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return b"".join(chunks)


async def send_json(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Answer with JSON."""
    raw = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if headers:
        raw += headers
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def invalid(kind: str, message: str, *place: str | int) -> InvalidValue:
    """One invalid value of a request, with its place."""
    error = InvalidValue(message, operation="request")
    error.errors = [{"type": kind, "loc": list(place), "msg": message}]
    return error


def located(error: InvalidValue, *place: str | int) -> list[dict[str, Any]]:
    """What a codec found wrong with a document, with the places below `place`."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        found = invalid_values(cause.errors(include_url=False, include_context=False, include_input=False))
        return [{**item, "loc": [*place, *item["loc"]]} for item in found]
    text, _, path = (str(cause) if isinstance(cause, msgspec.MsgspecError) else error.message).partition(" - at `")
    malformed = isinstance(cause, msgspec.DecodeError) and not isinstance(cause, msgspec.ValidationError)
    kind = "json_invalid" if malformed else "value_error"
    return [{"type": kind, "loc": [*place, *_steps(path)], "msg": text}]


def _steps(path: str) -> list[str | int]:
    """msgspec's place of an error, "$.a[0]`": the way there."""
    names = path.rstrip("`").removeprefix("$").replace("[", ".").replace("]", "").split(".")
    return [int(name) if name.isdigit() else name for name in names if name]


def route_path(scope: Scope) -> str:
    """The path below what the app is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def with_head(methods: Any) -> frozenset[str]:
    """The methods of a route, with HEAD where there is GET."""
    found = frozenset(methods or ())
    return found | {"HEAD"} if "GET" in found else found


def _undocumented() -> None:  # where FastAPI looks for a signature; `openapi_extra` says all instead
    return None

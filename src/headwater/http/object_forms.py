"""A browser's upload form (multipart/form-data, RFC 7578): the field `key`, then the file, which is the last part.

What comes before the file is small and read at once; the file's content passes through as it comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from headwater.errors import InvalidValue, TooLarge
from headwater.http.direct import header, invalid, media_type, unsupported

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
MAX_FIELDS = 16 * 1024
"""How many bytes may come before the file."""
_Kind = Literal["head", "data", "tail"]
_FIELDS = ("key",)


class UploadForm:
    """`begin()` reads up to the file's content, which is `content()` then. Both raise `InvalidValue`."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        _, options = parse_options_header(header(scope, b"content-type"))
        boundary = options.get(b"boundary", b"")
        if media_type(scope) != FORM or not boundary:
            raise unsupported(scope, (FORM,))
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.content_type = ""
        self._receive = receive
        self._more = True
        self._events: deque[tuple[_Kind, bytes]] = deque()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[str, str] = {}
        self._heads: deque[dict[str, str]] = deque()
        self._ended = False
        try:
            self._parser = MultipartParser(boundary, self._callbacks(), max_header_count=8)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    async def begin(self) -> None:
        name, size, value = "", 0, bytearray()
        while True:
            kind, data = await self._next()
            size += len(data)
            if kind == "head":
                name, value = self._begin_part(), bytearray()
                if name == "file":
                    return
            elif kind == "data":
                value += data
            else:
                self.fields[name] = _text(bytes(value))
            if size > MAX_FIELDS:
                raise TooLarge(f"more than {MAX_FIELDS} bytes come before the file", operation="request")

    async def content(self) -> AsyncIterator[bytes]:
        """The file's bytes; ends only when the form has ended well."""
        while True:
            kind, data = await self._next()
            if kind == "tail":
                break
            yield data
        while self._more:
            await self._read()
        if self._events or not self._ended:
            raise _malformed("the file is not the last part, or the form ends too early")

    async def _next(self) -> tuple[_Kind, bytes]:
        while not self._events:
            if not self._more:
                raise _malformed("it ends too early, or has no file")
            await self._read()
        return self._events.popleft()

    async def _read(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        try:
            self._parser.write(message.get("body", b""))
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def _begin_part(self) -> str:
        headers = self._heads.popleft()
        kind, options = parse_options_header(headers.get("content-disposition"))
        name = _text(options.get(b"name", b""))
        if kind != b"form-data" or name not in ("file", *_FIELDS) or name in self.fields:
            raise invalid(
                "value_error", f"the fields of the form are {', '.join(_FIELDS)}, each once, then file", "body"
            )
        if name == "file":
            if b"filename" not in options:
                raise invalid("value_error", "file is no file: it has no name", "body", "file")
            self.file_name = _text(options[b"filename"])
            self.content_type = headers.get("content-type", "")
        return name

    def _callbacks(self) -> MultipartCallbacks:
        def on_part_begin() -> None:
            self._headers = {}

        def on_headers_finished() -> None:
            self._heads.append(self._headers)
            self._events.append(("head", b""))

        def on_header_begin() -> None:
            self._header = (bytearray(), bytearray())

        def on_header_field(data: bytes, start: int, end: int) -> None:
            self._header[0].extend(data[start:end])

        def on_header_value(data: bytes, start: int, end: int) -> None:
            self._header[1].extend(data[start:end])

        def on_header_end() -> None:
            name, value = (bytes(part).decode("latin-1") for part in self._header)
            self._headers[name.lower()] = value.strip()

        def on_part_data(data: bytes, start: int, end: int) -> None:
            self._events.append(("data", data[start:end]))

        def on_part_end() -> None:
            self._events.append(("tail", b""))

        def on_end() -> None:
            self._ended = True

        return {
            "on_part_begin": on_part_begin,
            "on_header_begin": on_header_begin,
            "on_header_field": on_header_field,
            "on_header_value": on_header_value,
            "on_header_end": on_header_end,
            "on_headers_finished": on_headers_finished,
            "on_part_data": on_part_data,
            "on_part_end": on_part_end,
            "on_end": on_end,
        }


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("a name or value is not UTF-8") from None


def _malformed(why: str) -> InvalidValue:
    return invalid("value_error", f"the form is malformed: {why}", "body")

"""The verbs on an exposed bucket and its objects (`object_routes` leads to them).

Bodies pass through in constant memory. What was received is durable before anything else happens; then the object, its
event and the use of a URL are one commit, run again after a conflict without the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from headwater.blobs import Blob
from headwater.buckets import Bucket
from headwater.clock import from_ms
from headwater.codec import encode_json
from headwater.errors import InvalidRequest, TooLarge, UnknownResource
from headwater.http.answers import Headers, problem, raw_problem
from headwater.http.context import RequestContext, context_of
from headwater.http.declarations import ObjectExposure
from headwater.http.direct import header, invalid, send_json, unsupported
from headwater.http.etags import check_conditions, etag, matches
from headwater.http.listing import read_limit, read_parameters
from headwater.http.object_forms import UploadForm
from headwater.http.object_headers import (
    OCTETS,
    Unsatisfiable,
    attachment,
    check_content_type,
    digest_header,
    metadata_headers,
    read_digest,
    read_metadata,
    read_range,
    sent_content_type,
)
from headwater.http.presigned import Grant, refused
from headwater.object_listing import ObjectInfo, ObjectPage
from headwater.unit import Claim

CLAIMS = "presigned"
"""The scope of the claims of URLs that are good for one use."""
_LIST = frozenset({"prefix", "delimiter", "limit", "cursor"})
_VERSIONS = frozenset({"versions", "limit", "cursor"})


class Visit(msgspec.Struct, frozen=True):
    """A request that was let in. `key` has the caller's own `prefix`; `grant` is what its URL was signed for."""

    key: str
    prefix: str = ""
    grant: Grant | None = None


class Upload(msgspec.Struct, frozen=True):
    """What was received: kept for a re-run after a conflict, when the body is gone."""

    draft: ObjectInfo
    blob: Blob


class Objects:
    """The verbs on an exposed bucket and its objects."""

    def __init__(self, exposure: ObjectExposure) -> None:
        self._exposure = exposure
        self._bucket: Bucket = exposure.bucket
        is_open = exposure.read is not None and exposure.read.open
        self._caching: Headers = [(b"cache-control", b"no-cache" if is_open else b"private, no-cache")]

    # Reading

    async def list_objects(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        page = await self._page(scope, visit)
        own = len(visit.prefix)
        answer = {
            "items": [self._described(info, own) for info in page.items],
            "prefixes": [prefix[own:] for prefix in page.prefixes],
            "cursor": page.cursor,
        }
        await send_json(send, 200, encode_json(answer), self._caching)

    async def _page(self, scope: Scope, visit: Visit) -> ObjectPage:
        """Of objects, or with `versions` of the older versions of one."""
        known = _LIST | _VERSIONS if self._bucket.keeps_versions else _LIST
        given = read_parameters(scope["query_string"], known)
        limit, cursor = read_limit(given), given.get("cursor")
        if "versions" not in given:
            prefix = visit.prefix + given.get("prefix", "")
            return await self._bucket.list(prefix, delimiter=given.get("delimiter", ""), limit=limit, cursor=cursor)
        if given.keys() - _VERSIONS:
            raise invalid("value_error", "versions are listed of one object", "query", "versions")
        return await self._bucket.versions(visit.prefix + given["versions"], limit=limit, cursor=cursor)

    def _described(self, info: ObjectInfo, own: int) -> dict[str, Any]:
        return described(info, own, version=self._bucket.keeps_versions)

    async def read(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        info = await self._find(visit, self._version(scope, visit))
        check_conditions(header(scope, b"if-match"), None, info.etag)
        whole = scope["method"] == "HEAD"
        known = header(scope, b"if-none-match")
        headers = [(b"etag", etag(info.etag)), *self._caching]
        if known is not None and matches(known, info.etag, weak=True):
            await _send_empty(send, 304, headers)
            return
        headers += self._headers(info)
        try:
            part = None if whole else read_range(_range(scope, info), info.size)
        except Unsatisfiable:
            await _send_unsatisfiable(scope, send, info)
            return
        start, end = part or (0, info.size)
        headers.append((b"content-length", b"%d" % (end - start)))
        if part:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, info.size)))
        if whole:
            await _send_empty(send, 200, headers)
            return
        await self._use_up(scope, visit)
        async with self._bucket.open(info, start=start, end=end) as content:
            await send({"type": "http.response.start", "status": 206 if part else 200, "headers": headers})
            await _send_content(receive, send, content)

    def _headers(self, info: ObjectInfo) -> Headers:
        return [
            (b"content-type", sent_content_type(info.content_type)),
            (b"content-disposition", attachment(info.key)),
            (b"accept-ranges", b"bytes"),
            digest_header(info.sha256),
            *metadata_headers(info.metadata),
        ]

    # Writing

    async def put(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        """Store the body. Conditions are looked at before it is read; the commit fails when they have become false."""
        if header(scope, b"content-encoding") not in (None, "identity"):
            raise unsupported(scope, ("the content as it is, without Content-Encoding",))
        if header(scope, b"content-range") is not None:
            raise InvalidRequest("an object is written whole, not in ranges", operation="request")
        metadata = read_metadata(scope["headers"])
        grant = visit.grant
        content_type = check_content_type(header(scope, b"content-type") or OCTETS)
        draft = self._bucket.draft(visit.key, content_type, metadata)
        if grant is not None:
            if metadata:
                raise refused("the URL is not signed for metadata")
            self._check_content_type(grant, content_type)
        present = await self._bucket.head(visit.key)
        etag_now = None if present is None else present.etag
        check_conditions(header(scope, b"if-match"), header(scope, b"if-none-match"), etag_now)
        await self._use_up(scope, visit)
        context = context_of(scope)
        if context.kept is None:
            self._check_length(scope, grant)
            blob = await self._receive(context, _body(receive), grant, self._digest(scope, grant))
            context.kept = Upload(draft, blob)
        kept: Upload = context.kept
        info = await self._bucket.put_blob(kept.draft, kept.blob)
        await self._answer(send, 200 if present else 201, info, visit)

    async def post(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        """Store the file of a browser's form, under a key that the URL is signed for."""
        grant = visit.grant
        assert grant is not None, "forms come in by a presigned URL only"
        await self._use_up(scope, visit)
        context = context_of(scope)
        if context.kept is None:
            form = UploadForm(scope, receive)
            await form.begin()
            content_type = check_content_type(form.content_type or OCTETS)
            self._check_content_type(grant, content_type)
            draft = self._bucket.draft(_form_key(form, grant), content_type, {})
            context.kept = Upload(draft, await self._receive(context, form.content(), grant, grant.sha256))
        kept: Upload = context.kept
        info = await self._bucket.put_blob(kept.draft, kept.blob)
        location = f"{scope.get('root_path', '')}{self._exposure.path}/{quote(info.key, safe='')}"
        await self._answer(send, 201, info, visit, [(b"location", location.encode())])

    async def delete(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        info = await self._find(visit)
        check_conditions(header(scope, b"if-match"), header(scope, b"if-none-match"), info.etag)
        await self._bucket.delete(visit.key)
        await _send_empty(send, 204, [])

    def _version(self, scope: Scope, visit: Visit) -> str:
        if visit.grant is not None:
            return ""
        known = {"version"} if self._bucket.keeps_versions else set[str]()
        return read_parameters(scope["query_string"], known).get("version", "")

    async def _find(self, visit: Visit, version: str = "") -> ObjectInfo:
        info = await self._bucket.head(visit.key, version=version)
        if info is None:
            raise UnknownResource("there is no such object", operation="request", resource=self._bucket.name)
        return info

    async def _receive(
        self, context: RequestContext, data: AsyncIterator[bytes], grant: Grant | None, sha256: str
    ) -> Blob:
        return await self._bucket.write_blob(context, data, limit=self._most(grant), sha256=sha256)

    def _most(self, grant: Grant | None) -> int:
        size = self._bucket.max_size
        return min(size, grant.size) if grant is not None and grant.size else size

    def _check_length(self, scope: Scope, grant: Grant | None) -> None:
        length, most = header(scope, b"content-length"), self._most(grant)
        if length is not None and length.isdigit() and int(length) > most:
            raise TooLarge(f"more than the {most} bytes that are allowed", operation="put", resource=self._bucket.name)

    def _digest(self, scope: Scope, grant: Grant | None) -> str:
        told = read_digest(header(scope, b"repr-digest"))
        bound = grant.sha256 if grant is not None else ""
        if told and bound and told != bound:
            raise refused("the URL is signed for another checksum")
        return bound or told

    def _check_content_type(self, grant: Grant, content_type: str) -> None:
        if grant.content_type and content_type != grant.content_type:
            raise refused("the URL is signed for another content type")

    async def _use_up(self, scope: Scope, visit: Visit) -> None:
        """Take a URL's single use, in the commit of this request; raises `Forbidden` when it is taken."""
        grant = visit.grant
        if grant is None or not grant.once:
            return
        context = context_of(scope)
        used = refused("the URL was good for one use, and has been used")
        if await context.app.binding.engine.claimed(CLAIMS, grant.once) is not None:
            raise used
        assert context.unit is not None
        context.when_claimed[CLAIMS] = used
        context.unit.claim(Claim(CLAIMS, grant.once, grant.expires_ms))

    async def _answer(
        self, send: Send, status: int, info: ObjectInfo, visit: Visit, more: Headers | None = None
    ) -> None:
        headers = [(b"etag", etag(info.etag)), *(more or ())]
        await send_json(send, status, encode_json(self._described(info, len(visit.prefix))), headers)


def described(info: ObjectInfo, own: int = 0, *, version: bool = False) -> dict[str, Any]:
    """An object as JSON; the first `own` characters of its key go without saying."""
    told = {"version": info.sequencer} if version else {}
    return {
        "key": info.key[own:],
        "size": info.size,
        "etag": info.etag,
        "sha256": info.sha256,
        "content_type": info.content_type,
        "metadata": info.metadata,
        "modified": from_ms(info.modified_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **told,
    }


def _form_key(form: UploadForm, grant: Grant) -> str:
    """The key of an uploaded file: the signed one; below a signed prefix the field `key`, or the file's name."""
    asked = form.fields.get("key", "")
    if not grant.is_prefix:
        if asked not in ("", grant.key):
            raise refused("the URL is signed for another key")
        return grant.key
    if asked:
        if not asked.startswith(grant.key) or asked == grant.key:
            raise refused("the URL is signed for other keys")
        return asked
    name = form.file_name.replace("\\", "/").rpartition("/")[2]
    if not name:
        raise invalid("missing", "the file has no name, and the form no key", "body", "key")
    return grant.key + name


def _range(scope: Scope, info: ObjectInfo) -> str | None:
    """The range that is asked for, if it is of this very object (`If-Range`)."""
    condition = header(scope, b"if-range")
    if condition is not None and condition.strip().encode() != etag(info.etag):
        return None
    return header(scope, b"range")


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk


async def _send_empty(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})


async def _send_unsatisfiable(scope: Scope, send: Send, info: ObjectInfo) -> None:
    told = problem(416, f"the object has {info.size} bytes, none of them in this range", context_of(scope).request_id)
    headers, body = raw_problem(told, {"Content-Range": f"bytes */{info.size}"})
    await send({"type": "http.response.start", "status": 416, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_content(receive: Receive, send: Send, content: AsyncIterator[bytes]) -> None:
    """Send it in pieces, as long as somebody is there to read them."""
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        async for chunk in content:
            if gone.done():
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

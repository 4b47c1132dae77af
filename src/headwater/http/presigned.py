"""Presigned URLs: who has one may do what it was signed for, without any other credential, until it expires.

A URL is signed for one method, one bucket and one key. A POST, an upload by a browser's form, may be signed for all
keys below a prefix instead: then the key ends in "/". Where they are given, it is bound to a size at the most, to the
SHA-256 and the content type of what is uploaded, and to a single use. The path has the key, the query all else, and
an HMAC-SHA256 over every value. The functions are pure; `Presigner` knows the server's secret, clock and address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
import structlog

from headwater.clock import Clock
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError, Forbidden, InvalidValue, StoreError
from headwater.ids import new_id

if TYPE_CHECKING:
    from headwater.buckets import Bucket

METHODS = ("GET", "PUT", "POST")
MAX_EXPIRES_MS = 7 * 86_400_000
_CONTEXT = "headwater presigned url 1"
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MEDIA = re.compile(r"[!-~]+/[!-~]+(;[ -~]*)?", re.ASCII)
log = structlog.get_logger("headwater")
_PARAMETERS = frozenset({"expires", "size", "sha256", "content_type", "once", "signature"})


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL is signed for. 0 and "" leave a value free; `once` is the id of a single use."""

    method: str
    bucket: str
    key: str
    expires_ms: int
    size: int = 0
    sha256: str = ""
    content_type: str = ""
    once: str = ""

    @property
    def is_prefix(self) -> bool:
        return self.method == "POST" and self.key.endswith("/")

    def allows(self, method: str) -> bool:
        return method == self.method or (method == "HEAD" and self.method == "GET")


def check_grant(grant: Grant) -> None:
    """Raise `InvalidValue` for what cannot be signed, or would bind nothing."""
    problem = ""
    if grant.method not in METHODS:
        problem = f"the method is one of {', '.join(METHODS)}"
    elif grant.method == "GET" and (grant.size or grant.sha256 or grant.content_type):
        problem = "size, sha256 and content_type bind uploads"
    elif grant.size < 0:
        problem = "the size is negative"
    elif grant.sha256 and not _DIGEST.fullmatch(grant.sha256):
        problem = "sha256 is 64 lower-case hexadecimal digits"
    elif grant.content_type and not _MEDIA.fullmatch(grant.content_type):
        problem = f"{grant.content_type!r} is no content type"
    elif grant.is_prefix and grant.sha256:
        problem = "a prefix and a checksum do not go together: one content has one key"
    if problem:
        raise InvalidValue(problem, operation="presign", resource=grant.bucket)


def sign(grant: Grant, secret: bytes) -> str:
    values = [_CONTEXT, *msgspec.structs.astuple(grant)]
    return hmac.new(secret, msgspec.json.encode(values), hashlib.sha256).hexdigest()


def write_query(grant: Grant, secret: bytes) -> str:
    """The query of a URL: all bound values but method, bucket and key, and the signature."""
    bound = {
        "expires": grant.expires_ms,
        "size": grant.size,
        "sha256": grant.sha256,
        "content_type": grant.content_type,
        "once": grant.once,
    }
    given = {name: value for name, value in bound.items() if value}
    return urlencode({**given, "signature": sign(grant, secret)}, quote_via=quote, safe="")


def read_query(query: bytes, method: str, bucket: str, key: str, secret: bytes) -> Grant:
    """What was signed, for a request with this method and key. Raises `Forbidden` when it is anything else.

    The caller compares the time with `expires_ms`, which is to be believed then.
    """
    given = _parse(query)
    expires, size = given.get("expires", ""), given.get("size", "0")
    if not _INTEGER.fullmatch(expires) or not _INTEGER.fullmatch(size):
        raise refused()
    grant = Grant(
        method="GET" if method == "HEAD" else method,
        bucket=bucket,
        key=key,
        expires_ms=int(expires),
        size=int(size),
        sha256=given.get("sha256", ""),
        content_type=given.get("content_type", ""),
        once=given.get("once", ""),
    )
    if not hmac.compare_digest(sign(grant, secret).encode(), given.get("signature", "").encode()):
        raise refused()
    return grant


def _parse(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), True, True, errors="strict", max_num_fields=len(_PARAMETERS))
    except ValueError:
        raise refused() from None
    given = dict(pairs)
    if len(given) < len(pairs) or not _PARAMETERS.issuperset(given):
        raise refused()
    return given


def refused(why: str = "the URL is not signed for this request") -> Forbidden:
    return Forbidden(why, operation="request", hint="ask for a new URL")


class Presigner:
    """Signs URLs of exposed buckets, and reads them.

    `derive(make)` gives the secret; with `make` it is made when there is none yet. `public_url` goes before the paths.
    """

    def __init__(self, derive: Callable[[bool], bytes], clock: Clock, public_url: str = "") -> None:
        self._derive = derive
        self._clock = clock
        self.public_url = public_url.rstrip("/")

    def secret(self) -> bytes:
        """For a worker, which signs as this server does; made when there is none yet."""
        return self._derive(True)

    def presign(
        self,
        bucket: Bucket,
        method: str,
        key: str,
        expires: Duration,
        *,
        size: int,
        sha256: str,
        content_type: str,
        once: bool,
    ) -> str:
        """See `Bucket.presign`."""
        duration_ms = to_ms(expires)
        if not 0 < duration_ms <= MAX_EXPIRES_MS:
            raise InvalidValue("expires is more than 0 and at most 7 days", operation="presign", resource=bucket.name)
        path = _exposed_path(bucket)
        bucket.table.key(key)
        grant = Grant(
            method=method,
            bucket=bucket.name,
            key=key,
            expires_ms=self._clock.wall_ms() + duration_ms,
            size=size,
            sha256=sha256,
            content_type=content_type,
            once=new_id() if once else "",
        )
        check_grant(grant)
        query = write_query(grant, self._derive(True))
        return f"{self.public_url}/{bucket.app.name}{path}/{quote(key, safe='')}?{query}"

    def read(self, query: bytes, method: str, bucket: str, key: str) -> Grant:
        """What a request's URL is signed for; raises `Forbidden`."""
        try:
            secret = self._derive(False)
        except StoreError as error:
            log.warning("presigned URLs cannot be checked", error=str(error))
            raise refused() from None
        grant = read_query(query, method, bucket, key, secret)
        if grant.expires_ms <= self._clock.wall_ms():
            raise refused("the URL has expired")
        return grant


def _exposed_path(bucket: Bucket) -> str:
    for exposure in bucket.app.object_exposures:
        if exposure.bucket is bucket:
            return exposure.path
    raise DeclarationError(
        "the bucket is not exposed over HTTP, so no URL leads to it",
        operation="presign",
        resource=bucket.name,
        hint=f'app.expose(bucket, "/{bucket.name.partition("/")[2]}") alone serves presigned URLs and nothing else',
    )

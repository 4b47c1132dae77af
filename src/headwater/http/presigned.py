"""Presigned URLs: who has one may do what it was signed for, without any other credential, until it expires.

A URL is signed for one method, one bucket and one key. A POST, an upload by a browser's form, may be signed for all
keys below a prefix instead: then the key ends in "/". Where they are given, it is bound to a size at the most, to the
SHA-256 and the content type of what is uploaded, and to a single use. The path has the key, the query all else, and
an HMAC-SHA256 over every value. Pure: the secret and the time are arguments.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from headwater.errors import Forbidden, InvalidValue

METHODS = ("GET", "PUT", "POST")
MAX_EXPIRES_MS = 7 * 86_400_000
_CONTEXT = "headwater presigned url 1"
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MEDIA = re.compile(r"[!-~]+/[!-~]+(;[ -~]*)?", re.ASCII)
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

"""The headers of objects: ranges, digests, metadata, names for saving. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from headwater.http.answers import Headers
from headwater.http.direct import invalid

OCTETS = "application/octet-stream"
_META = b"x-meta-"
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_DIGEST = re.compile(r"[ \t]*sha-256[ \t]*=[ \t]*:([A-Za-z0-9+/=]*):[ \t]*", re.ASCII)
_MEDIA = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*;[\t -~]*)?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)


class Unsatisfiable(Exception):
    """A range with no byte of the object in it."""


def read_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte of a range and the one behind its last; None when all is to be sent (RFC 9110 §14.2).

    More than one range, other units and what is malformed count as no range. Raises `Unsatisfiable`.
    """
    found = None if header is None else _RANGE.fullmatch(header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise Unsatisfiable
    return start, end


def read_digest(header: str | None) -> str:
    """The SHA-256 of a `Repr-Digest` (RFC 9530) in hexadecimal, "" without one; other algorithms are passed over."""
    for item in (header or "").split(","):
        if found := _DIGEST.fullmatch(item):
            try:
                digest = base64.b64decode(found[1], validate=True)
            except binascii.Error:
                digest = b""
            if len(digest) != 32:
                raise invalid(
                    "value_error", "Repr-Digest: sha-256 is not the base64 of 32 bytes", "header", "repr-digest"
                )
            return digest.hex()
    return ""


def digest_header(sha256: str) -> tuple[bytes, bytes]:
    return b"repr-digest", b"sha-256=:" + base64.b64encode(bytes.fromhex(sha256)) + b":"


def check_content_type(text: str) -> str:
    """A content type that may stand in a header; raises `InvalidValue`."""
    if len(text) > 255 or not _MEDIA.fullmatch(text):
        raise invalid("value_error", f"{text!r} is no content type", "header", "content-type")
    return text


def sent_content_type(text: str) -> bytes:
    """The stored content type as a header; code may have stored what cannot be one."""
    return text.encode() if _MEDIA.fullmatch(text) else OCTETS.encode()


def read_metadata(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The `X-Meta-…` headers by their lower-case names without that."""
    found: dict[str, str] = {}
    for name, value in headers:
        if not name.startswith(_META):
            continue
        key = name.removeprefix(_META).decode("latin-1")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid("value_error", "metadata is UTF-8 text", "header", name.decode("latin-1")) from None
        if not key or key in found:
            raise invalid("value_error", f"metadata {key!r} is given twice, or has no name", "header", "x-meta-" + key)
        found[key] = text
    return found


def metadata_headers(metadata: Mapping[str, str]) -> Headers:
    """What of the metadata can be said in headers."""
    return [
        (_META + name.encode(), value.encode())
        for name, value in metadata.items()
        if _TOKEN.fullmatch(name) and value.isprintable() and value == value.strip()
    ]


def attachment(key: str) -> bytes:
    """`Content-Disposition`: browsers save the object under the end of its key, and never show it (RFC 6266)."""
    name = re.split(r"[/\\]", key.rstrip("/\\"))[-1]
    plain = _UNSAFE.sub("_", name).lstrip(".")[:100] or "object"
    exact = "".join(c if c.isprintable() else "_" for c in name).lstrip(".")[:100] or "object"
    told = f'attachment; filename="{plain}"'
    return (told if exact == plain else f"{told}; filename*=UTF-8''{quote(exact, safe='')}").encode()

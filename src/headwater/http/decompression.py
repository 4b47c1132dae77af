"""Compressed bodies: inflated in steps, so that a small body cannot become a huge one in memory."""

from __future__ import annotations

import zlib

from headwater.errors import InvalidValue, TooLarge, UnsupportedMedia
from headwater.http.limits import Limits

_STEP = 256 * 1024
_HARMLESS = 64 * 1024
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""As zlib numbers the formats; `deflate` is the zlib format (RFC 9110 §8.4.1.2)."""


def inflate(body: bytes, encoding: bytes, limits: Limits) -> bytes:
    """The body as it was before its `Content-Encoding`.

    Raises `UnsupportedMedia` for other encodings, `TooLarge` beyond the size of bodies or the ratio (a body that
    inflates to 64 KiB at most may have any ratio), `InvalidValue` for data that is damaged or ends too early.
    """
    bits = _WINDOW_BITS.get(encoding.strip().lower())
    if bits is None:
        raise UnsupportedMedia(
            f"the content encoding {encoding.decode('latin-1')!r} is not read here",
            operation="request",
            hint="send the body as it is, or with gzip or deflate",
        )
    most = min(limits.body, max(_HARMLESS, len(body) * limits.inflated_ratio))
    stream = zlib.decompressobj(bits)
    inflated = bytearray()
    try:
        while not stream.eof:
            piece = stream.decompress(body, _STEP)
            if not piece and not stream.eof:
                raise zlib.error("it ends too early")
            inflated += piece
            if len(inflated) > most:
                raise TooLarge(f"the body inflates to more than {most} bytes", operation="request")
            body = stream.unconsumed_tail
        if stream.unused_data:
            raise zlib.error("something follows its end")
    except zlib.error as error:
        raise InvalidValue(f"the compressed body is damaged: {error}", operation="request") from error
    return bytes(inflated)

"""A body that comes in pieces of any size, as chunks of a few MiB."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headwater.datasets.dialect import Transcoder

CHUNK = 8 << 20


async def chunks(body: AsyncIterator[bytes], transcoder: Transcoder) -> AsyncIterator[tuple[bytes, bool]]:
    """Chunks of UTF-8, and whether they are the last."""
    held: list[bytes] = []
    size = 0
    async for piece in body:
        for start in range(0, len(piece), CHUNK):
            held.append(transcoder.feed(piece[start : start + CHUNK]))
            size += len(held[-1])
            if size >= CHUNK:
                yield b"".join(held), False
                held, size = [], 0
    held.append(transcoder.feed(b"", final=True))
    yield b"".join(held), True

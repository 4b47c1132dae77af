"""Bulk loads of workers: the rows travel in parts, the owner's engine compares and stages them.

A load belongs to the connection that began it. What is not flipped when that is lost is given up, after the commits
that came before, of which one may flip it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.msgpack import Decoder

from headwater.engine import Differences, Document, Engine, Missing, Staging
from headwater.engines.remote import wire
from headwater.errors import StoreError
from headwater.unit import Flip

if TYPE_CHECKING:
    from headwater.engines.remote.link import Link

PART_BYTES = 1024 * 1024
_decode_staged = Decoder(wire.Staged).decode


class RemoteStaging:
    """A load on its way (`engine.Staging`), seen from the worker."""

    def __init__(self, link: Link, flip: Flip) -> None:
        self.flip = flip
        self.staged = 0
        self._link = link

    async def add(self, documents: Sequence[Document]) -> Differences:
        total = Differences()
        for part in _parts(documents):
            total += (await self._ask(wire.Stage(0, self.flip.load, part))).differences
        return total

    async def finish(self, missing: Missing, grace_ms: int, max_removed: float) -> int:
        return (await self._ask(wire.Finish(0, self.flip.load, missing, grace_ms, max_removed))).vanished

    async def _ask(self, request: wire.Stage | wire.Finish) -> wire.Staged:
        answer = await self._link.ask(request, _decode_staged)
        self.staged = answer.staged
        return answer

    def close(self) -> None:
        self._link.tell(wire.EndStaging(self.flip.load))


def _parts(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Documents in parts that fit into a frame."""
    part: list[Document] = []
    size = 0
    for document in documents:
        if part and size + len(document.body) > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(document)
        size += len(document.body)
    if part:
        yield part


class Stagings:
    """The loads that a worker's connection has begun, at the owner's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stagings: dict[int, Staging] = {}
        self._begun: set[int] = set()
        self._running: dict[int, asyncio.Task[object]] = {}
        self._ended = False

    async def ask(self, request: wire.Loading) -> Flip | wire.Staged | bool:
        match request:
            case wire.BeginLoad(_, table, scope):
                return await self._begin(table, scope)
            case wire.Stage(_, load, documents):
                with self._at_work(load) as staging:
                    differences = await staging.add(documents)
                    return wire.Staged(staging.staged, differences)
            case wire.Finish(_, load, missing, grace_ms, max_removed):
                with self._at_work(load) as staging:
                    vanished = await staging.finish(missing, grace_ms, max_removed)
                    return wire.Staged(staging.staged, vanished=vanished)
            case wire.Stands(_, table, scope):
                return await self._engine.unchanged_since_load(table, scope)

    async def _begin(self, table: str, scope: str) -> Flip:
        staging = await self._engine.begin_load(table, scope)
        load = staging.flip.load
        self._stagings[load] = staging
        self._begun.add(load)
        if self._ended:
            await self.end()
        return staging.flip

    @contextmanager
    def _at_work(self, load: int) -> Iterator[Staging]:
        staging, task = self._stagings.get(load), asyncio.current_task()
        if staging is None or task is None:
            raise StoreError("there is no such load on its way", operation="load", resource=str(load))
        self._running[load] = task
        try:
            yield staging
        finally:
            del self._running[load]

    async def close(self, load: int) -> None:
        """Behind what still runs of it: give up what comparing needed."""
        running, staging = self._running.get(load), self._stagings.pop(load, None)
        if running is not None:
            await asyncio.wait([running])
        if staging is not None:
            staging.close()

    def abandon(self, load: int) -> None:
        self._begun.discard(load)
        self._engine.abandon(load)

    async def end(self) -> None:
        """The connection is lost."""
        self._ended = True
        for load in list(self._stagings):
            await self.close(load)
        for load in list(self._begun):
            self.abandon(load)

"""The relay's function: from streams of tables and of the outbox, and topics of other stacks, to queues and topics.

It binds no app: what it needs to know is in the store. The answer names the first record that is not done; Lambda hands
it out again with all after it, in their order. HEADWATER_EXPORTS names the topics that other stacks follow.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from headwater.aws.changes import Record, Streamed
from headwater.aws.messages import read_body
from headwater.engine import Engine
from headwater.engines import make_engine
from headwater.functions.decoding import failed_items, read_sqs, read_stream


class Relaying(Protocol):
    """What an engine offers to the relay besides `engine.Engine`."""

    exported: frozenset[str]

    async def relay(self, records: Sequence[Streamed]) -> int | None:
        """Send on what the records tell; the place of the first that is not done, None when all are."""
        ...


class _Environment:
    """The engine of this execution environment, and the event loop that it lives in."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._engine: Engine | None = None

    def run(self, event: Mapping[str, Any]) -> dict[str, Any]:
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(self._relay(event))

    async def _relay(self, event: Mapping[str, Any]) -> dict[str, Any]:
        if self._engine is None:
            engine = make_engine(os.environ.get("HEADWATER_STORE", ""))
            await engine.open()
            exports = os.environ.get("HEADWATER_EXPORTS", "")
            cast("Relaying", engine).exported = frozenset(filter(None, exports.split(",")))
            self._engine = engine
        return await relay(cast("Relaying", self._engine), event)

    def close(self) -> None:
        if self._runner is not None:
            if self._engine is not None:
                self._runner.run(self._engine.close())
            self._runner.close()
            self._runner = self._engine = None


async def relay(engine: Relaying, event: Mapping[str, Any]) -> dict[str, Any]:
    """Relay one event of Lambda; what is to be handed out again."""
    ids, records = read_records(event)
    undone = await engine.relay(records)
    if undone is None:
        return failed_items(())
    return failed_items(ids[undone:] if _is_sqs(event) else ids[undone : undone + 1])


def read_records(event: Mapping[str, Any]) -> tuple[list[str], list[Streamed]]:
    """What the event's records are called, and what they tell."""
    if _is_sqs(event):
        messages = read_sqs(event)
        bodies = [read_body(one.body, queue=one.queue, id=one.id, sent_ms=one.sent_ms) for one in messages]
        return [one.id for one in messages], [Streamed("", None, body.event) for body in bodies]
    changes = read_stream(event)
    return [one.sequence for one in changes], [
        Streamed(
            one.table,
            Record(
                None if one.old is None else dict(one.old),
                None if one.new is None else dict(one.new),
                one.sequence,
                one.made_ms,
                one.by_service,
            ),
        )
        for one in changes
    ]


def _is_sqs(event: Mapping[str, Any]) -> bool:
    return any(record.get("eventSource") == "aws:sqs" for record in event.get("Records", ()))


_here = _Environment()


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """A batch of records that Lambda hands over."""
    return _here.run(event)

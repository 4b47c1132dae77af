"""A rehearsal: a handler runs for real on a message, and nothing of what it would commit is committed.

Its unit of work has an engine that answers reads from the store and takes commits (of steps, too) without applying
them. Services are asked with GET only: what would change something elsewhere ends the run. A handler that reaches out
by clients of its own does so in a rehearsal, too; Headwater's own handlers, which do nothing else, are refused.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from headwater.codec import decode_json
from headwater.engine import Engine
from headwater.errors import Discard, InvalidValue
from headwater.events import Delivery, Key
from headwater.runtime.attempts import describe
from headwater.runtime.consumer import Consumer
from headwater.unit import Commit, Committed, Write
from headwater.work import UnitOfWork, written


class Rehearsed(msgspec.Struct, kw_only=True):
    """How it went: what would have been written, sent and published, or how it failed."""

    outcome: str
    error: str = ""
    traceback: str = ""
    writes: list[dict[str, Any]] = []
    sends: list[dict[str, Any]] = []


class _Stage:
    """The store, as a rehearsal sees it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.commits: list[Commit] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        self.commits.append(commit)
        done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        done.set_result(Committed(0))
        return done


async def rehearse(engine: Engine, consumer: Consumer, delivery: Delivery) -> Rehearsed:
    """Run the queue's handler on the message. Raises `InvalidValue` for handlers that cannot be rehearsed."""
    spec = consumer.spec
    if (getattr(spec.fn, "__module__", None) or "").startswith("headwater."):
        raise InvalidValue(
            "this handler is Headwater's own: it does nothing but reaching out, and that cannot be rehearsed",
            operation="dry-run",
            resource=spec.queue,
        )
    stage = _Stage(engine)
    unit = UnitOfWork(cast("Engine", stage), delivery)
    unit.deliveries = (delivery,)
    started_ms = await engine.now_ms()
    try:
        taken = await consumer.rehearse(unit)
        outcome = Rehearsed(outcome="ok" if taken else "filtered")
    except Discard as discarded:
        outcome = Rehearsed(outcome="discarded", error=discarded.reason)
    except Exception as error:  # the app's own code
        failure = describe(error, started_ms, await engine.now_ms())
        outcome = Rehearsed(outcome="failed", error=failure.error, traceback=failure.traceback)
    finally:
        unit.close("its rehearsal ended")
    if outcome.outcome == "ok":
        stage.commits.append(unit.to_commit())
    for commit in stage.commits:
        outcome.writes += [await _told(engine, write) for write in commit.writes]
        outcome.sends += [
            {"to": emit.queue or emit.event.source, "data": decode_json(emit.event.data or b"null")}
            for emit in commit.emits
        ]
    return outcome


async def _told(engine: Engine, write: Write) -> dict[str, Any]:
    present = await engine.read(write.table, write.key)
    after = None if write.forgotten else written(write, present)
    return {
        "table": write.table,
        "key": _parts(write.key),
        "old": None if present is None else decode_json(present.body),
        "data": None if after is None else decode_json(after.body),
    }


def _parts(key: Key) -> list[str | int]:
    return [key[0]] if key[1] == "" else [key[0], key[1]]

"""Explicit units of work, memoised steps, per-event attempts, and waiting from threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from headwater.codec import decode_json, encode_json
from headwater.engine import AlreadyClaimed, Engine
from headwater.errors import DeclarationError, InvalidValue
from headwater.events import Delivery, Event
from headwater.tracing import Span, told
from headwater.unit import Claim, Settle
from headwater.work import BLOCKED, UnitOfWork, caused_by, current, enter, leave

R = TypeVar("R")
STEP_MS = 14 * 86_400_000


@asynccontextmanager
async def transaction(engine: Engine, app: str) -> AsyncIterator[None]:
    outer = current.get()
    if outer is not None and not outer.closed:
        raise DeclarationError(
            "a unit of work is open already",
            operation="transaction",
            resource=app,
            hint="handlers and requests are units of work: write without a transaction in them",
        )
    unit = UnitOfWork(engine)
    token = enter(unit)
    try:
        yield
    except BaseException:
        unit.close("its transaction failed")
        raise
    finally:
        leave(token)
    if unit.writes_anything:
        await unit.commit()
    unit.close("its transaction ended")


def _of_event(unit: UnitOfWork, event: Event[Any] | None) -> Delivery:
    if not unit.deliveries:
        raise DeclarationError("this is possible in a handler only", operation="step")
    if event is None:
        if len(unit.deliveries) > 1:
            raise DeclarationError("in a batch, say of which event", operation="step", hint="step(…, of=event)")
        return unit.deliveries[0]
    found = next((d for d in unit.deliveries if d.event.id == event.id), None)
    if found is None:
        raise DeclarationError("the event is not one of this handler's", operation="step", resource=event.id)
    return found


async def step(name: str, fn: Callable[[], Awaitable[R]], *, of: Event[Any] | None = None) -> R:
    """Run `fn` once per delivered message, however often the handler runs; its result (JSON) is remembered.

    What `fn` writes through Headwater is committed with the result at once, if the handler's lease still holds
    (`LeaseLost` otherwise), whatever becomes of the handler. `fn` itself may run again when the process dies before
    that commit. In a batch, `of` names the event. The result is kept for 14 days.
    """
    outer = current.get()
    if outer is None:
        raise DeclarationError("this is possible in a handler only", operation="step", resource=name)
    outer.check_open()
    delivery = _of_event(outer, of)
    engine = outer.engine
    id = f"{delivery.message_id}/{name}"
    done = await engine.claimed("step", id)
    if done is not None:
        return cast("R", decode_json(done))
    unit = UnitOfWork(engine, caused_by(delivery))
    unit.handling = delivery.message_id
    token = enter(unit)
    try:
        with _span(name, outer, unit):
            result = await fn()
    finally:
        leave(token)
        unit.close(f"step {name!r} ended", commits=True)
    unit.closed = False
    try:
        body = encode_json(result)
    except TypeError as error:
        raise InvalidValue(f"the result of step {name!r} is not JSON: {error}", operation="step") from error
    unit.settle(Settle(delivery.queue, delivery.position, delivery.fence, "fence"))
    unit.claim(Claim("step", id, await engine.now_ms() + STEP_MS, body))
    try:
        await unit.commit()
    except AlreadyClaimed as taken:
        return cast("R", decode_json(taken.result))
    return result


@contextmanager
def _span(name: str, outer: UnitOfWork, unit: UnitOfWork) -> Iterator[None]:
    """Of a step, where its handler's trace is sampled."""
    tracer = outer.tracer
    if tracer is None:
        yield
        return
    app = outer.deliveries[0].queue.partition("/")[0]
    span = Span(trace=unit.trace, id=unit.span, parent=outer.span, kind="step", name=name, app=app)
    begun = tracer.now()
    try:
        yield
    except BaseException as error:
        span.outcome, span.error = "failed", told(error)
        raise
    finally:
        tracer.record(span, begun)


@asynccontextmanager
async def attempt(event: Event[Any]) -> AsyncIterator[None]:
    """In a batch: what the block writes is caused by `event`, and is undone when it raises.

    Then only this event fails (and, in its FIFO group, the later ones); the block's exception ends there.
    `Discard` acknowledges the event without effect. The rest of the batch goes on.
    """
    unit = current.get()
    if unit is None:
        raise DeclarationError("this is possible in a handler only", operation="attempt", resource=event.id)
    delivery = _of_event(unit, event)
    blocked = delivery.group in unit.failed_groups
    mark = unit.mark()
    before = unit.use(caused_by(delivery))
    unit.handling = delivery.message_id
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    finally:
        unit.use(before)
        unit.handling = ""
    if blocked or failure is not None:
        unit.undo(mark)
        unit.fail(delivery, BLOCKED if blocked or failure is None else failure)


_main_loop: list[asyncio.AbstractEventLoop] = []


def serve_waits(loop: asyncio.AbstractEventLoop) -> None:
    """The event loop that `wait` runs calls on from now on."""
    _main_loop.append(loop)


def end_waits(loop: asyncio.AbstractEventLoop) -> None:
    """Undo one `serve_waits` of this loop."""
    if loop in _main_loop:
        _main_loop.remove(loop)


def wait(awaitable: Awaitable[R]) -> R:
    """In a plain `def` handler or endpoint: run an async call of Headwater on the event loop and wait for it.

    Raises what the call raises, and `DeclarationError` on the event loop's own thread.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None or not _main_loop:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        if running is None:
            raise DeclarationError("there is no running server to wait on", operation="wait")
        raise DeclarationError("wait() is for threads", operation="wait", hint="write `await` instead")

    async def run() -> R:
        return await awaitable

    coroutine: Coroutine[Any, Any, R] = run()
    return asyncio.run_coroutine_threadsafe(coroutine, _main_loop[-1]).result()

"""Handlers as declared: a function, the queue that it consumes, and how it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, TypeVar

import msgspec

from headwater.catalog import QueueSpec
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError
from headwater.permits import Grant, Uses, flatten
from headwater.scaling import Scale
from headwater.sources import Feed

E = TypeVar("E")
R = TypeVar("R")
RunIn = Literal["loop", "thread", "process"]
DEFAULT_CONCURRENCY = 16


class QueueOptions(TypedDict, total=False):
    """The policy of a queue (`catalog.QueueSpec`)."""

    delay: Duration
    visibility: Duration
    max_receives: int
    retention: Duration
    max_depth: int
    fifo: bool
    backoff: Duration


class HandlerOptions(QueueOptions, total=False):
    name: str
    was: str
    match: dict[str, Any]
    old: dict[str, Any]
    new: dict[str, Any]
    group: str
    concurrency: int
    timeout: Duration
    run_in: RunIn
    scale: Scale
    uses: Uses


class Register(Protocol[E]):
    """What `app.on` returns: takes the handler and gives it back unchanged."""

    def __call__(self, fn: Callable[[E], R], /) -> Callable[[E], R]: ...


class HandlerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`batch` 0 means one event at a time; `timeout_s` None means no time-out; `place` is file and line.

    With `in_process` a worker process runs it; `concurrency` is that of each. `uses` are its grants, None those that
    its code needs.
    """

    name: str
    queue: str
    fn: Callable[[Any], Any]
    feed: Feed[Any]
    batch: int = 0
    concurrency: int = DEFAULT_CONCURRENCY
    timeout_s: float | None = None
    in_thread: bool = False
    in_process: bool = False
    when: Callable[[Any], bool] | None = None
    place: str = ""
    scale: Scale | None = None
    uses: tuple[Grant, ...] | None = None


def place_of(fn: Callable[..., Any]) -> str:
    """File and line of a declaration, for messages."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def queue_spec(name: str, options: Mapping[str, Any]) -> QueueSpec:
    """A queue's policy of its options; raises `DeclarationError`."""
    times = {"delay": "delay_ms", "visibility": "visibility_ms", "retention": "retention_ms", "backoff": "backoff_ms"}
    fields: dict[str, Any] = {field: to_ms(options[option]) for option, field in times.items() if option in options}
    plain: Sequence[str] = ("max_receives", "max_depth", "fifo")
    fields.update({option: options[option] for option in plain if option in options})
    if fields.get("max_receives", 1) < 1:
        raise DeclarationError("max_receives must be at least 1", operation="declare queue", resource=name)
    if fields.get("visibility_ms", 1) < 1:
        raise DeclarationError("visibility must be more than 0", operation="declare queue", resource=name)
    return QueueSpec(name=name, **fields)


def check_handler(fn: Callable[..., Any], batch: int, options: Mapping[str, Any]) -> None:
    """Refuse a function or options that can be no handler's."""
    problem = ""
    try:
        inspect.signature(fn).bind(None)
    except TypeError:
        problem = "a handler takes one argument: the event, or with batch= the list of events"
    except ValueError:  # a builtin without a signature
        pass
    if batch < 0 or options.get("concurrency", 1) < 1:
        problem = "batch= and concurrency= are at least 1"
    if "timeout" in options and options["timeout"] is not None and to_ms(options["timeout"]) < 1:
        problem = "timeout= is more than 0"
    if "scale" in options and options.get("run_in") != "process":
        problem = 'scale= is for handlers with run_in="process"'
    if problem:
        raise DeclarationError(problem, operation="declare handler", resource=getattr(fn, "__name__", ""))


def placed(fn: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Where the handler runs, how many at once, and what it may do; refuses a `run_in` that does not fit it."""
    is_async = inspect.iscoroutinefunction(fn)
    where = options.get("run_in", "loop" if is_async else "thread")
    if where not in ("loop", "thread", "process") or where == ("thread" if is_async else "loop"):
        raise DeclarationError(
            f"run_in={where!r} does not fit {'an async def' if is_async else 'a plain def'} handler",
            operation="declare handler",
            resource=getattr(fn, "__name__", ""),
            hint="async def handlers run on the loop, plain ones in a thread, either in worker processes",
        )
    apart = where == "process"
    concurrency = options.get("concurrency", 1 if apart else DEFAULT_CONCURRENCY)
    uses = flatten(options["uses"]) if "uses" in options else None
    return {"in_thread": not is_async, "in_process": apart, "concurrency": concurrency, "uses": uses}

"""Handlers as declared: a function, the queue that it consumes, and how it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict, TypeVar

import msgspec

from headwater.durations import Duration
from headwater.sources import Feed

E = TypeVar("E")
R = TypeVar("R")
RunIn = Literal["loop", "thread"]
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


class Register(Protocol[E]):
    """What `app.on` returns: takes the handler and gives it back unchanged."""

    def __call__(self, fn: Callable[[E], R], /) -> Callable[[E], R]: ...


class HandlerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`batch` 0 means one event at a time; `timeout_s` None means no time-out; `place` is file and line."""

    name: str
    queue: str
    fn: Callable[[Any], Any]
    feed: Feed[Any]
    batch: int = 0
    concurrency: int = DEFAULT_CONCURRENCY
    timeout_s: float | None = None
    in_thread: bool = False
    when: Callable[[Any], bool] | None = None
    place: str = ""


def place_of(fn: Callable[..., Any]) -> str:
    """File and line of a declaration, for messages."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""

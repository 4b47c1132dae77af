"""Grants, and the check of each call against those of the unit that runs.

A grant is one verb on one resource. While a handler's attempt or a request runs, `acting` has its permit; the public
calls of tables, topics, queues, buckets, schedules, operations and services ask `guard`. Where no permit is set (a
script, a test, the server's own work) nothing is checked. What grants a unit has is worked out by `headwater.grants`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from pathlib import PurePath
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from headwater.errors import DeclarationError, NotGranted

if TYPE_CHECKING:
    from headwater.app import App

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["table", "topic", "queue", "bucket", "schedule", "operation", "service", "mail", "webhook"]
Slot: TypeAlias = tuple[str, str, str]
OWN_APP = "headwater"
"""The server's own app: its resources are Headwater's to use, whoever it works for."""
VERBS: Mapping[str, Mapping[str, str]] = {
    "table": {
        "get": "get",
        "read": "get",
        "put": "put",
        "update": "update",
        "delete": "delete",
        "query": "query",
        "history": "history",
        "load": "load",
        "loads": "loads",
        "forget": "forget",
        "erasures": "erasures",
        "replay": "replay",
    },
    "topic": {"publish": "publish", "subscribe": "subscribe", "unsubscribe": "subscribe"},
    "queue": {"send": "send"},
    "bucket": {
        "get": "get",
        "head": "get",
        "open": "get",
        "put": "put",
        "delete": "delete",
        "list": "list",
        "versions": "list",
        "presign": "presign",
    },
    "schedule": {"run": "run"},
    "operation": {
        "request": "request",
        "cancel": "cancel",
        "poll": "poll",
        "poll_due": "poll",
        "get": "get",
        "query": "query",
    },
    "service": {"client": "call"},
}
"""Of each kind of resource: the verb that each of its calls needs. An operation is forgotten by a table's `forget`."""
_MORE_VERBS: Mapping[str, tuple[str, ...]] = {"operation": ("forget",)}
_USES = "__headwater_uses__"


class Grant(msgspec.Struct, frozen=True):
    """The permission for one verb on one resource.

    `at` is the file and line that needs it, in code or by a declaration. `escapes`: the resource goes at this line
    where it cannot be followed, so that all its verbs are granted.
    """

    resource: str
    kind: Kind
    verb: str
    at: str = ""
    escapes: bool = False

    @property
    def slot(self) -> Slot:
        return self.kind, self.resource, self.verb


Uses: TypeAlias = Sequence[Grant | Sequence[Grant]]


class Guarded:
    """A resource whose calls need grants."""

    kind: ClassVar[Kind]
    name: str
    app: App[Any]

    def can(self, *verbs: str) -> tuple[Grant, ...]:
        """Grants for `uses=`: `products.can("get", "put")`. Raises `DeclarationError` for a verb that it has not."""
        known = verbs_of(self.kind)
        for verb in verbs:
            if verb not in known:
                raise DeclarationError(
                    f"a {self.kind} has no verb {verb!r}",
                    operation="declare uses",
                    resource=self.name,
                    hint=f"its verbs are {', '.join(known)}",
                )
        return tuple(Grant(self.name, self.kind, verb) for verb in verbs)


def verbs_of(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*VERBS[kind].values(), *_MORE_VERBS.get(kind, ())]))


class Permit:
    """What one unit may do; worked out when it is first asked for."""

    def __init__(self, unit: str, work_out: Callable[[], Iterable[Grant]]) -> None:
        self._unit = unit
        self._work_out = work_out

    @property
    def unit(self) -> str:
        return self._unit

    @cached_property
    def held(self) -> frozenset[Slot]:
        return frozenset(grant.slot for grant in self._work_out())


def label_of(module: str, filename: str) -> str:
    """The file as seen from the folder that holds the module's top-level package: the same on every machine."""
    path = PurePath(filename)
    depth = module.count(".") + 1 + (path.name == "__init__.py")
    return "/".join(path.parts[-depth:])


def declared_at() -> str:
    """File and line of the app's declaration that is being carried out."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == OWN_APP:
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{label_of(str(frame.f_globals.get('__name__')), frame.f_code.co_filename)}:{frame.f_lineno}"


class RequestPermits(Protocol):
    """The permits of a server's endpoints."""

    def of_request(self, app: App[Any], scope: MutableMapping[str, Any]) -> Permit:
        """Of the endpoint that the request has been routed to."""
        ...


class RequestPermit(Permit):
    """Of a request: its endpoint is known when the endpoint's code runs, not before."""

    def __init__(self, app: App[Any], scope: MutableMapping[str, Any]) -> None:
        self._app = app
        self._scope = scope

    @cached_property
    def _routed(self) -> Permit:
        return self._app.binding.permits.of_request(self._app, self._scope)

    @property
    def unit(self) -> str:
        return self._routed.unit

    @cached_property
    def held(self) -> frozenset[Slot]:
        return self._routed.held


acting: ContextVar[Permit | None] = ContextVar("headwater_permit", default=None)
"""The permit of the attempt or request that runs."""


def guard(resource: Guarded, verb: str) -> None:
    """Raise `NotGranted` when the unit that runs has no grant for the verb."""
    permit = acting.get()
    if permit is not None and (resource.kind, resource.name, verb) not in permit.held:
        _refuse(permit, resource, verb)


def _refuse(permit: Permit, resource: Guarded, verb: str) -> None:
    if resource.app.name == OWN_APP:
        return
    raise NotGranted(
        f"the {resource.kind} is not granted to {permit.unit} for {verb!r}: its code was not seen to do this",
        operation=verb,
        resource=resource.name,
        hint=f'add uses=[….can("{verb}"), …] to the handler, or @uses(…) to the endpoint, with all that it needs; '
        f'`headwater grants "{permit.unit}"` shows what was found',
    )


def uses(*grants: Grant | Sequence[Grant]) -> Callable[[F], F]:
    """Decorates an endpoint, or any function of the app: exactly these grants, whatever its code says.

    `@uses(products.can("get"), events.can("publish"))`. On a function that units call it stands for what is in it.
    """
    flat = flatten(grants)

    def decorate(fn: F) -> F:
        setattr(fn, _USES, flat)
        return fn

    return decorate


def uses_of(fn: object) -> tuple[Grant, ...] | None:
    """What `@uses` says of a function; None when it says nothing."""
    found: tuple[Grant, ...] | None = getattr(fn, _USES, None)
    return found


def flatten(grants: Uses) -> tuple[Grant, ...]:
    """Raises `DeclarationError` for what is no grant."""
    flat: list[Grant] = []
    for item in grants:
        flat.extend(item if isinstance(item, list | tuple) else (item,))
    for grant in flat:
        if not isinstance(grant, Grant):
            raise DeclarationError(
                f"{grant!r} is no grant", operation="declare uses", hint='write them as table.can("get", "put")'
            )
    return tuple(dict.fromkeys(flat))

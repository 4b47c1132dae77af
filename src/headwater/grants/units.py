"""The units of an app, what code each of them runs, and what its declaration grants it.

A unit is a handler, by its queue's name, or an endpoint, by app, method and path: "catalog GET /products/{id}".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from headwater.app import App
from headwater.grants.analysis import Analysis
from headwater.grants.atoms import NOTHING, Arguments, Value, live, union
from headwater.graph import Graph
from headwater.handlers import HandlerSpec
from headwater.http.declarations import Exposure, Ingestion, ObjectExposure, Opening, Served
from headwater.loads import ALARMS
from headwater.operations.operation import Operation
from headwater.permits import Grant, Guarded, Kind, Slot, label_of, uses_of

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant
    from starlette.routing import BaseRoute

_OF_ROWS: Mapping[str, tuple[str, ...]] = {
    "GET": ("query",),
    "POST": ("get", "put"),
    "PUT": ("get", "put"),
    "PATCH": ("get", "put"),
    "DELETE": ("get", "delete"),
}
_OF_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "GET": ("list",),
    "POST": ("get", "put"),
    "PUT": ("get", "put"),
    "DELETE": ("get", "delete"),
}
_FRAMEWORK = frozenset({"fastapi", "starlette", "headwater", ""})
"""Where endpoints are no code of the app: of its documentation."""
_PARAMETER = re.compile(r"\{[^}]*\}")
_OF_LEDGER = ("get", "put", "update", "delete", "query")


class Unit(msgspec.Struct, frozen=True):
    """`own` are the grants that its declaration gives; `root` reads its code, unless `uses` says what it needs."""

    name: str
    own: tuple[Grant, ...] = ()
    root: Callable[[Analysis], object] | None = None
    uses: tuple[Grant, ...] | None = None
    endpoint: object = None

    def grants(self, packages: frozenset[str]) -> list[Grant]:
        """In order of resource and verb."""
        found = list(self.uses or ())
        if self.uses is None and self.root is not None:
            found = Analysis(packages | (_package(self.endpoint) - _FRAMEWORK)).run(self.root)
        slots = {grant.slot: grant for grant in (*found, *self.own)}
        return sorted(slots.values(), key=lambda grant: grant.slot)


# Handlers


def handler_unit(app: App[Any], spec: HandlerSpec) -> Unit:
    """Of a handler, and of what Headwater itself consumes for an app: mails, webhooks, operations."""
    queue = spec.queue
    if queue in app.mails:
        return Unit(queue, _granted(spec.place, ("queue", queue, "receive"), ("mail", queue, "send")))
    if queue in app.webhooks:
        return Unit(queue, _granted(spec.place, ("queue", queue, "receive"), ("webhook", queue, "send")))
    for operation in app.operations.values():
        if queue in operation.ledger.queues:
            return _operation_unit(queue, operation)
    receive = Grant(queue, "queue", "receive", spec.place and _shown(spec))
    said = spec.uses if spec.uses is not None else uses_of(spec.fn)
    uses = None if said is None else tuple(msgspec.structs.replace(grant, at=receive.at) for grant in said)
    return Unit(queue, (receive,), _called(spec.fn, spec.when), uses)


def _shown(spec: HandlerSpec) -> str:
    filename, _, line = spec.place.rpartition(":")
    return f"{label_of(str(getattr(spec.fn, '__module__', '')), filename)}:{line}"


def _operation_unit(queue: str, operation: Operation[Any, Any]) -> Unit:
    """The ledger is Headwater's; only the queue of the calls runs functions of the app."""
    ledger = operation.ledger
    own: list[Slot] = [("queue", queue, "receive"), ("topic", ALARMS, "publish")]
    own += [("table", name, verb) for name in (ledger.name, ledger.opened, ledger.contracts) for verb in _OF_LEDGER]
    own += [("queue", name, "send") for name in ledger.queues]
    root = _called(*operation.functions) if queue == ledger.calls else None
    return Unit(queue, _granted(operation.place, *own), root)


def _granted(place: str, *slots: Slot) -> tuple[Grant, ...]:
    return tuple(Grant(resource, cast("Kind", kind), verb, place) for kind, resource, verb in slots)


def _called(*functions: object) -> Callable[[Analysis], object]:
    found = union(*(live(fn) for fn in functions))
    return lambda analysis: analysis.call(found, Arguments(), "")


# Endpoints


def endpoint_units(app: App[Any]) -> Iterator[Unit]:
    """Of an app's endpoints, what it exposes, ingests and opens among them; their module is loaded."""
    for method, path, route in _routes(app.http.routes):
        name = f"{app.name} {method} {path}"
        declared = _declared_unit(app, name, method, route.original_route)
        if declared or not _package(route.endpoint) & _FRAMEWORK:
            yield declared or route_unit(app, name, route)


def _routes(routes: Any, below: str = "") -> Iterator[tuple[str, str, Any]]:
    """(method, path, route) of each, those of mounted applications with the path that these are mounted at."""
    from fastapi.routing import iter_route_contexts

    for context in iter_route_contexts(routes):
        route = context.original_route
        inner = getattr(route, "routes", None)
        if inner and not getattr(route, "methods", None):
            yield from _routes(inner, f"{below}{getattr(route, 'path', '')}")
            continue
        path = getattr(context, "path_format", None) or getattr(route, "path", "")
        for method in sorted((context.methods or getattr(route, "methods", None) or {"*"}) - {"HEAD"}):
            yield method, f"{below}{path}", context


def route_unit(app: App[Any], name: str, route: BaseRoute | Any) -> Unit:
    """Of a route: its endpoint and its dependencies, and the app's handlers of exceptions."""
    endpoint = getattr(route, "endpoint", None)
    dependant = getattr(route, "dependant", None)
    handlers = tuple(live(fn) for fn in app.http.exception_handlers.values())

    def root(analysis: Analysis) -> None:
        if dependant is None:
            analysis.call(live(endpoint), Arguments(), "")
        else:
            _call_dependant(analysis, dependant)
        analysis.call(union(*handlers), Arguments(), "")

    return Unit(name, (), root, uses_of(endpoint), endpoint)


def _call_dependant(analysis: Analysis, dependant: Dependant) -> Value:
    """Call what FastAPI would call, with the values of the dependencies that it is given."""
    named = {}
    for dependency in dependant.dependencies:
        value = _call_dependant(analysis, dependency)
        if dependency.name:
            named[dependency.name] = value
    return NOTHING if dependant.call is None else analysis.call(live(dependant.call), Arguments((), named), "")


# What is declared


def _declared_unit(app: App[Any], name: str, method: str, route: BaseRoute) -> Unit | None:
    """Of a route that Headwater serves: what its method does to what is exposed there."""
    from headwater.http.direct import DirectRoute

    if not isinstance(route, DirectRoute):
        return None
    served: list[Served] = [*app.exposures, *app.object_exposures, *app.ingestions, *app.openings.values()]
    place = _PARAMETER.sub("{}", route.path)
    of = next(found for found in served if (method, place) in found.served)
    resource, verbs = _exposed(of, method, below=bool(route.parts))
    granted = _granted(of.place, *((resource.kind, resource.name, verb) for verb in verbs))
    return Unit(name, granted, endpoint=route.endpoint)


def _exposed(of: Served, method: str, *, below: bool) -> tuple[Guarded, tuple[str, ...]]:
    """The resource, and the verbs of a method at its path, or `below` it."""
    match of:
        case Exposure():
            return of.table, ("get",) if method == "GET" and below else _OF_ROWS[method]
        case ObjectExposure():
            return of.bucket, ("get",) if method == "GET" and below else _OF_OBJECTS[method]
        case Ingestion():
            return of.queue, ("send",)
        case Opening():
            return of.queue, ("receive",)


def packages_of(graph: Graph) -> frozenset[str]:
    """The top-level packages that the apps' functions are in."""
    found: set[str] = set()
    for app in graph.apps:
        functions = [*(spec.fn for spec in app.handlers.values()), *(spec.when for spec in app.handlers.values())]
        functions += [fn for operation in app.operations.values() for fn in operation.functions]
        found = found.union(*map(_package, functions), {app.http_module.partition(".")[0]})
    return frozenset(found) - _FRAMEWORK


def _package(fn: object) -> frozenset[str]:
    """The top-level package of a function; of a partial or a method that of what it calls."""
    inner = inspect.unwrap(getattr(fn, "func", fn)) if callable(fn) else fn
    return frozenset({str(getattr(inner, "__module__", "") or "").partition(".")[0]})

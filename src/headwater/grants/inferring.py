"""The grants of all units, and the permits of those that run."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from typing import Any

from headwater.app import App
from headwater.grants.units import Unit, endpoint_units, handler_unit, packages_of, route_unit
from headwater.graph import Graph
from headwater.http.routes import known_method, route_of
from headwater.permits import OWN_APP, Grant, Permit


def infer(graph: Graph) -> dict[str, list[Grant]]:
    """The grants of each unit, in order of the units' names; imports the modules of the apps' endpoints.

    A unit is a handler, by its queue ("catalog/announce"), or an endpoint ("catalog GET /products/{id}").
    """
    packages = packages_of(graph)
    found: dict[str, list[Grant]] = {}
    for app in graph.apps:
        if app.name == OWN_APP:
            continue
        units = [handler_unit(app, spec) for spec in app.handlers.values()]
        if app.load_http() is not None:
            units += endpoint_units(app)
        for unit in units:
            found.setdefault(unit.name, unit.grants(packages))
    return dict(sorted(found.items()))


class Permits:
    """The permits of a server's units. What one holds is worked out when its code first calls a resource."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._routed: dict[object, Permit] = {}

    @cached_property
    def _packages(self) -> frozenset[str]:
        return packages_of(self._graph)

    def of_queue(self, queue: str) -> Permit | None:
        """Of a handler; None for the server's own, to which all is granted."""
        app = next((app for app in self._graph.apps if app.name == queue.partition("/")[0]), None)
        if app is None or app.name == OWN_APP or queue not in app.handlers:
            return None
        return self._permit(handler_unit(app, app.handlers[queue]))

    def of_request(self, app: App[Any], scope: MutableMapping[str, Any]) -> Permit:
        """Of the endpoint that the request has been routed to."""
        method = known_method(scope["method"])
        key = (app.name, method, route_of(scope), scope.get("endpoint"))
        found = self._routed.get(key)
        if found is None:
            found = self._routed[key] = self._permit(self._endpoint(app, scope, method))
        return found

    def _endpoint(self, app: App[Any], scope: MutableMapping[str, Any], method: str) -> Unit:
        """By its name or, in an application that is mounted, by the function alone."""
        verb, path, endpoint = "GET" if method == "HEAD" else method, route_of(scope), scope.get("endpoint")
        units = [unit for unit in endpoint_units(app) if unit.endpoint is endpoint]
        for unit in units:
            if unit.name == f"{app.name} {verb} {path}":
                return unit
        for unit in units:
            if unit.name.startswith(f"{app.name} {verb} ") and unit.name.endswith(path):
                return unit
        return route_unit(app, f"{app.name} {verb} {path}", scope.get("route") or _Mounted(scope))

    def _permit(self, unit: Unit) -> Permit:
        return Permit(unit.name, lambda: unit.grants(self._packages))


class _Mounted:
    """What takes a request that no known route does: an application that is mounted."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.endpoint = scope.get("endpoint")

"""The admin operation on HTTP interfaces: endpoints with how they do, and usage plans."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.metrics import MINUTE_MS, Histogram
from headwater.quota import Plan, window_of
from headwater.rollups import MINUTES, minutes_of
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import operation
from headwater.runtime.recorder import RollUps

Place = tuple[str, str, str]
"""(app, method, route)."""


class _Served(msgspec.Struct):
    """What an endpoint has answered, and how long it took."""

    requests: float = 0
    errors: float = 0
    durations: Histogram = msgspec.field(default_factory=Histogram)


class ApiOperations(AdminBase):
    @operation()
    async def apis(self) -> dict[str, Any]:
        """The endpoints of the apps that run here, what they ask of callers, and the usage plans.

        `requests`, `errors` (of the server's: 5xx) and quantiles of the durations in seconds are those of the last
        full 60 minutes. `period` and `ends` of a plan's quota are those under way. Without a server nothing is known.
        """
        if self.supervisor is None:
            return {"endpoints": [], "plans": []}
        from headwater.http.endpoints import endpoints_of

        served = await self._served()
        endpoints = [
            {
                "app": app.name,
                **endpoint._asdict(),
                **_served_json(served.get((app.name, endpoint.method, endpoint.route), _Served())),
            }
            for app in self.supervisor.graph.apps
            if (http := app.load_http()) is not None
            for endpoint in endpoints_of(http)
        ]
        now_ms = self.clock.wall_ms()
        plans = [_plan_json(name, plan, now_ms) for name, plan in sorted(self.access.rules.plans.items())]
        return {"endpoints": endpoints, "plans": plans}

    async def _served(self) -> dict[Place, _Served]:
        """The requests of the last full 60 minutes."""
        end = await self.engine.now_ms() // MINUTE_MS
        rows = await RollUps(self.engine, self.system).hours((end - MINUTES) // MINUTES, end // MINUTES, "http_")
        found: dict[Place, _Served] = {}
        for minute, values in minutes_of(rows).items():
            if not end - MINUTES <= minute < end:
                continue
            for one, value in values.items():
                labels = dict(one.labels)
                served = found.setdefault((labels["app"], labels["method"], labels["route"]), _Served())
                if isinstance(value, Histogram):
                    served.durations.add(value)
                else:
                    served.requests += value
                    served.errors += value if labels["status"] == "5xx" else 0
        return found


def _served_json(served: _Served) -> dict[str, Any]:
    quantiles = {f"p{percent}": served.durations.quantile(percent / 100) for percent in (50, 95, 99)}
    return {"requests": served.requests, "errors": served.errors, **quantiles}


def _plan_json(name: str, plan: Plan, now_ms: int) -> dict[str, Any]:
    window = window_of(plan, now_ms)
    return {
        "name": name,
        "rate": plan.rate,
        "burst": plan.capacity if plan.rate else 0,
        "quota": plan.quota,
        "per": plan.period,
        "tz": plan.tz,
        "period": window.name,
        "ends": time_of(window.ends_ms),
    }

"""HTTP interfaces: endpoints with how they do, usage plans, and API keys with what is left of their quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.console.screens import Screen, View
from headwater.console.screens.metrics import SPANS, charts_of, last_of
from headwater.errors import UnknownResource
from headwater.metrics import series

_MOST_KEYS = 1000
_STANDING = ("valid", "revoked", "expired")


async def load_apis(view: View) -> Mapping[str, Any]:
    wanted, app = view.query.get("q", "").lower(), view.query.get("app", "")
    found = (await view.ask("apis"))["endpoints"]
    shown = [
        one
        for one in found
        if wanted in f"{one['method']} /{one['app']}{one['route']} {one['name']}".lower() and app in ("", one["app"])
    ]
    return {"endpoints": shown, "apps": sorted({one["app"] for one in found}), "total": len(found)}


async def load_endpoint(view: View) -> Mapping[str, Any]:
    place = tuple(view.query.get(name, "") for name in ("app", "method", "route"))
    found = (await view.ask("apis"))["endpoints"]
    endpoint = next((one for one in found if (one["app"], one["method"], one["route"]) == place), None)
    if endpoint is None:
        raise UnknownResource("there is no such endpoint", resource=" ".join(place))
    labels = dict(zip(("app", "method", "route"), place, strict=True))
    last = last_of(view)
    requests = await view.ask("metrics", series=f"{str(series('http_requests_total', **labels))[:-1]},", last=last)
    durations = await view.ask("metrics", series=str(series("http_request_duration_seconds", **labels)), last=last)
    return {
        "endpoint": endpoint,
        "charts": [
            (title, chart)
            for title, answer in (("requests", requests), ("durations", durations))
            for chart in await charts_of(view, answer["series"], last)
        ],
        "spans": SPANS,
        "last": last,
    }


async def load_keys(view: View) -> Mapping[str, Any]:
    plans = (await view.ask("apis"))["plans"]
    keys = (await view.ask("keys", limit=_MOST_KEYS))["keys"]
    usage = (await view.ask("key-usage", limit=_MOST_KEYS))["usage"]
    wanted, plan = view.query.get("q", "").lower(), view.query.get("plan", "")
    standing = view.query.get("standing", "")
    told = [{**key, "standing": standing_of(key), "use": use_of(key, plans, usage)} for key in keys]
    return {
        "plans": plans,
        "keys": [
            key
            for key in told
            if wanted in f"{key['name']} {key['id']} {key['tenant']}".lower()
            and plan in ("", key["plan"])
            and standing in ("", key["standing"])
        ],
        "total": len(keys),
        "usage": usage[:50],
        "standings": _STANDING,
        "tones": {"valid": "good", "revoked": "bad", "expired": "warn"},
    }


def standing_of(key: Mapping[str, Any]) -> str:
    return "revoked" if key["revoked"] else "valid" if key["valid"] else "expired"


def use_of(
    key: Mapping[str, Any], plans: Sequence[Mapping[str, Any]], usage: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What a key has used and has left in the period under way; None without a plan. `left` None: there is no quota."""
    plan = next((plan for plan in plans if plan["name"] == key["plan"]), None)
    if plan is None:
        return None
    mine = (f"key:{key['id']}", plan["name"], plan["period"])
    used = next((row["count"] for row in usage if (row["who"], row["plan"], row["period"]) == mine), 0)
    left = max(plan["quota"] - used, 0) if plan["quota"] else None
    return {"used": used, "quota": plan["quota"], "left": left, "per": plan["per"], "ends": plan["ends"]}


SCREENS = [
    Screen("/apis", "APIs", "apis.html", load_apis, key="p", topics=("minute",)),
    Screen("/apis/endpoint", "Endpoint", "endpoint.html", load_endpoint, topics=("minute",)),
    Screen("/keys", "API keys", "keys.html", load_keys, key="k", topics=("keys", "minute")),
]

"""Operations at third parties: in which states, how old, when they are called next; each with its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from headwater.console.past import milliseconds_of
from headwater.console.screens import Screen, View
from headwater.errors import UnknownResource
from headwater.operations.tracked import STATES

_PAGE = 50
TONES = {"completed": "good", "failed": "bad", "in_doubt": "bad", "overdue": "bad", "pending": "", "cancelled": "warn"}
_STANDING = ("open", "overdue")


async def load_operations(view: View) -> Mapping[str, Any]:
    kinds = (await view.ask("op-kinds"))["kinds"]
    names = [kind["operation"] for kind in kinds]
    states = (*_STANDING, *STATES)
    state = view.query["state"] if view.query.get("state") in states else "open"
    wanted = view.query.get("kind", "")
    pages = [(name, await _page(view, name, state)) for name in names if wanted in ("", name)]
    search = view.query.get("q", "").lower()
    return {
        "kinds": kinds,
        "names": names,
        "groups": [
            (name, [one for one in page["operations"] if search in f"{one['subject']} {one['external_id']}".lower()])
            for name, page in pages
        ],
        "further": {
            name: urlencode({**view.query, "kind": name, "cursor": page["cursor"]})
            for name, page in pages
            if page["cursor"]
        },
        "states": states,
        "state": state,
        "now": await now_ms(view),
        "tones": TONES,
    }


async def _page(view: View, kind: str, state: str) -> dict[str, Any]:
    cursor = view.query.get("cursor") if view.query.get("kind") == kind else None
    return dict(await view.ask("op-list", kind=kind, state=state, limit=_PAGE, cursor=cursor))


async def now_ms(view: View) -> int:
    return milliseconds_of((await view.ask("status"))["time"])


async def load_operation(view: View) -> Mapping[str, Any]:
    kind, subject = f"{view.path['app']}/{view.path['name']}", view.query.get("subject", "")
    if not subject:
        raise UnknownResource("the address names no subject", operation="show", resource=kind)
    found = await view.ask("op-show", kind=kind, subject=subject)
    latest, *earlier = found["operations"]
    changes = (await view.ask("table-history", table=kind, key=[subject, latest["id"]], limit=100))["changes"]
    return {
        "kind": kind,
        "subject": subject,
        "operation": latest,
        "earlier": earlier,
        "contract_change": found["contract_change"],
        "changes": changes,
        "now": await now_ms(view),
        "tones": TONES,
    }


SCREENS = [
    Screen("/operations", "Operations", "operations.html", load_operations, key="o", topics=("tail", "minute")),
    Screen("/operations/{app}/{name}", "Operation", "operation.html", load_operation, topics=("tail", "minute")),
]

"""The map: what there is and how it is connected. For now: the way to the queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.screens import Screen, View


async def load_map(view: View) -> Mapping[str, Any]:
    return {"resources": await view.ask("resources")}


SCREENS = [Screen("/", "Map", "map.html", load_map, key="m", topics=("queues",))]

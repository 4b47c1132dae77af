"""One topic: where its messages go, subscribing to it, publishing to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.console.forms import example_of, fields_of
from headwater.console.screens import Screen, View
from headwater.errors import UnknownResource

_NEWEST = 20


async def load_topic(view: View) -> Mapping[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    resources = await view.ask("resources")
    if name not in {topic["name"] for topic in resources["topics"]}:
        raise UnknownResource("there is no such topic", resource=name)
    schema = await view.ask("schema", resource=name)
    return {
        "topic": name,
        "routes": [route for route in resources["routes"] if route["source"] == name],
        "incoming": [route for route in resources["routes"] if route["target"] == name],
        "subscriptions": (await view.ask("subscriptions", topic=name))["subscriptions"],
        "events": (await view.ask("tail", source=name, limit=_NEWEST))["events"][::-1],
        "queues": [queue["name"] for queue in resources["queues"]],
        "fields": fields_of(schema),
        "example": example_of(schema),
    }


SCREENS = [Screen("/topics/{app}/{name}", "Topic", "topic.html", load_topic, topics=("queues", "tail"))]

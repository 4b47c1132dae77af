"""Values that are known when the server starts, not when the app is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from headwater.app import App

V = TypeVar("V")


class Late(Generic[V]):
    """Made by `app.late(lambda settings: …)`: picks a value from the app's settings at start."""

    def __init__(self, pick: Callable[[Any], V]) -> None:
        self.pick = pick


def resolve(value: V | Late[V], app: App[Any]) -> V:
    return value.pick(app.settings) if isinstance(value, Late) else value

"""Which rows of a table a page is about: the filters in its address, as parameters of `table-query`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.errors import InvalidValue

NUMBER = "number"


def parameters_of_query(asked: Mapping[str, str]) -> dict[str, Any]:
    """`index`, `partition`, `prefix`, `low`, `high`, `reverse` and `cursor`; empty ones are left out.

    With `number` the bounds are whole numbers. Raises `InvalidValue`.
    """
    found: dict[str, Any] = {name: asked[name] for name in ("index", "cursor") if asked.get(name)}
    parts = [asked.get("partition", ""), asked.get("prefix", "")]
    if parts[1] and not parts[0]:
        raise InvalidValue("a prefix of the sort part needs the partition", operation="query")
    if parts[0]:
        found["prefix"] = [part for part in parts if part]
    low, high = asked.get("low", ""), asked.get("high", "")
    if low or high:
        found["low"], found["high"] = _bounds(low, high, numeric=bool(asked.get(NUMBER)))
    if asked.get("reverse"):
        found["reverse"] = True
    return found


def _bounds(low: str, high: str, *, numeric: bool) -> tuple[str | int, str | int]:
    """Both ends; of one that is not given the last possible value."""
    if not numeric:
        return low, high or "\U0010ffff"
    try:
        return int(low or -(2**63)), int(high or 2**63 - 1)
    except ValueError as error:
        raise InvalidValue("the bounds are no whole numbers", operation="query") from error

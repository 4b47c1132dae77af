"""Tables: their rows by key and index, one row with its history, new rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from headwater.console.differences import differences
from headwater.console.forms import example_of, fields_of
from headwater.console.row_filters import parameters_of_query
from headwater.console.screens import Screen, View
from headwater.console.searching import LOOKING_S, MOST, SLICE
from headwater.errors import InvalidValue, UnknownResource

_SIZES = (25, 50, 100, 200)
_COLUMNS = 8
_CHANGES = 20


async def load_tables(view: View) -> Mapping[str, Any]:
    wanted, app = view.query.get("q", "").lower(), view.query.get("app", "")
    found = (await view.ask("resources"))["tables"]
    shown = [table for table in found if wanted in table["name"].lower() and _is_of(table["name"], app)]
    return {"tables": shown, "apps": sorted({table["name"].partition("/")[0] for table in found})}


def _is_of(name: str, app: str) -> bool:
    return not app or name.startswith(f"{app}/")


async def load_table(view: View) -> Mapping[str, Any]:
    table = await _table(view)
    rows, cursor, scanned = await _rows(view, table)
    filters = {name: value for name, value in view.query.items() if name != "cursor" and value}
    return {
        "table": table,
        "rows": [{"address": row_address(table, row), "value": row} for row in rows],
        "columns": columns_of(table, rows),
        "cursor": cursor,
        "scanned": scanned,
        "filters": filters,
        "next": urlencode({**filters, "cursor": cursor}) if cursor else "",
        "first": urlencode(filters),
        "parameters": {"table": table["name"], **parameters_of_query(filters)},
        "command": command_of("query", table["name"], parameters_of_query(filters)),
        "clearing": command_of("clear", table["name"], parameters_of_query(filters)),
        "sizes": _SIZES,
        "limit": _limit(view),
    }


async def _table(view: View) -> dict[str, Any]:
    name = f"{view.path['app']}/{view.path['name']}"
    for table in (await view.ask("resources"))["tables"]:
        if table["name"] == name:
            return dict(table)
    raise UnknownResource("there is no such table", operation="show", resource=name)


def _limit(view: View) -> int:
    asked = view.query.get("limit", "")
    return int(asked) if asked in map(str, _SIZES) else _SIZES[1]


async def _rows(view: View, table: dict[str, Any]) -> tuple[list[Any], str | None, int]:
    """The rows of this page, where the next one begins, and how many were looked through for a text."""
    asked = {"table": table["name"], **parameters_of_query(view.query)}
    wanted, limit = view.query.get("q", "").lower(), _limit(view)
    if not wanted:
        page = await view.ask("table-query", **asked, limit=limit)
        return page["items"], page["cursor"], 0
    found: list[Any] = []
    scanned = 0
    end = view.clock.monotonic() + LOOKING_S
    while len(found) < limit and scanned < MOST and (not scanned or view.clock.monotonic() < end):
        page = await view.ask("table-query", **asked, limit=SLICE)
        scanned += len(page["items"])
        found += [row for row in page["items"] if wanted in json.dumps(row, ensure_ascii=False).lower()]
        asked["cursor"] = page["cursor"]
        if page["cursor"] is None:
            break
    return found, asked["cursor"], scanned


def command_of(verb: Literal["query", "clear"], table: str, parameters: Mapping[str, Any]) -> str:
    """The command that finds, or removes, the same rows."""
    words = ["headwater", "table", verb, table, *map(str, parameters.get("prefix", ()))]
    for name in ("index", "low", "high"):
        if name in parameters:
            words += [f"--{name}", str(parameters[name])]
    words += ["--number"] if isinstance(parameters.get("low"), int) else []
    words += ["--reverse"] if "reverse" in parameters and verb == "query" else []
    return shlex.join(words)


def row_address(table: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    key = json.dumps([row.get(field) for field in table["key"]], ensure_ascii=False)
    return f"/tables/{table['name']}/row?{urlencode({'key': key})}"


def columns_of(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The key's fields first, then those that the model declares or the rows have."""
    known = table["fields"] or [name for row in rows for name in row]
    return list(dict.fromkeys([*table["key"], *known]))[:_COLUMNS]


async def load_row(view: View) -> Mapping[str, Any]:
    table = await _table(view)
    key = _key(view)
    changes = (await view.ask("table-history", table=table["name"], key=key, limit=_CHANGES))["changes"]
    try:
        row = await view.ask("table-get", table=table["name"], key=key)
    except UnknownResource:
        if not changes:
            raise
        row = None
    return {
        "table": table,
        "key": key,
        "words": " ".join(shell_words(key)),
        "row": row,
        "draft": row["value"] if row else _last_value(changes),
        "fields": fields_of(await view.ask("schema", resource=table["name"])),
        "changes": [shown async for shown in told_changes(view, changes)],
        "most": _CHANGES,
    }


def _key(view: View) -> list[str | int]:
    try:
        key = json.loads(view.query.get("key", ""))
    except ValueError as error:
        raise InvalidValue("the key in the address is no JSON", operation="show") from error
    if not isinstance(key, list) or not all(type(part) in (str, int) for part in key):
        raise InvalidValue("the key in the address is no list of texts and numbers", operation="show")
    return key


def shell_words(key: Sequence[str | int]) -> Iterator[str]:
    """The key as a command takes it."""
    yield from (shlex.quote(str(part)) for part in key)
    if any(isinstance(part, int) for part in key):
        yield "--number"


def _last_value(changes: Sequence[Mapping[str, Any]]) -> Any:
    return next((change["old"] for change in changes if change["old"]), {})


async def told_changes(view: View, changes: Sequence[Mapping[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Each change with what is different by it, and with the messages that it has become."""
    for change in changes:
        try:
            messages = (await view.ask("event", id=change["id"]))["messages"]
        except UnknownResource:
            messages = {}
        told = differences(change["old"] or {}, change["data"] or {})
        yield {**change, "differences": told, "messages": messages}


async def load_new(view: View) -> Mapping[str, Any]:
    table = await _table(view)
    schema = await view.ask("schema", resource=table["name"])
    draft = example_of(schema) or dict.fromkeys([*table["key"], *table["fields"]], "")
    return {"table": table, "draft": draft, "fields": fields_of(schema)}


async def load_import(view: View) -> Mapping[str, Any]:
    return {"table": await _table(view)}


SCREENS = [
    Screen("/tables", "Tables", "tables.html", load_tables, key="r"),
    Screen("/tables/{app}/{name}", "Table", "table.html", load_table, topics=("tail",)),
    Screen("/tables/{app}/{name}/row", "Row", "row.html", load_row, topics=("tail",)),
    Screen("/tables/{app}/{name}/new", "New row", "row_new.html", load_new),
    Screen("/tables/{app}/{name}/import", "Import", "table_import.html", load_import),
]

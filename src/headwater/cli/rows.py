"""`headwater table`: rows by key, by query, and their history."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Limit, Numeric, Store, Table, Value, Yes, confirm, part, read_object
from headwater.cli.output import note, print_json, print_pretty, print_removed, print_table, safe_json
from headwater.cli.row_files import export_rows, import_rows
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Read and write the rows of tables.")
app.command("import")(import_rows)
app.command("export")(export_rows)
Key = Annotated[
    list[str], typer.Argument(metavar="KEY...", help="The key: the partition, and the sort part if there is one.")
]
IfVersion = Annotated[
    str | None, typer.Option("--if-version", metavar="VERSION", help="Only if the row has this version.")
]


@app.command()
def get(
    table: Table, key: Key, *, number: Numeric = False, as_json: AsJson = False, store: Store = "", env: Env = ""
) -> None:
    """Print a row; --json adds its key and version."""
    answer = Session(store, env).call("table-get", table=table, key=_key(key, numeric=number))
    if as_json:
        print_json(answer)
    else:
        print_pretty(answer["value"])
        note(f"version {answer['version']}")


@app.command()
def put(
    table: Table,
    value: Value,
    *,
    if_version: IfVersion = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if there is no row of this key.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Insert or replace the row whose key the JSON holds; prints its version."""
    answer = Session(store, env).call(
        "table-put", table=table, value=read_object(value), if_version=if_version, if_absent=if_absent
    )
    if as_json:
        print_json(answer)
    else:
        print(answer["version"])


@app.command()
def delete(
    table: Table,
    key: Key,
    *,
    if_version: IfVersion = None,
    number: Numeric = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove a row."""
    answer = Session(store, env).call("table-delete", table=table, key=_key(key, numeric=number), if_version=if_version)
    if as_json:
        print_json(answer)
    else:
        print(f"{table} {'/'.join(str(part) for part in answer['key'])}: removed")


@app.command()
def query(
    table: Table,
    *,
    prefix: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PARTITION [PREFIX]]", help="The partition, and a prefix of a text sort part."),
    ] = None,
    index: Annotated[str, typer.Option("--index", help="Query this index.")] = "",
    low: Annotated[str | None, typer.Option("--low", help="The lowest next part, included.")] = None,
    high: Annotated[str | None, typer.Option("--high", help="The highest next part, included.")] = None,
    number: Numeric = False,
    limit: Limit = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="In the opposite order.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print rows in the order of the key or of an index, one JSON object a line."""
    if len(prefix or ()) > 2:
        raise UsageError("a query takes the partition and a prefix of the sort part")
    answer = Session(store, env).call(
        "table-query",
        table=table,
        prefix=prefix or [],
        index=index,
        low=None if low is None else part(low, numeric=number),
        high=None if high is None else part(high, numeric=number),
        limit=limit,
        cursor=cursor,
        reverse=reverse,
    )
    if as_json:
        print_json(answer)
        return
    for row in answer["items"]:
        print(safe_json(row))
    if answer["cursor"]:
        note(f"there are more: --cursor {answer['cursor']}")


@app.command()
def clear(
    table: Table,
    prefix: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PARTITION [PREFIX]]", help="The partition, and a prefix of a text sort part."),
    ] = None,
    *,
    index: Annotated[str, typer.Option("--index", help="Query this index.")] = "",
    low: Annotated[str | None, typer.Option("--low", help="The lowest next part, included.")] = None,
    high: Annotated[str | None, typer.Option("--high", help="The highest next part, included.")] = None,
    number: Numeric = False,
    yes: Yes = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove all rows that such a query finds; each is a change. Asks first."""
    confirm(f"Remove {'these' if prefix or index or low else 'all'} rows of {table}?", yes=yes)
    asked = {
        "prefix": prefix or [],
        "index": index,
        "low": None if low is None else part(low, numeric=number),
        "high": None if high is None else part(high, numeric=number),
    }
    session, removed = Session(store, env), 0
    while slice := session.call("table-clear", table=table, **asked)["removed"]:
        removed += slice
    print_removed(table, removed, "rows", as_json=as_json)


@app.command()
def history(
    table: Table,
    key: Key,
    *,
    number: Numeric = False,
    limit: Limit = 100,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print the changes of a row that the history still holds, newest first."""
    answer = Session(store, env).call("table-history", table=table, key=_key(key, numeric=number), limit=limit)
    if as_json:
        print_json(answer)
        return
    changes = answer["changes"]
    print_table(
        ("time", "change", "version", "old", "new", "cause"),
        ((c["time"], c["type"], c["version"], c["old"], c["data"], c["cause"]) for c in changes),
        "" if changes else "changes",
    )


def _key(parts: list[str], *, numeric: bool) -> list[str | int]:
    if len(parts) > 2:
        raise UsageError("a key has the partition and at most one sort part")
    return [parts[0], *(part(text, numeric=numeric) for text in parts[1:])]

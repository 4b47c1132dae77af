"""`headwater sql`: reading the store with SQL."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Store
from headwater.cli.output import note, print_json, print_table, safe_json
from headwater.cli.session import Session

FORMATS = ("table", "csv", "jsonl")


def sql(
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="A SELECT; - reads it from standard input.")],
    *,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="Bind :NAME; numbers as numbers, all else as text."),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv or jsonl.")] = "table",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many rows at most.")] = 1000,
    seconds: Annotated[float, typer.Option("--seconds", min=0.001, max=60, help="How long it may run.")] = 10.0,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Read with SQL. Views: "app/table" or app_table for each table; events, messages, dead_letters, failures."""
    if format not in FORMATS:
        raise UsageError(f"--format is {format!r}", f"it is {', '.join(FORMATS)}")
    answer = Session(store, env).call(
        "sql",
        statement=sys.stdin.read() if statement == "-" else statement,
        parameters=dict(_parameter(text) for text in parameter or ()),
        limit=limit,
        seconds=seconds,
    )
    if as_json:
        print_json(answer)
        return
    _print_rows(answer, format)
    if answer["more"]:
        note(f"there are more than {limit} rows: --limit")


def _print_rows(answer: dict[str, Any], format: str) -> None:
    columns, rows = answer["columns"], answer["rows"]
    if format == "csv":
        import csv

        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    elif format == "jsonl":
        for row in rows:
            print(safe_json(dict(zip(columns, row, strict=True))))
    else:
        print_table(columns, rows, "" if rows else "rows")


def _parameter(text: str) -> tuple[str, str | int | float]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--param {text!r} is not NAME=VALUE")
    if len(value) > 1 and value[0] == value[-1] == "'":
        return name, value[1:-1]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value

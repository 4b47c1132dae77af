"""`headwater table import` and `export`: rows as JSON lines, in slices."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Numeric, Store, Table, part
from headwater.cli.output import note, print_json, shown
from headwater.cli.session import Session

_ROWS = 200
_SIZE = 256 * 1024
_PAGE = 500
Slice = list[tuple[int, dict[str, Any]]]
"""Rows with the numbers of their lines."""


def import_rows(
    table: Table,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON objects, one a line; - reads standard input.")],
    *,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only rows whose keys are free.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Insert or replace the rows of a file; those that are refused are told, and the exit code is 1 then."""
    session, written, refused = Session(store, env), 0, list[dict[str, Any]]()
    with _opened(file) as opened:
        for some in _slices(opened, refused):
            rows = [row for _, row in some]
            answer = session.call("table-import", table=table, rows=rows, if_absent=if_absent)
            written += answer["written"]
            refused += [{"line": some[found["row"]][0], "detail": found["detail"]} for found in answer["refused"]]
    refused.sort(key=lambda found: found["line"])
    if as_json:
        print_json({"written": written, "refused": refused})
    else:
        for found in refused:
            note(f"line {found['line']}: {shown(found['detail'])}")
        print(f"{written} written, {len(refused)} refused")
    if refused:
        raise typer.Exit(1)


def export_rows(
    table: Table,
    prefix: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PARTITION [PREFIX]]", help="The partition, and a prefix of a text sort part."),
    ] = None,
    *,
    index: Annotated[str, typer.Option("--index", help="In the order of this index.")] = "",
    low: Annotated[str | None, typer.Option("--low", help="The lowest next part, included.")] = None,
    high: Annotated[str | None, typer.Option("--high", help="The highest next part, included.")] = None,
    number: Numeric = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print all rows, or those of a query, one JSON object a line."""
    session, cursor = Session(store, env), None
    asked = {
        "prefix": prefix or [],
        "index": index,
        "low": None if low is None else part(low, numeric=number),
        "high": None if high is None else part(high, numeric=number),
    }
    while True:
        page = session.call("table-query", table=table, **asked, limit=_PAGE, cursor=cursor)
        for row in page["items"]:
            print(json.dumps(row, separators=(",", ":")))
        cursor = page["cursor"]
        if cursor is None:
            return


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _slices(lines: Iterable[bytes], refused: list[dict[str, Any]]) -> Iterator[Slice]:
    """The rows in slices that one call takes; lines that are no rows are added to `refused`."""
    import msgspec

    some: Slice = []
    size = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            some.append((number, msgspec.json.decode(line, type=dict[str, Any])))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            refused.append({"line": number, "detail": str(error)})
            continue
        size += len(line)
        if len(some) == _ROWS or size > _SIZE:
            yield some
            some, size = [], 0
    if some:
        yield some

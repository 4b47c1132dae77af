"""What commands print: data on standard output, everything else on standard error.

On a terminal tables are dressed by rich; elsewhere, and with NO_COLOR, lines are plain. Texts that came from
messages are shown with their control characters escaped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(data: Any) -> None:
    """One line of JSON."""
    print(json.dumps(data, ensure_ascii=False, separators=(",", ":")), flush=True)


def print_pretty(data: Any) -> None:
    """JSON for reading."""
    print(safe_json(data, indent=2))


def safe_json(data: Any, indent: int | None = None) -> str:
    """JSON in which control characters cannot reach the terminal."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=separators)
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def shown(value: object) -> str:
    """A cell's text: nothing for None, structures as JSON, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return safe_json(value) if value else ""
    text = ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def short(text: str, width: int = 80) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def note(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def dressed() -> bool:
    """Whether standard output is a terminal that may be sent colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table; without rows only its title says so."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if not cells:
        if title:
            print(f"{title}: none")
        return
    if not dressed():
        _print_plain(headers, cells, title)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _print_plain(headers: Sequence[str], cells: list[list[str]], title: str) -> None:
    if title:
        print(f"{title}:")
    widths = [max(len(line[n]) for line in (list(headers), *cells)) for n in range(len(headers))]
    for line in (list(headers), *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_removed(resource: str, removed: int, what: str, *, as_json: bool) -> None:
    """How much was removed from a resource."""
    if as_json:
        print_json({"removed": removed})
    else:
        print(f"{resource}: {removed} {what} removed")


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    rows = [(name, shown(value)) for name, value in facts]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}".rstrip())

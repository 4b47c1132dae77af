"""The options and arguments that several commands share, and values given on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.exits import UsageError

Store = Annotated[
    str,
    typer.Option(
        "--store", metavar="URL", help="The store: sqlite:DIRECTORY or postgresql://HOST/DATABASE.", show_default=False
    ),
]
Env = Annotated[str, typer.Option("--env", metavar="NAME", help="The section of headwater.toml.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")]
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue, as app/queue.", show_default=False)]
Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic, as app/topic.", show_default=False)]
Table = Annotated[str, typer.Argument(metavar="TABLE", help="A table, as app/table.", show_default=False)]
Value = Annotated[
    str, typer.Argument(metavar="JSON", help="A JSON object; - reads it from standard input, @FILE from a file.")
]
Numeric = Annotated[bool, typer.Option("--number", help="The sort part is a number, not a text.")]


def read_object(text: str, name: str = "JSON") -> dict[str, Any]:
    """The JSON object of a command line's value; `-` is standard input, `@file` a file's content."""
    import msgspec

    source, content = _content(text, name)
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {source} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{name}: {source} is no JSON object")
    return found


def _content(text: str, name: str) -> tuple[str, bytes]:
    if text == "-":
        return "standard input", sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return text[1:], Path(text[1:]).read_bytes()
        except OSError as error:
            raise UsageError(f"{name}: cannot read {text[1:]}: {error.strerror}") from error
    return repr(text), text.encode("utf-8", "surrogateescape")


def part(text: str, *, numeric: bool) -> str | int:
    """A key's part as its type: text, or a whole number."""
    if not numeric:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no whole number") from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal; without one, only --yes goes on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on", "--yes does it without asking")
    if not typer.confirm(question, err=True):
        raise typer.Abort

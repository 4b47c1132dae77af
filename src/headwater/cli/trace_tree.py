"""The tree of `headwater trace`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.cli.output import dressed, note, short, shown

MARKS = {"done": "✓", "waiting": "…", "dead": "✗"}
STYLES = {"done": "green", "waiting": "yellow", "dead": "red"}


def print_trace(answer: dict[str, Any]) -> None:
    lines = [("", f"trace {answer['trace']}, {answer['events']} events", "")]
    for root in answer["roots"]:
        lines.append(("", shown(root["cause"] or "a call outside of any request"), ""))
        lines.extend(_events(root["events"], ""))
    if dressed():
        from rich.console import Console
        from rich.text import Text

        console = Console()
        for indent, text, style in lines:
            console.print(Text.assemble((indent, "dim"), (text, style)))
    else:
        for indent, text, _ in lines:
            print(indent + text)
    if not answer["complete"]:
        note("the trace is longer; only its first events are shown")


def _events(events: list[dict[str, Any]], indent: str) -> Iterator[tuple[str, str, str]]:
    for place, below, event in _placed(events, indent):
        what = " ".join(shown(event[name]) for name in ("source", "type", "subject") if event[name])
        yield place, f"{what}  {event['id']}  {event['time']}", ""
        yield from _messages(event["messages"], below)
        yield from _events(event["edited"], below)


def _messages(messages: list[dict[str, Any]], indent: str) -> Iterator[tuple[str, str, str]]:
    for place, below, message in _placed(messages, indent):
        state = message["state"]
        receives = f", {message['receives']} receives" if message["receives"] else ""
        letter = f", dead letter {message['dead_letter']}" if message["dead_letter"] else ""
        yield place, f"{MARKS[state]} {message['queue']} {state}{receives}{letter}", STYLES[state]
        for failure in message["failures"]:
            yield f"{below}  ", f"receive {failure['receive']}: {short(shown(failure['error']), 160)}", "red"
        yield from _events(message["events"], below)


def _placed(items: list[dict[str, Any]], indent: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each item with the branch that leads to it and the indent of what hangs below it."""
    for n, item in enumerate(items):
        last = n == len(items) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}", item

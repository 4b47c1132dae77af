"""The tree of `headwater trace`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

from headwater.cli.output import dressed, note, short, shown

MARKS = {"done": "✓", "waiting": "…", "dead": "✗"}
STYLES = {"done": "green", "waiting": "yellow", "dead": "red"}
OUTCOMES = {"ok": "", "failed": "red", "conflict": "yellow", "discarded": "yellow"}
Json: TypeAlias = dict[str, Any]
Lines: TypeAlias = Iterator[tuple[str, str, str]]


def print_trace(answer: Json) -> None:
    tree = _Tree(answer["spans"])
    lines = list(tree.lines(answer))
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


class _Tree:
    """Events hang below the request or message that made them; spans below what they time, and calls below them."""

    def __init__(self, spans: list[Json]) -> None:
        known = {span["id"] for span in spans}
        self._of: dict[str, list[Json]] = defaultdict(list)
        self._below: dict[str, list[Json]] = defaultdict(list)
        for span in spans:
            below = span["kind"] in ("step", "call") and span["parent"] in known
            (self._below[span["parent"]] if below else self._of[span["of"]]).append(span)

    def lines(self, answer: Json) -> Lines:
        spans = f", {len(answer['spans'])} spans" if answer["spans"] else ""
        yield "", f"trace {answer['trace']}, {answer['events']} events{spans}", ""
        for root in answer["roots"]:
            yield "", shown(root["cause"] or "a call outside of any request"), ""
            yield from self._spans(self._of.pop(root["cause"] or "", []), "  ")
            yield from self._events(root["events"], "")
        for left in list(self._of.values()):  # of what made no events, or is not in the history any more
            yield from self._spans(left, "")

    def _events(self, events: list[Json], indent: str) -> Lines:
        for place, below, event in _placed(events, indent):
            what = " ".join(shown(event[name]) for name in ("source", "type", "subject") if event[name])
            yield place, f"{what}  {event['id']}  {event['time']}", ""
            yield from self._messages(event, below)
            yield from self._events(event["edited"], below)

    def _messages(self, event: Json, indent: str) -> Lines:
        for place, below, message in _placed(event["messages"], indent):
            state = message["state"]
            receives = f", {message['receives']} receives" if message["receives"] else ""
            letter = f", dead letter {message['dead_letter']}" if message["dead_letter"] else ""
            yield place, f"{MARKS[state]} {message['queue']} {state}{receives}{letter}", STYLES[state]
            for failure in message["failures"]:
                yield f"{below}  ", f"receive {failure['receive']}: {short(shown(failure['error']), 160)}", "red"
            yield from self._spans(self._of.pop(f"{event['id']}/{message['queue']}", []), f"{below}  ")
            yield from self._events(message["events"], below)

    def _spans(self, spans: list[Json], indent: str) -> Lines:
        for span in spans:
            yield indent, _told(span), OUTCOMES[span["outcome"]]
            yield from self._spans(self._below.pop(span["id"], []), f"{indent}  ")


def _told(span: Json) -> str:
    receive = f" receive {span['attempt']}" if span["attempt"] else ""
    status = f" {span['status']}" if span["status"] else ""
    outcome = "" if span["outcome"] == "ok" else f", {span['outcome']}"
    error = f": {short(shown(span['error']), 160)}" if span["error"] and span["kind"] != "attempt" else ""
    return f"{span['kind']} {shown(span['name'])}{receive}{status}  {span['duration_ms']:g} ms{outcome}{error}"


def _placed(items: list[Json], indent: str) -> Iterator[tuple[str, str, Json]]:
    """Each item with the branch that leads to it and the indent of what hangs below it."""
    for n, item in enumerate(items):
        last = n == len(items) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}", item

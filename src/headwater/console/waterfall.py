"""A trace as a waterfall: rows with segments on an axis from 0 to 100. Pure.

An event is a moment; a message waits from its event on until its handler runs, perhaps again and again; a span is what
was timed. Times in which nothing ran are cut out of the axis when they are long: a queue's delay of an hour must not
make an attempt of a millisecond invisible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

Json = Mapping[str, Any]
_GAP_SHARE, _GAPS_SHARE = 5.0, 40.0
"""How much of the axis a cut takes, and all cuts together at the most."""
_SHORTEST = 0.6
MAX_DEPTH = 12


class Segment(NamedTuple):
    """From `start` to `end` in milliseconds since the trace began; `kind` is waiting, ok, failed, conflict, discarded
    or moment."""

    start: float
    end: float
    kind: str


class Row(NamedTuple):
    """One line. `what` is request, commit, event, message, or the kind of a span; `item` has what there is to tell."""

    id: str
    what: str
    label: str
    state: str
    depth: int
    segments: list[Segment]
    item: Json

    @property
    def start(self) -> float:
        return self.segments[0].start if self.segments else 0.0

    @property
    def took(self) -> float:
        return max((segment.end for segment in self.segments), default=0.0) - self.start


class Mark(NamedTuple):
    """A place on the axis with its time; `skipped` is how much was cut out before it."""

    x: float
    ms: float
    skipped: float = 0.0


class Bar(NamedTuple):
    x: float
    width: float
    kind: str


class Axis(NamedTuple):
    """Pieces (start, end, x, width) of the time in which something ran, in order."""

    pieces: list[tuple[float, float, float, float]]

    def x(self, ms: float) -> float:
        for start, end, x, width in self.pieces:
            if ms < start:
                return x
            if ms <= end:
                return x + (width * (ms - start) / (end - start) if end > start else 0)
        _, _, x, width = self.pieces[-1]
        return x + width

    def bar(self, segment: Segment) -> Bar:
        x = self.x(segment.start)
        return Bar(round(min(x, 100 - _SHORTEST), 2), round(max(self.x(segment.end) - x, _SHORTEST), 2), segment.kind)

    def marks(self) -> list[Mark]:
        """The beginnings of pieces that have room for their time."""
        found: list[Mark] = []
        before = 0.0
        for start, end, x, _ in self.pieces:
            if not found or x - found[-1].x > 8 * _SHORTEST:
                found.append(Mark(round(x, 2), start, start - before if found else 0.0))
            before = end
        return found


def rows_of(answer: Json) -> list[Row]:
    """The rows of what the operation `trace` answers."""
    return list(_Rows(answer).all())


def axis_of(rows: Iterable[Row]) -> Axis:
    """The axis that shows all rows: long times in which nothing ran are cut to a fixed width."""
    ran = sorted((s.start, s.end) for row in rows for s in row.segments if s.kind != "waiting") or [(0.0, 1.0)]
    pieces = [list(ran[0])]
    longest = max(sum(end - start for start, end in ran) * 0.5, 50.0)
    for start, end in ran[1:]:
        if start - pieces[-1][1] > longest:
            pieces.append([start, end])
        else:
            pieces[-1][1] = max(pieces[-1][1], end)
    cut = min(_GAP_SHARE, _GAPS_SHARE / len(pieces)) if len(pieces) > 1 else 0.0
    total = sum(max(end - start, 1.0) for start, end in pieces)
    room = 100 - cut * (len(pieces) - 1)
    placed, x = [], 0.0
    for start, end in pieces:
        width = room * max(end - start, 1.0) / total
        placed.append((start, end, x, width))
        x += width + cut
    return Axis(placed)


class _Rows:
    def __init__(self, answer: Json) -> None:
        self._roots = answer["roots"]
        spans = answer["spans"]
        known = {span["id"] for span in spans}
        causes = {root["cause"] for root in self._roots}
        self._of: dict[str, list[Json]] = defaultdict(list)
        self._below: dict[str, list[Json]] = defaultdict(list)
        for span in spans:
            called = span["kind"] == "request" and span["of"] not in causes  # a request of one of the trace's calls
            inside = (called or span["kind"] in ("step", "call")) and span["parent"] in known
            (self._below[span["parent"]] if inside else self._of[span["of"]]).append(span)
        times = [ms_of(event["time"]) for root in self._roots for event in root["events"]]
        self._begin = min([*times, *(ms_of(span["start"]) for span in spans)], default=0.0)

    def all(self) -> Iterator[Row]:
        for number, root in enumerate(self._roots):
            cause = root["cause"] or ""
            spans = self._of.pop(cause, [])
            requests = [span for span in spans if span["kind"] == "request"]
            yield Row(
                f"root-{number}",
                "request" if cause else "commit",
                cause or "a call outside of any request",
                _worst(span["outcome"] for span in requests),
                0,
                [self._timed(span) for span in requests],
                root,
            )
            for span in spans:
                yield from self._span(span, 1) if span not in requests else self._inside(span, 1)
            for event in root["events"]:
                yield from self._event(event, 1)
        for left in list(self._of.values()):  # of what made no events, or is not in the history any more
            for span in left:
                yield from self._span(span, 0)

    def _event(self, event: Json, depth: int) -> Iterator[Row]:
        at = ms_of(event["time"]) - self._begin
        label = " ".join(str(event[name]) for name in ("source", "type", "subject") if event[name])
        yield Row(f"e-{event['id']}", "event", label, "", depth, [Segment(at, at, "moment")], event)
        for message in event["messages"]:
            yield from self._message(event, message, at, depth + 1)
        for edited in event["edited"]:
            yield from self._event(edited, depth + 1)

    def _message(self, event: Json, message: Json, sent: float, depth: int) -> Iterator[Row]:
        id = f"{event['id']}/{message['queue']}"
        spans = self._of.pop(id, [])
        attempts = [self._timed(span) for span in spans if span["kind"] == "attempt"]
        timed = {span["attempt"] for span in spans}
        for failure in message["failures"]:
            if failure["receive"] not in timed and failure["started_ms"]:
                start, end = failure["started_ms"] - self._begin, failure["ended_ms"] - self._begin
                attempts.append(Segment(start, end, "failed"))
        made = [ms_of(child["time"]) - self._begin for child in message["events"]]
        if made and not attempts:
            attempts.append(Segment(min(made), max(made), "ok"))
        attempts.sort()
        segments = (
            [Segment(sent, attempts[0].start, "waiting"), *attempts] if attempts else [Segment(sent, sent, "moment")]
        )
        yield Row(f"m-{id}", "message", message["queue"], message["state"], depth, segments, message)
        for span in spans:
            yield from self._span(span, depth + 1)
        for child in message["events"]:
            yield from self._event(child, depth + 1)

    def _span(self, span: Json, depth: int) -> Iterator[Row]:
        yield Row(f"s-{span['id']}", span["kind"], span["name"], span["outcome"], depth, [self._timed(span)], span)
        yield from self._inside(span, depth + 1)

    def _inside(self, span: Json, depth: int) -> Iterator[Row]:
        for inner in self._below.pop(span["id"], []):
            yield from self._span(inner, depth)

    def _timed(self, span: Json) -> Segment:
        start = ms_of(span["start"]) - self._begin
        return Segment(start, start + span["duration_ms"], span["outcome"])


def _worst(outcomes: Iterable[str]) -> str:
    found = set(outcomes)
    return next((outcome for outcome in ("failed", "conflict", "discarded", "ok") if outcome in found), "")


def ms_of(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() * 1000

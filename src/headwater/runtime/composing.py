"""What a mail says: an event in words, as plain text and HTML. Pure; data is shown, never followed.

Texts come from anyone who can cause an event. So control characters are taken out, lengths are bounded, HTML is
escaped by the template, and a subject takes fields of the data by name only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from headwater.clock import from_ms
from headwater.codec import decode_json
from headwater.events import Envelope
from headwater.mail import Folded, Item

if TYPE_CHECKING:
    import jinja2

MAX_SUBJECT, MAX_LINE, MAX_TEXT, MAX_BLOCK = 200, 300, 2_000, 20_000
LISTED = 200
"""How many events of a digest are listed."""
_TAGS = {"ok": "OK", "alarm": "ALARM"}
_TOLD = frozenset(("name", "resource", "state", "detail"))
_field = re.compile(r"\{(\w+)\}")
Facts = Sequence[tuple[str, str]]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a person reads it. `about` is what alike events have in common; `alarm` is an alarm's name.

    `recovery`: an alarm has ended. `news` is False for an alarm's first look at its metric that found nothing wrong.
    """

    about: str
    headline: str
    detail: str
    facts: Facts
    blocks: Facts
    origin: Facts
    alarm: str = ""
    resource: str = ""
    recovery: bool = False
    news: bool = True


class Content(msgspec.Struct, frozen=True):
    """The parts of a mail."""

    subject: str
    text: str
    html: str


def notice_of(event: Envelope, subject: str = "") -> Notice:
    """The event in words; `subject` replaces its headline, "{field}" in it stands for a field of the data."""
    new, old = _decoded(event.data), _decoded(event.old)
    data = new if isinstance(new, dict) else old if isinstance(old, dict) else {}
    origin = [("Event", f"{event.type} of {event.source}"), ("Time", _time(event.time_ms))]
    if event.subject:
        origin.append(("Subject", one_line(event.subject, MAX_LINE)))
    origin += [("Event id", event.id), ("Trace", one_line(event.trace, MAX_LINE))]
    if _is_alarm(data):
        return _alarm_notice(data, subject, origin)
    headline = _filled(subject, data) if subject else f"{event.source}: {event.type} {event.subject}"
    names = ("Old", "New") if event.key is not None else ("Before", "Data")
    return Notice(
        about=f"{event.source} {event.type}",
        headline=one_line(headline, MAX_SUBJECT),
        detail="",
        facts=(),
        blocks=[(name, _block(value)) for name, value in zip(names, (old, new), strict=True) if value is not None],
        origin=origin,
    )


def item_of(event: Envelope, notice: Notice) -> Item:
    """The event as one line of a digest."""
    told = notice.detail or (notice.blocks[-1][1] if notice.blocks else "")
    line = f"{_time(event.time_ms)} {notice.headline}: {told}"
    return Item(
        time_ms=event.time_ms,
        headline=notice.headline,
        line=one_line(line, MAX_LINE),
        event=event.id,
        trace=one_line(event.trace, MAX_LINE),
    )


def content_of(notice: Notice) -> Content:
    """The mail of one event."""
    return _render(
        notice.headline, detail=notice.detail, facts=notice.facts, blocks=notice.blocks, origin=notice.origin
    )


def digest_of(folded: Folded) -> Content:
    """The mail of what a window has collected, in the order of time."""
    items = sorted(folded.items, key=_when)[:LISTED]
    last = sorted((*folded.items, folded.last), key=_when)[-1]
    traces = list(dict.fromkeys(item.trace for item in items))
    return _render(
        one_line(f"{folded.count} more: {last.headline}", MAX_SUBJECT),
        items=items,
        more=folded.count - len(items),
        origin=[("Last", _time(last.time_ms)), *(("Trace", trace) for trace in traces)],
    )


def one_line(text: str, longest: int) -> str:
    """The text without line breaks and control characters, cut to a length."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


def _lines(text: str, longest: int) -> str:
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


def _render(headline: str, **parts: Any) -> Content:
    shown = {"headline": headline, "detail": "", "facts": (), "items": (), "blocks": (), **parts}
    text, html = (_template(name).render(shown) for name in ("mail.txt.jinja", "mail.html.jinja"))
    return Content(headline, text, html)


@cache
def _template(name: str) -> jinja2.Template:
    import jinja2

    loader = jinja2.PackageLoader("headwater.runtime", "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=lambda given: given is not None and ".html" in given,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def _is_alarm(data: Mapping[str, Any]) -> bool:
    return all(isinstance(data.get(name), str) for name in _TOLD)


def _alarm_notice(data: Mapping[str, Any], subject: str, origin: Facts) -> Notice:
    state, resource, name = data["state"], data["resource"], data["name"]
    headline = _filled(subject, data) if subject else f"{resource}: {name}"
    scalars = [(key, value) for key, value in data.items() if key not in _TOLD and value not in (None, "", [], {})]
    return Notice(
        about=f"alarm {name} {resource}",
        headline=one_line(f"[{_TAGS.get(state, state.upper())}] {headline}", MAX_SUBJECT),
        detail=_lines(data["detail"], MAX_TEXT),
        facts=[(one_line(key, 60), one_line(_shown(value), MAX_LINE)) for key, value in scalars],
        blocks=(),
        origin=origin,
        alarm=name,
        resource=resource,
        recovery=state == "ok",
        news=state != "insufficient" and (state, data.get("previous")) != ("ok", "insufficient"),
    )


def _filled(subject: str, data: Mapping[str, Any]) -> str:
    """The fields by name alone: no attributes, no indexes, no conversions; a missing one stays as it is written."""
    return _field.sub(lambda found: _shown(data[found[1]]) if found[1] in data else found[0], subject)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _block(value: Any) -> str:
    return _lines(json.dumps(value, ensure_ascii=False, indent=2), MAX_BLOCK)


def _decoded(body: bytes | None) -> Any:
    return None if body is None else decode_json(body)


def _when(item: Item) -> int:
    return item.time_ms


def _time(ms: int) -> str:
    return from_ms(ms).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")

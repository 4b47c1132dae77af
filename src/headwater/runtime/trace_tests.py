"""From a recorded trace to a test of `headwater.testing.Harness`: text, and nothing is run.

What began the trace (its roots) is done again: rows are put and deleted, messages sent and published. Then time
passes as it did, and the events that came of it, and the dead letters, have to be the recorded ones. Values that are
random in each run are told by their events' subjects: those that the roots don't name stand as "*".
"""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from pydantic import SecretStr

from headwater.app import App
from headwater.catalog import Catalog, RouteSpec
from headwater.codec import decode_json
from headwater.engine import TracedEvent
from headwater.errors import InvalidValue
from headwater.events import INSERTED, REMOVED, Envelope
from headwater.runtime.admin_base import time_of
from headwater.runtime.python_text import literal
from headwater.system import NAME

_SETTLED_S = 60
"""How long before the roots are what they found: what comes of that is not to mix with what comes of them."""
Apps = Sequence[App[Any]]


def write_test(events: Sequence[TracedEvent], apps: Apps, catalog: Catalog) -> str:
    """The module's text. The catalog is the store's: subscriptions made at run time are made again.

    Raises `InvalidValue` when the apps don't run here, or when nothing that began the trace can be done again.
    """
    first = events[0].event
    known = {traced.event.id for traced in events}
    edits = {traced.event.id for traced in events if traced.event.cause in known}
    events = [traced for traced in events if traced.event.id not in edits]
    roots = [traced.event for traced in events if (traced.event.cause or "").partition("/")[0] not in known]
    involved = _involved(events, apps)
    acts = [(root, act) for root in roots if (act := _act(root, involved)) is not None]
    if not acts:
        raise _untestable(first)
    test = _Test(events, [root for root, _ in acts], involved)
    return test.text({root.id: act for root, act in acts}, catalog)


def _untestable(first: Envelope) -> InvalidValue:
    if first.source.startswith(f"{NAME}/"):
        return InvalidValue(
            "the trace began with the server's own work, which no test does again",
            operation="trace-test",
            resource=first.source,
            hint="take a trace that begins with a row, an object, a message or a tick of an app",
        )
    return InvalidValue(
        "nothing of what began the trace can be done again by a test",
        operation="trace-test",
        resource=first.trace,
        hint="a server of its apps must run, and the trace must begin with a row, an object, a message or a tick",
    )


def _involved(events: Sequence[TracedEvent], apps: Apps) -> list[App[Any]]:
    """The apps of the trace's events and queues, and those that they call or listen to."""
    by_name = {app.name: app for app in apps if _place(app) is not None}
    names = {source.partition("/")[0] for traced in events for source in (traced.event.source, *traced.messages)}
    found: dict[str, App[Any]] = {}
    while names:
        app = by_name.get(names.pop())
        if app is not None and app.name not in found:
            found[app.name] = app
            names |= set(app.services) | {route.source.partition("/")[0] for route in app.routes}
    return [app for app in apps if app.name in found]


def _place(app: App[Any]) -> tuple[str, str] | None:
    """The module and the name that an app can be imported by."""
    found = [
        (name, attribute)
        for name, module in list(sys.modules.items())
        if name != "__main__" and not name.startswith("headwater")
        for attribute, value in list(getattr(module, "__dict__", {}).items())
        if value is app
    ]
    return min(found, key=lambda place: (place[1] != "app", len(place[0]))) if found else None


def _act(event: Envelope, apps: Apps) -> list[str] | None:
    """The lines that make the event happen again; None when a test can't."""
    app = next((app for app in apps if app.name == event.source.partition("/")[0]), None)
    if app is None:
        return None
    data = decode_json(event.data if event.data is not None else event.old or b"null")
    if event.source in app.buckets:
        return _object_act(app, event, data)
    if event.source in app.tables:
        rows = f"{_variable(app)}.tables[{literal(event.source)}]"
        if event.type == REMOVED:
            return [f"await {rows}.delete({', '.join(literal(part) for part in event.key or () if part != '')})"]
        return _typed(f"await {rows}.put", rows, data)
    if event.source in app.topics:
        topic = f"{_variable(app)}.topics[{literal(event.source)}]"
        attributes = f", attributes={literal(event.attributes)}" if event.attributes else ""
        return _typed(f"await {topic}.publish", topic, data, attributes)
    if event.source in app.queues:
        queue = f"{_variable(app)}.queues[{literal(event.source)}]"
        group = f", group={literal(event.subject or 'a')}" if app.queues[event.source].spec.fifo else ""
        return _typed(f"await {queue}.send", queue, data, group)
    if event.source in app.schedules:
        return [
            f"await {_variable(app)}.schedules[{literal(event.source)}].run({literal(data.get('parameters') or {})})"
        ]
    return None


def _object_act(app: App[Any], event: Envelope, data: dict[str, Any]) -> list[str]:
    bucket = f"{_variable(app)}.buckets[{literal(event.source)}]"
    if event.type == REMOVED:
        return [f"await {bucket}.delete({literal(data['key'])})"]
    key, kind = literal(data["key"]), literal(data["content_type"])
    return [
        "# the history has no bytes: these are as many",
        f"await {bucket}.put({key}, bytes({int(data['size'])}), content_type={kind})",
    ]


def _typed(call: str, resource: str, data: Any, more: str = "") -> list[str]:
    return f"{call}(typed({resource}, {literal(data)}){more})".split("\n")


def _variable(app: App[Any]) -> str:
    return app.name.replace("-", "_")


class _Test:
    """The parts of the module."""

    def __init__(self, events: Sequence[TracedEvent], roots: Sequence[Envelope], apps: Apps) -> None:
        self._events = events
        self._roots = roots
        self._apps = apps
        self._begin_ms = roots[0].time_ms
        self._settled_s = 0

    def text(self, acts: dict[str, list[str]], catalog: Catalog) -> str:
        delays_ms = self._delays_ms(catalog)
        if any(root.old is not None for root in self._roots):
            self._settled_s = _SETTLED_S + math.ceil(delays_ms / 1000)
        play = self._play(acts, delays_ms)
        body = [*self._subscriptions(catalog.routes), *self._before(), *play, *self._expectations()]
        name = self._roots[0].trace[:16]
        options = "".join(f", {option}" for option in self._options())
        module = [
            f'"""What came of {self._roots[0].source} on {time_of(self._begin_ms)} (trace {self._roots[0].trace})."""',
            "",
            "import json",
            "from typing import Any",
            "",
            *(f"from {place[0]} import {place[1]} as {_variable(app)}" for app in self._apps if (place := _place(app))),
            "from headwater.testing import Harness",
            "",
            *self._constants(),
            "",
            "",
            *_HELPERS,
            *self._services(),
            "",
            "",
            f"async def test_trace_{''.join(c for c in name if c.isalnum())}() -> None:",
            f"    async with Harness({', '.join(map(_variable, self._apps))}{options}) as h:",
            *(f"        {line}" if line else "" for line in body),
        ]
        text = "\n".join(module) + "\n"
        ast.parse(text)
        return text

    def _options(self) -> Iterator[str]:
        yield f"start={literal(time_of(self._begin_ms - self._settled_s * 1000))}"
        if settings := {app.name: values for app in self._apps if (values := _settings(app))}:
            yield f"settings={literal(settings)}"
        if self._foreign():
            yield f"services={{{', '.join(f'{literal(name)}: elsewhere' for name in self._foreign())}}}"

    def _foreign(self) -> list[str]:
        served = {app.name for app in self._apps}
        return sorted({name for app in self._apps for name in app.services if name not in served})

    def _services(self) -> list[str]:
        return ["", "", *_ELSEWHERE] if self._foreign() else []

    def _constants(self) -> Iterator[str]:
        known = sorted({root.subject for root in self._roots} | {""})
        events = [
            (event.source, event.type, event.subject if event.subject in known else "*")
            for event in (traced.event for traced in self._events)
        ]
        dead = sorted(queue for traced in self._events for queue, state in traced.messages.items() if state == "dead")
        yield f"KNOWN = {literal(known)}"
        yield f"EVENTS = {literal(events)}"
        yield f"DEAD: list[str] = {literal(dead)}"

    def _subscriptions(self, routes: Iterable[RouteSpec]) -> Iterator[str]:
        queues = {queue for traced in self._events for queue in traced.messages}
        for route in routes:
            app = next((app for app in self._apps if route.source in app.topics), None)
            if route.id and route.target in queues and app is not None:
                match = f", match={literal(route.match)}" if route.match else ""
                group = f", group={literal(route.group)}" if route.group else ""
                topic = f"{_variable(app)}.topics[{literal(route.source)}]"
                yield f"await {topic}.subscribe({literal(route.target)}{match}{group})"

    def _before(self) -> Iterator[str]:
        """Rows that the roots found; others that the handlers read are not in the trace."""
        lines: list[str] = []
        for root in self._roots:
            app = next(app for app in self._apps if app.name == root.source.partition("/")[0])
            if root.old is None:
                continue
            old = decode_json(root.old)
            if root.source in app.buckets:
                lines += _object_act(app, msgspec.structs.replace(root, type=INSERTED), old)
            else:
                rows = f"{_variable(app)}.tables[{literal(root.source)}]"
                lines += _typed(f"await {rows}.put", rows, old)
        yield "# what was there before: put here what else the handlers read"
        yield from lines
        yield f"await h.advance(seconds={self._settled_s})" if lines else "await h.run_until_idle()"
        yield ""

    def _play(self, acts: dict[str, list[str]], delays_ms: int) -> Iterator[str]:
        yield "traces = set()"
        causes = dict.fromkeys((root.cause, root.time_ms if root.cause is None else 0) for root in self._roots)
        passed_ms = self._begin_ms
        for cause, at_ms in causes:
            roots = [r for r in self._roots if r.cause == cause and (r.cause is not None or r.time_ms == at_ms)]
            if roots[0].time_ms > passed_ms:
                yield f"await h.advance(seconds={(roots[0].time_ms - passed_ms) / 1000})"
                passed_ms = roots[0].time_ms
            yield f"async with {roots[0].source.partition('/')[0].replace('-', '_')}.transaction():"
            for root in roots:
                yield from (f"    {line}" for line in acts[root.id])
            yield "traces.add(await newest_trace(h))"
        yield "await h.run_until_idle()"
        yield f"await h.advance(seconds={math.ceil((self._lasted_ms(passed_ms) + delays_ms) / 1000)})"
        yield ""

    def _delays_ms(self, catalog: Catalog) -> int:
        """How long messages wait before they are delivered: the last ones may have left no event."""
        queues = {queue for traced in self._events for queue in traced.messages}
        by_route = [route.delay_ms or 0 for route in catalog.routes if route.target in queues]
        return sum(catalog.queues[queue].delay_ms for queue in queues if queue in catalog.queues) + sum(by_route)

    def _lasted_ms(self, since_ms: int) -> int:
        """As long as it took; with retries, whose pauses are random, longer."""
        ends = [traced.event.time_ms for traced in self._events]
        failures = [failure for traced in self._events for note in traced.notes.values() for failure in note.failures]
        ends += [int(failure.get("ended_ms") or 0) for failure in failures]
        lasted = max(ends) - since_ms
        return lasted * 3 + 60_000 if failures else lasted + 1_000

    def _expectations(self) -> Iterator[str]:
        yield 'rows = await h.sql("SELECT trace, source, type, subject FROM events")'
        yield 'found = [(s, t, k if k in KNOWN else "*") for trace, s, t, k in rows if trace in traces]'
        yield "assert sorted(found) == sorted(EVENTS)"
        yield "dead = sorted(d.queue for d in await h.dead_letters() if d.event.trace in traces)"
        yield "assert dead == DEAD"


def _settings(app: App[Any]) -> dict[str, Any]:
    """What the app can't start without; secrets are none."""
    settings = app.settings
    fields = getattr(type(settings), "model_fields", {})
    required = {name: getattr(settings, name) for name, field in fields.items() if field.is_required()}
    return {
        name: "secret" if isinstance(value, SecretStr) else value
        for name, value in required.items()
        if isinstance(value, str | int | float | bool | SecretStr)
    }


_HELPERS = '''def typed(resource: Any, data: Any) -> Any:
    """The data as the resource's model."""
    return resource.codec.decode(json.dumps(data).encode())


async def newest_trace(h: Harness) -> str:
    ((trace,),) = await h.sql("SELECT trace FROM events ORDER BY position DESC LIMIT 1")
    return str(trace)'''.splitlines()
_ELSEWHERE = '''async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """A service that is no app: the trace doesn't have its answers, so give those that the handlers need."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})'''.splitlines()

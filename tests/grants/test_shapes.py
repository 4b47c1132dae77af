"""The grants that each shape of code is found to need, and that what runs is among them."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headwater import Change, Event, Inserted, Modified, Removed
from headwater.app import App
from headwater.errors import NotGranted
from headwater.grants.analysis import Analysis
from headwater.grants.atoms import Arguments, live
from headwater.permits import Grant, Permit, acting, uses_of, verbs_of
from headwater.testing import Harness
from tests.grants import more_shapes, shapes
from tests.grants.shapes import SHAPES, Note, Row

PACKAGES = frozenset({"tests"})


def grants_of(fn: Callable[..., Any]) -> list[Grant]:
    return Analysis(PACKAGES).run(lambda analysis: analysis.call(live(fn), Arguments(), ""))


def slots(told: set[str]) -> set[tuple[str, str]]:
    """(resource, verb) of each, `*` being all verbs."""
    found: set[tuple[str, str]] = set()
    for text in told:
        name, verb = text.split()
        resource = getattr(shapes, name, None)
        full = resource.name if resource is not None else name
        verbs = verbs_of(resource.kind) if resource is not None and verb == "*" else (verb,)
        found |= {(full, one) for one in verbs}
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_needs_exactly_its_grants(name: str) -> None:
    fn, told = SHAPES[name]
    found = grants_of(fn)
    assert {(grant.resource, grant.verb) for grant in found} == slots(told)
    assert {grant.resource for grant in found if grant.escapes} <= {
        full for full, _ in slots({text for text in told if text.endswith("*")})
    }


def test_there_are_shapes_enough() -> None:
    assert len(SHAPES) >= 40


async def test_what_runs_is_granted() -> None:
    """Each shape runs on a store, with what was found for it."""
    async with Harness(shapes.app, shapes.elsewhere):
        for name, (fn, _) in SHAPES.items():
            await shapes.rows.put(Row())
            await shapes.notes.put(Note())
            await run_permitted(name, fn, grants_of(fn))


async def run_permitted(name: str, fn: Callable[..., Awaitable[Any]], grants: list[Grant]) -> None:
    token = acting.set(Permit(name, lambda: grants))
    try:
        await fn()
    finally:
        acting.reset(token)


NEEDED = [name for name, (fn, told) in SHAPES.items() if told]


async def test_without_any_one_of_its_grants_no_shape_of_one_path_runs() -> None:
    """Shapes that reach all that they name: each grant that is taken away is missed."""
    straight = {
        "a_call",
        "a_function",
        "messages",
        "a_partial",
        "a_closure_made_at_import",
        "a_method_of_the_base_class",
    }
    async with Harness(shapes.app, shapes.elsewhere):
        await shapes.rows.put(Row())
        await shapes.notes.put(Note())
        for name in sorted(straight):
            fn = SHAPES[name][0]
            grants = grants_of(fn)
            for missing in grants:
                with pytest.raises(NotGranted, match=f"{missing.verb} {missing.resource}: .* {name} "):
                    await run_permitted(name, fn, [grant for grant in grants if grant is not missing])


def test_each_grant_names_the_line_that_needs_it() -> None:
    lines = {grant.at for grant in grants_of(shapes.a_function)}
    code = shapes.read_row.__code__
    assert lines == {f"tests/grants/shapes.py:{code.co_firstlineno + 1}"}


def test_what_escapes_is_marked_with_the_line() -> None:
    found = grants_of(more_shapes.passed_to_other_code)
    line = more_shapes.passed_to_other_code.__code__.co_firstlineno + 2
    assert {grant.at for grant in found} == {f"tests/grants/more_shapes.py:{line}"}
    assert all(grant.escapes for grant in found)


def test_a_use_that_was_seen_comes_before_an_escape() -> None:
    async def both() -> None:
        print(operator.methodcaller("get")(shapes.rows))
        await shapes.rows.put(Row())

    marked = {grant.verb: grant.escapes for grant in grants_of(both)}
    assert marked["put"] is False
    assert marked["get"] is True


def test_functions_without_source_escape_what_they_name() -> None:
    names: dict[str, Any] = {"rows": shapes.rows, "notes": shapes.notes, "__name__": "tests.made"}
    exec("async def made():\n    await rows.get('1')", names)
    found = grants_of(names["made"])
    assert {grant.resource for grant in found} == {"shapes/rows"}
    assert all(grant.escapes for grant in found)
    assert found[0].at == "tests/<string>:1" or found[0].at == "<string>:1"


def test_code_of_others_is_not_read() -> None:
    """Only the app's own packages are: the same function, as another's, has no grants."""
    assert Analysis(frozenset({"apps"})).run(lambda a: a.call(live(shapes.read_row), Arguments(), "")) == []


def test_endless_code_ends() -> None:
    def grow(value: Any) -> Any:
        return grow(lambda: grow([value]))

    def spread(*values: Any) -> Any:
        return spread(values, *values, lambda: spread(values))

    def give(value: Any) -> Any:
        return [give(lambda: value), {"a": give([value])}]

    begun = time.process_time()
    assert grants_of(grow) == grants_of(spread) == grants_of(give) == []
    assert time.process_time() - begun < 10


def deeper(depth: int) -> Callable[[], Any]:
    """A chain of calls as deep as this, with a table at its end that comes all the way back."""

    def last() -> Any:
        return shapes.rows

    found = last
    for _ in range(depth):
        found = _one_more(found)
    return found


def _one_more(fn: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with contextlib.suppress(KeyError):
            for _ in range(1):
                return [fn()][0]
        return None

    return call


@pytest.mark.parametrize("depth", [5, 30, 100])
def test_calls_may_be_deep(depth: int) -> None:
    chain = deeper(depth)

    async def at_the_end() -> None:
        await chain().get("1")

    assert [grant.verb for grant in grants_of(at_the_end)] == ["get"]


async def of_event(event: Event[Row]) -> None:
    await event.data.save()


async def of_batch(events: list[Event[Row]]) -> None:
    for event in events:
        await event.data.save()


async def of_change(change: Change[Row]) -> None:
    match change:
        case Inserted():
            pass
        case Modified(new=row):
            await row.save()
        case Removed(old=row):
            await row.save()


@pytest.mark.parametrize("fn", [of_event, of_batch, of_change])
def test_what_an_event_brings_is_known_by_its_type(fn: Callable[..., Any]) -> None:
    assert [(grant.resource, grant.verb) for grant in grants_of(fn)] == [("shapes/rows", "put")]


def test_a_function_keeps_what_uses_says() -> None:
    assert uses_of(more_shapes.said_by_hand) == shapes.notes.can("get")
    assert uses_of(shapes.a_call) is None


async def test_what_a_test_or_a_script_does_is_not_checked() -> None:
    async with Harness(App("plain"), shapes.app, shapes.elsewhere):
        assert acting.get() is None
        await shapes.rows.put(Row())
        await asyncio.create_task(shapes.rows.delete("1"))

"""Declarations: what is refused at once, and that the message names the place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from headwater import App, DeclarationError, Event


class Row(BaseModel):
    id: str
    n: int = 0


async def handler(event: Any) -> None:
    """A handler."""


def test_names_are_checked() -> None:
    for name in ("", "Shop", "1shop", "a/b", "a b", "x" * 64):
        with pytest.raises(DeclarationError, match="name"):
            App(name)
        with pytest.raises(DeclarationError, match="name"):
            App("shop").queue(name)


def test_a_name_is_taken_once() -> None:
    app = App("shop")
    app.table("rows", Row, key="id")
    app.on(app.topic("news"), name="jobs")(handler)
    for declare in (
        lambda: app.queue("rows"),
        lambda: app.topic("rows"),
        lambda: app.table("jobs", Row, key="id"),
        lambda: app.on(app.topic("more"), name="rows")(handler),
    ):
        with pytest.raises(DeclarationError, match="taken"):
            declare()
        app.topics.pop("shop/more", None)


@pytest.mark.parametrize(
    "declare",
    [
        lambda app: app.on(app.queue("q"), concurrency=0)(handler),
        lambda app: app.on(app.queue("q"), batch=-1)(handler),
        lambda app: app.on(app.queue("q"), timeout=0)(handler),
        lambda app: app.on(app.queue("q"), run_in="thread")(handler),
        lambda app: app.on(app.queue("q"), delay=5)(handler),
        lambda app: app.on(app.topic("t"), match={"a": "not a list"})(handler),
        lambda app: app.on(app.topic("t"), old={"a": [1]})(handler),
        lambda app: app.on(app.topic("t"), max_receives=0)(handler),
        lambda app: app.on(app.table("r", Row, key="id", images="new"), old={"n": [1]})(handler),
        lambda app: app.on(app.table("r", Row, key="id", images="new"), when=lambda change: True)(handler),
        lambda app: app.on(App("other").queue("q"))(handler),
    ],
)
def test_what_is_wrong_with_a_handler_is_said_with_its_place(declare: Any) -> None:
    with pytest.raises(DeclarationError, match=rf"test_app\.py:{handler.__code__.co_firstlineno}"):
        declare(App("shop"))


def test_a_handler_takes_the_event() -> None:
    app = App("shop")

    async def none() -> None: ...

    async def two(a: Any, b: Any) -> None: ...

    async def defaults(event: Event[dict[str, Any]], b: int = 1) -> None: ...

    for fn in (none, two):
        with pytest.raises(DeclarationError, match="one argument"):
            app.on(app.topic(fn.__name__))(fn)  # type: ignore[arg-type]
    app.on(app.topic("defaults-in"))(defaults)
    assert "shop/defaults" in app.handlers


def test_a_queue_has_one_handler_and_both_places_are_named() -> None:
    app = App("shop")
    queue = app.queue("q")
    app.on(queue)(handler)

    async def second(event: Any) -> None: ...

    with pytest.raises(DeclarationError) as raised:
        app.on(queue)(second)
    for fn in (handler, second):
        assert f"test_app.py:{fn.__code__.co_firstlineno}" in str(raised.value)


def test_tables_name_real_fields_and_whole_upgrades() -> None:
    app = App("shop")
    for options in (
        {"key": "nope"},
        {"key": ("id", "nope")},
        {"key": "id", "indexes": {"i": "nope"}},
        {"key": "id", "indexes": {"i": ("n", "nope")}},
        {"key": "id", "upgrade": {1: dict, 3: dict}},
        {"key": "id", "ttl": "nope"},
    ):
        with pytest.raises(DeclarationError, match="shop/rows"):
            app.table("rows", Row, **options)
    assert app.tables == {}
    assert app.table("rows", Row, key="id", upgrade={1: dict, 2: dict}).spec.schema == 3


def test_an_app_that_does_not_run_says_so() -> None:
    app = App("shop")
    with pytest.raises(DeclarationError, match="headwater run"):
        _ = app.binding


def test_handlers_are_named_after_their_function() -> None:
    app = App("shop")

    @app.on(app.topic("news"))
    async def send_the_mail(event: Any) -> None: ...

    assert app.handlers["shop/send-the-mail"].name == "send-the-mail"
    assert not app.handlers["shop/send-the-mail"].in_thread

    @app.on(app.topic("more"), name="other", timeout="2s", was="older")
    def plain(event: Any) -> None: ...

    spec = app.handlers["shop/other"]
    assert (spec.in_thread, spec.timeout_s) == (True, 2)
    assert app.renamed == {"shop/older": "shop/other"}


def test_handlers_run_in_processes_one_job_at_a_time_unless_they_say_more() -> None:
    app = App("shop")

    @app.on(app.topic("news"), run_in="process")
    async def asynchronous(event: Any) -> None: ...

    @app.on(app.topic("more"), run_in="process", concurrency=3)
    def plain(event: Any) -> None: ...

    specs = app.handlers["shop/asynchronous"], app.handlers["shop/plain"]
    assert [(s.in_process, s.in_thread, s.concurrency) for s in specs] == [(True, False, 1), (True, True, 3)]
    with pytest.raises(DeclarationError, match="does not fit a plain def"):
        app.on(app.topic("other"), name="third", run_in="loop")(lambda event: None)

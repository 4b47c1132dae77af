"""Sending, publishing, looking at what waits, replaying."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Limit, Queue, Store, Table, Topic, Value, read_object
from headwater.cli.output import note, print_json, print_table
from headwater.cli.session import Session

Dedup = Annotated[str, typer.Option("--dedup", metavar="ID", help="Drop a second one with this id.")]


def register(app: typer.Typer) -> None:
    for command in (send, publish, peek, replay):
        app.command()(command)


def send(
    queue: Queue,
    data: Value,
    *,
    group: Annotated[str | None, typer.Option("--group", help="The FIFO group.")] = None,
    dedup: Dedup = "",
    delay: Annotated[str | None, typer.Option("--delay", metavar="DURATION", help='Such as "5m".')] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Send a message straight to a queue; prints the event's id."""
    answer = Session(store, env).call(
        "send", queue=queue, data=read_object(data), group=group, dedup=dedup, delay=delay
    )
    _print_id(answer, as_json)


def publish(
    topic: Topic,
    data: Value,
    *,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    dedup: Dedup = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Publish a message to a topic; prints the event's id."""
    attributes: dict[str, str] = {}
    for text in attribute or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageError(f"--attribute: {text!r} is not NAME=VALUE")
        attributes[name] = value
    answer = Session(store, env).call(
        "publish", topic=topic, data=read_object(data), attributes=attributes or None, dedup=dedup
    )
    _print_id(answer, as_json)


def _print_id(answer: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(answer["id"])


def peek(
    queue: Queue,
    *,
    limit: Limit = 20,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin behind this position.")] = 0,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Show the messages that wait in a queue, without leasing them."""
    answer = Session(store, env).call("peek", queue=queue, limit=limit, after=after)
    if as_json:
        print_json(answer)
        return
    print_table(
        ("position", "id", "receives", "ready", "group", "data"),
        (
            (m["position"], m["id"], m["receives"], m["ready"] or "now", m["group"], m["event"]["data"])
            for m in answer["messages"]
        ),
    )
    if not answer["messages"]:
        note("no messages wait")
    if answer["next"] is not None:
        note(f"there are more: --after {answer['next']}")


def replay(table: Table, queue: Queue, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Put each present row of a table into a queue, for a late subscriber."""
    answer = Session(store, env).call("replay", table=table, queue=queue)
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['replayed']} rows of {table} are in {queue}")

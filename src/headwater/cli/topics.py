"""`headwater topic`: subscriptions made at run time."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.options import AsJson, Env, Queue, Store, Topic, read_object
from headwater.cli.output import print_json, print_table
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Subscribe queues to topics at run time.")


@app.command()
def subscribe(
    topic: Topic,
    queue: Queue,
    *,
    match: Annotated[
        str | None, typer.Option("--match", metavar="JSON", help="A pattern on the data; - and @FILE as for values.")
    ] = None,
    group: Annotated[str, typer.Option("--group", metavar="FIELD", help="The field that is the FIFO group.")] = "",
    delay: Annotated[str | None, typer.Option("--delay", metavar="DURATION", help="Replaces the queue's.")] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Route a topic to a queue from now on; prints the subscription's id."""
    pattern = None if match is None else read_object(match, "--match")
    answer = Session(store, env).call("subscribe", topic=topic, queue=queue, match=pattern, group=group, delay=delay)
    _print_id(answer, as_json)


@app.command()
def unsubscribe(
    id: Annotated[str, typer.Argument(metavar="ID", help="The subscription's id.")],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """End a subscription."""
    _print_id(Session(store, env).call("unsubscribe", id=id), as_json)


def _print_id(answer: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(answer["id"])


@app.command()
def subscriptions(
    *,
    topic: Annotated[str, typer.Argument(metavar="[TOPIC]", help="Of this topic only.", show_default=False)] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List the subscriptions made at run time."""
    answer = Session(store, env).call("subscriptions", topic=topic)
    if as_json:
        print_json(answer)
        return
    made = answer["subscriptions"]
    print_table(
        ("id", "topic", "queue", "match", "group", "delay ms"),
        ((s["id"], s["source"], s["target"], s["match"], s["group"], s["delay_ms"]) for s in made),
        "" if made else "subscriptions",
    )

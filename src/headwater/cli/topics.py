"""`headwater topic`: subscriptions made at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Store, Topic, read_object
from headwater.cli.output import print_json, print_table
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Subscribe queues to topics at run time.")


@app.command()
def subscribe(
    topic: Topic,
    target: Annotated[str, typer.Argument(metavar="QUEUE|URL", help="A queue, or the URL of a webhook.")],
    *,
    match: Annotated[
        str | None, typer.Option("--match", metavar="JSON", help="A pattern on the data; - and @FILE as for values.")
    ] = None,
    group: Annotated[str, typer.Option("--group", metavar="FIELD", help="The field that is the FIFO group.")] = "",
    delay: Annotated[str | None, typer.Option("--delay", metavar="DURATION", help="Replaces the queue's.")] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option("--secret-file", metavar="PATH", help="A file with the secret that signs; else one is made."),
    ] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Route a topic to a queue or a URL from now on; prints the subscription's id, and once the secret made for it."""
    pattern = None if match is None else read_object(match, "--match")
    secret = None if secret_file is None else _read_secret(secret_file)
    to = {"url": target} if "://" in target else {"queue": target}
    answer = Session(store, env).call(
        "subscribe", topic=topic, **to, match=pattern, group=group, delay=delay, secret=secret
    )
    _print_id(answer, as_json)
    if "secret" in answer and not as_json:
        print(answer["secret"])


def _read_secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--secret-file: cannot read {path}: {error}") from error


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
        ("id", "topic", "queue", "url", "match", "group", "delay ms"),
        ((s["id"], s["source"], s["target"], s["url"], s["match"], s["group"], s["delay_ms"]) for s in made),
        "" if made else "subscriptions",
    )

"""`headwater scale`: list, history."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli.options import AsJson, Env, Store
from headwater.cli.output import print_json, print_table
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="See how many workers are wanted, and why.")


@app.command()
def ls(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the queues whose workers are scaled: how many are wanted, run and are busy, since when, and why."""
    answer = Session(store, env).call("scales")
    if as_json:
        print_json(answer)
        return
    found = answer["scales"]
    columns = ("queue", "wanted", "running", "busy", "backlog", "since", "reason")
    print_table(columns, (tuple(one.get(column) for column in columns) for one in found), "" if found else "scales")


@app.command()
def history(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="A queue, as app/queue.", show_default=False)],
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List the changes of a queue's wanted number of workers, newest first."""
    answer = Session(store, env).call("scalings", queue=queue, limit=limit)
    if as_json:
        print_json(answer)
        return
    found = answer["scalings"]
    columns = ("time", "before", "wanted", "backlog", "busy", "reason")
    print_table(columns, (tuple(one[column] for column in columns) for one in found), "" if found else "scalings")

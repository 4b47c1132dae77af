"""`headwater queue`: pause, resume, purge."""

from __future__ import annotations

from typing import Any

import typer

from headwater.cli.options import AsJson, Env, Queue, Store, Yes, confirm
from headwater.cli.output import print_json
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Pause, resume and purge queues.")


@app.command()
def pause(queue: Queue, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Hand out nothing more, durably; what is leased finishes."""
    _print(Session(store, env).call("pause", queue=queue), "paused", as_json)


@app.command()
def resume(queue: Queue, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Hand out the messages of a paused queue again."""
    _print(Session(store, env).call("resume", queue=queue), "resumed", as_json)


@app.command()
def purge(queue: Queue, *, yes: Yes = False, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Remove all waiting messages for good; dead letters stay. Asks first."""
    confirm(f"Remove all messages of {queue} for good?", yes=yes)
    answer = Session(store, env).call("purge", queue=queue)
    _print(answer, f"{answer['purged']} messages purged", as_json)


def _print(answer: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['queue']}: {what}")

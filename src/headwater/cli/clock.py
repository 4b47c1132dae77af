"""`headwater clock`: show, pause, resume, advance, idle."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Store
from headwater.cli.output import print_json
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Pause and move the clock of a server in development.")


@app.command()
def show(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Tell what time it is for the server, and whether its clock goes."""
    _print(Session(store, env).call("clock-show"), as_json=as_json)


@app.command()
def pause(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Have time stand still."""
    _print(Session(store, env).call("clock-pause"), as_json=as_json)


@app.command()
def resume(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Have time go on."""
    _print(Session(store, env).call("clock-resume"), as_json=as_json)


@app.command()
def advance(
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="How far, such as 1h.", show_default=False)],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Let time pass: all that is due on the way happens, in order."""
    _print(Session(store, env).call("clock-advance", duration=duration), as_json=as_json)


@app.command()
def idle(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Wait until no message is ready or handled."""
    _print(Session(store, env).call("clock-run-until-idle"), as_json=as_json)


def _print(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print(f"{answer['time']}, {'running' if answer['running'] else 'paused'}")
    if answer.get("busy"):
        print(answer["busy"])

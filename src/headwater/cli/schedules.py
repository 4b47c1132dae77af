"""`headwater schedule`: list, run, pause, resume, next."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Store, read_object
from headwater.cli.output import note, print_json, print_table
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="List, run, pause and resume schedules.")
Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help="A schedule, as app/schedule.", show_default=False)]


@app.command()
def ls(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the schedules: when they run, the next and the last run, and how many were missed or skipped."""
    answer = Session(store, env).call("schedules")
    if as_json:
        print_json(answer)
        return
    found = answer["schedules"]
    print_table(
        ("schedule", "runs", "next", "last", "made", "missed", "skipped"),
        (
            (
                s["name"],
                s["words"],
                "paused" if s["paused"] else s["next"],
                s["last"],
                s["fired"],
                s["missed_runs"],
                s["skipped"],
            )
            for s in found
        ),
        "" if found else "schedules",
    )


@app.command("next")
def list_next(
    schedule: Schedule,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many.")] = 10,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Tell when a schedule runs, in words, and list its next runs."""
    answer = Session(store, env).call("schedule-next", schedule=schedule, limit=limit)
    if as_json:
        print_json(answer)
        return
    note(f"{answer['schedule']}: {answer['words']}{' (paused)' if answer['paused'] else ''}")
    runs = answer["next"]
    print_table((answer["tz"], "utc"), ((run["local"], run["time"]) for run in runs), "" if runs else "runs")


@app.command()
def run(
    schedule: Schedule,
    parameters: Annotated[
        str, typer.Argument(metavar="[JSON]", help="Parameters; - and @FILE as for values.", show_default=False)
    ] = "{}",
    *,
    dedup: Annotated[str, typer.Option("--dedup", metavar="ID", help="Drop a second one within five minutes.")] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Make a tick now, also of a paused schedule, with parameters for its handlers; prints the event's id."""
    given = read_object(parameters)
    answer = Session(store, env).call("schedule-run", schedule=schedule, parameters=given, dedup=dedup)
    if as_json:
        print_json(answer)
    else:
        print(answer["id"])


@app.command()
def pause(schedule: Schedule, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Make no more ticks, durably."""
    _print(Session(store, env).call("schedule-pause", schedule=schedule), "paused", as_json)


@app.command()
def resume(schedule: Schedule, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Make ticks again from now on; those of the pause are not made up for."""
    _print(Session(store, env).call("schedule-resume", schedule=schedule), "resumed", as_json)


def _print(answer: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['schedule']}: {what}")

"""`headwater metrics` and `headwater alarm`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Store
from headwater.cli.output import print_json, print_table
from headwater.cli.session import Session

alarms = typer.Typer(no_args_is_help=True, help="Look at alarms.")


def metrics(
    series: Annotated[
        str, typer.Argument(metavar="[SERIES]", help="Those whose names begin so, such as queue_ or http_requests.")
    ] = "",
    *,
    last: Annotated[str, typer.Option("--last", metavar="DURATION", help="How far back.")] = "1h",
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print what Prometheus would read now instead.")
    ] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print the metrics of the last hour; of one series minute by minute."""
    session = Session(store, env)
    answer = session.call("prometheus") if prometheus else session.call("metrics", series=series, last=last)
    if as_json:
        print_json(answer)
    elif prometheus:
        print(answer["text"], end="")
    else:
        _print_series(answer["series"])


def _print_series(found: list[dict[str, Any]]) -> None:
    if len(found) == 1:
        rows = [(point["time"], _shown(point)) for point in found[0]["points"]]
        print_table(("minute", found[0]["series"]), rows, "metrics")
        return
    last = [(one["series"], one["points"][-1]["time"], _shown(one["points"][-1])) for one in found]
    print_table(("series", "last", "value"), last, "metrics")


def _shown(point: dict[str, Any]) -> str:
    if "count" in point:
        return f"{point['count']} in {point['sum']:.3f}s, p50 {point['p50']:.3g}s, p99 {point['p99']:.3g}s"
    return f"{point['value']:g}"


@alarms.command("ls")
def list_alarms(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the alarms with their states, since when, and why."""
    answer = Session(store, env).call("alarms")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("alarm", "of", "state", "since", "detail"),
        ((a["name"], a["resource"], a["state"], a["since"], a["detail"]) for a in answer["alarms"]),
        "alarms",
    )


@alarms.command()
def clear(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The alarm, as listed.")],
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help="What it is about, as listed.")],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Tell that what an alarm was about is mended, where no metric tells it."""
    answer = Session(store, env).call("alarm-clear", name=name, resource=resource)
    if as_json:
        print_json(answer)
    else:
        print(f"{name} {resource}: {answer['state']}")

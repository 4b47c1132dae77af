"""What runs, how it is connected, and who did what: map, ps, schema, apis, audit."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Limit, Store
from headwater.cli.output import note, print_json, print_pretty, print_table, shown
from headwater.cli.session import Session


def register(app: typer.Typer) -> None:
    app.command("map")(print_map)
    for command in (ps, schema, apis, audit):
        app.command()(command)


def print_map(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Print what feeds each queue, what handles it, and what its handler was seen to make."""
    session = Session(store, env)
    topology = session.call("topology")
    if as_json:
        print_json(topology)
        return
    resources = session.call("resources")
    fed, made = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for route in (*resources["routes"], *resources["subscriptions"]):
        fed[route["target"]].add(route["source"])
    for one in topology["made"]:
        fed[one["source"]].add(one["queue"] or "outside")
        made[one["queue"]].add(one["source"])
    handlers = topology["handlers"]
    print_table(
        ("from", "queue", "handler", "runs", "at once", "makes"),
        (
            (
                ", ".join(sorted(fed[one["queue"]])),
                one["queue"],
                one["handler"],
                one["runs"],
                one["concurrency"],
                ", ".join(sorted(made[one["queue"]])),
            )
            for one in handlers
        ),
        "" if handlers else "handlers",
    )
    if topology["since"]:
        note(f"what handlers make is as seen in {topology['events']} events since {topology['since']}")


def ps(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the server's process and its worker processes, with the messages that each holds."""
    answer = Session(store, env).call("workers")
    if as_json:
        print_json(answer)
        return
    server = answer["server"]
    lines = [] if server is None else [("server", server["pid"], server["started"], _held(server["holds"]), "")]
    lines += [
        (
            "worker",
            worker["pid"],
            worker["since"] or "starting",
            _held(worker["holds"]),
            worker["queue"] or "",
        )
        for worker in answer["workers"]
    ]
    print_table(("process", "pid", "since", "holds", "started for"), lines, "" if lines else "processes")
    if answer["terms"]:
        columns = ("work", "holder", "until")
        print_table(columns, (tuple(term[name] for name in columns) for term in answer["terms"]), "terms")


def _held(holds: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['held']} of {one['queue']}" for one in holds if one["held"]) or "nothing"


def schema(
    resource: Annotated[
        str, typer.Argument(metavar="RESOURCE", help="A table, topic or queue, as app/name.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print the JSON schema of what a table, topic or queue takes; a server of its app must run."""
    answer = Session(store, env).call("schema", resource=resource)
    if as_json:
        print_json(answer)
    elif answer["schema"] is None:
        note(f"{resource}: its app does not run, or it takes any object")
    else:
        components = {"components": {"schemas": answer["components"]}} if answer["components"] else {}
        print_pretty({**answer["schema"], **components})


def apis(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the endpoints of the apps that run: what they ask of callers, and how they did in the last hour."""
    answer = Session(store, env).call("apis")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("endpoint", "asks for", "requests", "errors", "p50", "p95", "p99"),
        (
            (
                f"{one['method']} /{one['app']}{one['route']}",
                ", ".join((*one["roles"], *one["plans"])) or ("a caller" if one["asks"] else ""),
                one["requests"],
                one["errors"],
                *(_milliseconds(one[name]) for name in ("p50", "p95", "p99")),
            )
            for one in answer["endpoints"]
        ),
        "" if answer["endpoints"] else "endpoints",
    )
    if answer["plans"]:
        columns = ("name", "rate", "burst", "quota", "per", "ends")
        print_table(columns, (tuple(plan[name] for name in columns) for plan in answer["plans"]), "plans")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def audit(
    *,
    by: Annotated[str, typer.Option("--by", metavar="WHO", help="A part of who asked.")] = "",
    of: Annotated[str, typer.Option("--of", metavar="OPERATION", help="Of this operation only.")] = "",
    outcome: Annotated[str, typer.Option("--outcome", help="begun, done or failed.")] = "",
    search: Annotated[str, typer.Option("--search", metavar="TEXT", help="A part of the parameters.")] = "",
    limit: Limit = 50,
    before: Annotated[str, typer.Option("--before", metavar="ID", help="Go on behind this one.")] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List who asked for what that writes, newest first, and how it ended."""
    answer = Session(store, env).call("audit", by=by, of=of, outcome=outcome, search=search, limit=limit, before=before)
    if as_json:
        print_json(answer)
        return
    found = answer["actions"]
    print_table(
        ("time", "who", "operation", "parameters", "outcome"),
        (
            (
                one["at"],
                one["by"],
                one["operation"],
                one["parameters"],
                " ".join(filter(None, (one["outcome"], shown(one["error"])))),
            )
            for one in found
        ),
        "" if found else "actions",
    )
    if answer["next"]:
        note(f"there are more: --before {answer['next']}")

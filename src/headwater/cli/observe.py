"""Looking at the store as a whole: ls, status, tail, trace, doctor."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from headwater.cli import exits
from headwater.cli.options import AsJson, Env, Limit, Store
from headwater.cli.output import note, print_facts, print_json, print_table, shown
from headwater.cli.session import Session

POLL_S = 0.5


def register(app: typer.Typer) -> None:
    app.command("ls")(list_resources)
    for command in (status, tail, trace, why, doctor):
        app.command()(command)


def list_resources(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List tables, buckets, topics, schedules, queues with their depths, routes and subscriptions."""
    answer = Session(store, env).call("resources")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("table", "key", "indexes"),
        ((t["name"], ", ".join(t["key"]), ", ".join(i["name"] for i in t["indexes"])) for t in answer["tables"]),
        "tables",
    )
    print_table(
        ("bucket", "versions", "expire"),
        (
            (b["name"], "yes" if b["versions"] else "", f"{b['expire_ms'] / 1000:g}s" if b["expire_ms"] else "")
            for b in answer["buckets"]
        ),
        "buckets",
    )
    print_table(("topic",), ((t["name"],) for t in answer["topics"]), "topics")
    if answer["schedules"]:
        print_table(("schedule",), ((s["name"],) for s in answer["schedules"]), "schedules")
    print_table(
        ("queue", "depth", "in flight", "delayed", "dead", "oldest", "state"),
        (
            (
                q["name"],
                q["depth"],
                q["in_flight"],
                q["delayed"],
                q["dead"],
                f"{q['oldest_age_ms'] / 1000:.0f}s",
                _state(q),
            )
            for q in answer["queues"]
        ),
        "queues",
    )
    routes = [*answer["routes"], *answer["subscriptions"]]
    print_table(
        ("source", "target", "only", "match", "by"),
        (
            (
                r["source"],
                r["target"],
                ", ".join(r["types"]),
                _patterns(r),
                f"subscription {r['id']}" if r["id"] else r["origin"],
            )
            for r in routes
        ),
        "routes",
    )


def _state(queue: dict[str, Any]) -> str:
    if queue["paused"]:
        return "paused"
    return "" if queue["consumed"] else "no consumer"


def _patterns(route: dict[str, Any]) -> str:
    return " ".join(f"{place}={shown(route[place])}" for place in ("match", "old", "new") if route[place])


def status(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Tell which server owns the store, and the sums of its queues."""
    answer = Session(store, env).call("status")
    if as_json:
        print_json(answer)
        return
    server = answer["server"]
    running = (
        "not running" if server is None else f"{server['address']} (pid {server['pid']}), since {server['started']}"
    )
    print_facts(
        (
            ("server", running),
            ("store", answer["store"]),
            ("apps", ", ".join(answer["apps"])),
            *((name.replace("_", " "), answer["queues"][name]) for name in ("depth", "in_flight", "delayed", "dead")),
            ("paused", ", ".join(answer["paused"]) or "none"),
            ("orphans", ", ".join(answer["orphans"]) or "none"),
            ("alarms", len(answer["alarms"]) or "none"),
        )
    )
    for alarm in answer["alarms"]:
        print(shown(f"  {alarm['name']} {alarm['resource']} since {alarm['since']}: {alarm['detail']}"))


def tail(
    *,
    source: Annotated[str, typer.Argument(metavar="[SOURCE]", help="Of this table, topic or queue.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    after: Annotated[int, typer.Option("--after", min=-1, help="Begin behind this position; -1: the newest.")] = -1,
    limit: Limit = 20,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print events in commit order. With --follow, --json prints one event a line."""
    session = Session(store, env)
    answer = session.call("tail", after=after, source=source, limit=limit)
    if not follow:
        if as_json:
            print_json(answer)
        else:
            _print_events(answer["events"], as_json=False)
        return
    while True:
        _print_events(answer["events"], as_json=as_json)
        if not answer["more"]:
            time.sleep(POLL_S)
        answer = session.call("tail", after=answer["next"], source=source, limit=limit)


def _print_events(events: list[dict[str, Any]], *, as_json: bool) -> None:
    for event in events:
        if as_json:
            print_json(event)
        else:
            messages = " ".join(f"{queue}={state}" for queue, state in event["messages"].items())
            fields = (event["position"], event["time"], event["source"], event["type"], event["subject"], event["data"])
            print("  ".join(text for text in (*map(shown, fields), messages) if text), flush=True)


def trace(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of an event, a message or a trace.")],
    *,
    as_pytest: Annotated[
        bool, typer.Option("--pytest", help="Print a test that does it again and expects the same.")
    ] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print the whole tree of what a request led to."""
    if as_pytest:
        print(Session(store, env).call("trace-test", id=id)["code"], end="")
        return
    answer = Session(store, env).call("trace", id=id)
    if as_json:
        print_json(answer)
        return
    from headwater.cli.trace_tree import print_trace

    print_trace(answer)


def why(
    id: Annotated[str, typer.Argument(metavar="EVENT", help="The id of an event; `headwater tail` lists them.")],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Tell which routes took an event and which did not, naming the part of the pattern that refused it."""
    answer = Session(store, env).call("why", id=id)
    if as_json:
        print_json(answer)
        return
    print(shown(" ".join(answer[name] for name in ("source", "type", "subject") if answer[name])))
    for way in answer["ways"]:
        mark = {"taken": "✓", "direct": "✓", "refused": "✗", "filtered": "✗"}.get(way["outcome"], "…")
        path = " → ".join(way["path"] or [way["queue"]])
        outcome = ", ".join(filter(None, (way["outcome"], way["state"])))
        print(shown(f"  {mark} {path}  {outcome}"))
        if way["reason"]:
            print(shown(f"      {way['reason']}"))
    print(shown(answer["verdict"]))


def doctor(
    *,
    accept: Annotated[
        bool, typer.Option("--accept", help="Go on with a store that lacks acknowledged commits, after a restore.")
    ] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Read the whole store and name each damage; exit code 3 when there is any."""
    from headwater.cli.diagnosis import EXPLAINED, accept_loss, diagnose

    session = Session(store, env)
    if accept:
        accept_loss(session)
        note("accepted: what the store lacks is given up")
    answer = diagnose(session)
    if as_json:
        print_json(answer)
    elif answer["sound"]:
        print("the store is sound")
        if left := answer["unreferenced_blobs"]:
            note(f"{left} blobs belong to no object: the server collects them")
    else:
        for line in answer["damage"]:
            print(shown(line))
        note(EXPLAINED)
    if not answer["sound"]:
        raise typer.Exit(exits.STORE_FAILED)

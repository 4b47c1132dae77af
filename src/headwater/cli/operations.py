"""`headwater op`: tracked operations, listed, shown, polled, cancelled, retried."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Limit, Store, Yes, confirm
from headwater.cli.output import note, print_facts, print_json, print_table, short
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Look at tracked operations, and decide on them.")
Operation = Annotated[
    str, typer.Argument(metavar="OPERATION", help="A tracked operation, as app/name.", show_default=False)
]
Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="What the operation is about.", show_default=False)]
_TIMES = (
    "requested_ms",
    "deadline_ms",
    "started_ms",
    "polled_ms",
    "next_ms",
    "overdue_ms",
    "cancel_requested_ms",
    "ended_ms",
)


@app.command("ls")
def list_(
    *,
    operation: Annotated[
        str, typer.Argument(metavar="[OPERATION]", help="A tracked operation, as app/name.", show_default=False)
    ] = "",
    state: Annotated[
        str,
        typer.Option(
            "--state",
            help="open (on time), overdue, requested, started, pending, completed, failed, cancelled or in_doubt.",
        ),
    ] = "open",
    limit: Limit = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List the operations in a state, the oldest first; without a name the kinds of operations."""
    session = Session(store, env)
    if not operation:
        _print_kinds(session.call("op-kinds"), as_json=as_json)
        return
    answer = session.call("op-list", kind=operation, state=state, limit=limit, cursor=cursor)
    if as_json:
        print_json(answer)
        return
    rows = [
        (one["subject"], one["state"], one["standing"], _time(one["requested_ms"]), one["external_id"], one["id"])
        for one in answer["operations"]
    ]
    print_table(("subject", "state", "standing", "requested", "external id", "id"), rows, "" if rows else state)
    if answer["cursor"]:
        note(f"there are more: --cursor {answer['cursor']}")


def _print_kinds(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    rows = [(kind["operation"], kind["contract_changes"]) for kind in answer["kinds"]]
    print_table(("operation", "contract changes"), rows, "" if rows else "operations")


@app.command()
def show(operation: Operation, subject: Subject, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Print the subject's last operation, and the ids of its earlier ones."""
    answer = Session(store, env).call("op-show", kind=operation, subject=subject)
    if as_json:
        print_json(answer)
        return
    latest, *earlier = answer["operations"]
    print_facts((name.removesuffix("_ms"), _time(value) if name in _TIMES else value) for name, value in latest.items())
    if change := answer["contract_change"]:
        print_facts((("contract change", change["problem"]), ("affected", change["affected"])))
    for one in earlier:
        note(f"earlier: {one['id']} {one['state']} {_time(one['ended_ms'])}")


@app.command()
def poll(
    operation: Operation,
    *,
    subject: Annotated[str, typer.Argument(metavar="[SUBJECT]", show_default=False)] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Have an operation called now; without a subject all open ones that wait for their next poll."""
    answer = Session(store, env).call("op-poll", kind=operation, subject=subject)
    if as_json:
        print_json(answer)
    else:
        print(f"{operation}: {answer['polled']} to be polled now")


@app.command()
def cancel(
    operation: Operation,
    subject: Subject,
    *,
    force: Annotated[bool, typer.Option("--force", help="End it here, whatever the third party does.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Say that an operation is no longer wanted; what the third party has begun is polled until it ends."""
    if force:
        confirm(f"End the operation of {subject} here, whatever the third party does?", yes=yes)
    answer = Session(store, env).call("op-cancel", kind=operation, subject=subject, force=force)
    _print_state(answer, as_json=as_json)


@app.command()
def retry(
    operation: Operation,
    subject: Subject,
    *,
    external_id: Annotated[
        str, typer.Option("--external-id", metavar="ID", help="It was started, and the third party calls it so.")
    ] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Decide on an operation in doubt: start it, or take it as started; request a failed or cancelled one anew."""
    answer = Session(store, env).call("op-retry", kind=operation, subject=subject, external_id=external_id)
    _print_state(answer, as_json=as_json)


def _print_state(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    one = answer["operation"]
    wish = ", no longer wanted" if one["cancel_requested_ms"] and one["standing"] else ""
    print(f"{short(one['subject'])}: {one['state']}{wish}")


def _time(ms: int | None) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ms else ""

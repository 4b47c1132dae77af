"""`headwater forget`: a key and all that the store keeps of it go; what became of that."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Limit, Numeric, Store, Table, Yes, confirm, part
from headwater.cli.output import note, print_facts, print_json, print_table
from headwater.cli.session import Session

POLL_S = 0.2
KINDS = ("rows", "events", "dead_letters", "messages", "claims", "staged", "mails", "spans", "audited")


class _KeyFirst(TyperGroup):
    """`headwater forget shop/customers 17` is `headwater forget key shop/customers 17`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and "/" in args[0]:
            args = ["key", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_KeyFirst,
    no_args_is_help=True,
    help="Forget a key: headwater forget APP/TABLE KEY... removes its row and redacts what the store keeps of it.",
)


@app.command("key")
def forget_key(
    table: Table,
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="The key's parts.", show_default=False)],
    *,
    also: Annotated[
        list[str] | None,
        typer.Option("--and", metavar="TABLE[#INDEX]", help="Its row of the same key, or its rows of this partition."),
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, help="For how many seconds to wait until it is done.")] = 10,
    number: Numeric = False,
    yes: Yes = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove a row and all that the store keeps of its key, and print what was removed and redacted."""
    if len(key) > 2:
        raise UsageError("a key has the partition and at most one sort part")
    confirm(f"Forget {'/'.join(key)} of {table} for good?", yes=yes)
    session = Session(store, env)
    parts = [key[0], *(part(text, numeric=number) for text in key[1:])]
    answer = session.call("forget", table=table, key=parts, also=also)
    end = time.monotonic() + wait
    while answer["state"] != "done" and time.monotonic() < end:
        time.sleep(POLL_S)
        answer = session.call("erasure", id=answer["id"])
    _print_erasure(answer, as_json)


@app.command("ls")
def list_erasures(
    *,
    table: Annotated[str, typer.Argument(metavar="[TABLE]", help="Of this table only.")] = "",
    limit: Limit = 20,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List erasures, newest first."""
    answer = Session(store, env).call("erasures", table=table, limit=limit)
    if as_json:
        print_json(answer)
        return
    found = answer["erasures"]
    print_table(
        ("id", "table", "requested", "state", "waiting", "redacted"),
        (
            (e["id"], e["table"], e["requested"], e["state"], e["waiting"], sum(e[kind] for kind in KINDS))
            for e in found
        ),
        "" if found else "erasures",
    )


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The erasure's id.")],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Show how far an erasure is, and how much of each kind was removed or redacted."""
    _print_erasure(Session(store, env).call("erasure", id=id), as_json)


def _print_erasure(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    names = ("id", "table", "digest", "salt", "requested", "finished", "state", *KINDS)
    print_facts((name.replace("_", " "), answer[name]) for name in names)
    if answer["waiting"]:
        note(
            f"{answer['waiting']} messages are delivered first; `headwater forget show {answer['id']}` tells of the end"
        )

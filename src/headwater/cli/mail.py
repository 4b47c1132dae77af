"""`headwater mail`: the mails of the last 30 days, those that no server took too."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Limit, Store
from headwater.cli.output import print_facts, print_json, print_table, short
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Mail: what was sent, waits, failed, or is held for want of a server.")
Id = Annotated[str, typer.Argument(metavar="ID", help="The mail's id, as `headwater mail ls` shows it.")]


@app.command("ls")
def list_mails(
    *,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="pending, sent, failed or held only.")
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="To this address only.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List mails, newest first."""
    answer = Session(store, env).call("mails", state=state, to=to, limit=limit)
    if as_json:
        print_json(answer)
        return
    found = answer["mails"]
    print_table(
        ("id", "created", "state", "to", "subject", "answer"),
        ((m["id"], m["created"], m["state"], m["to"], short(m["subject"]), short(m["answer"], 60)) for m in found),
        "" if found else "mails",
    )


@app.command()
def show(
    id: Id,
    *,
    html: Annotated[bool, typer.Option("--html", help="Print the HTML part alone, for a file or a browser.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Show a mail: its state and its text."""
    mail = Session(store, env).call("mail-show", id=id)
    if as_json:
        print_json(mail)
    elif html:
        print(mail["html"], end="")
    else:
        _print_mail(mail)


def _print_mail(mail: dict[str, Any]) -> None:
    names = ("to", "subject", "state", "queue", "created", "ended", "attempts", "answer")
    print_facts((name, mail[name]) for name in names)
    print_facts((name, " ".join(mail[name])) for name in ("events", "traces"))
    print()
    print(mail["text"], end="")

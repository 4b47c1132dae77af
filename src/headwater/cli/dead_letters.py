"""`headwater dlq`: dead letters."""

from __future__ import annotations

import time
from typing import Annotated, Any, NamedTuple

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Limit, Store, Yes, confirm, read_object
from headwater.cli.output import note, print_facts, print_json, print_pretty, print_table, short
from headwater.cli.session import Session

SLICE = 500
SLICES_A_SECOND = 4
app = typer.Typer(no_args_is_help=True, help="Look at dead letters, redrive or discard them.")
OfQueue = Annotated[str, typer.Option("--queue", metavar="QUEUE", help="All dead letters of this queue.")]
OfException = Annotated[str, typer.Option("--exception", metavar="CLASS", help="Those that died of this exception.")]
Search = Annotated[
    str, typer.Option("--search", metavar="TEXT", help="Those with this text in reason, subject or data.")
]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="The ids of dead letters.")]
Rate = Annotated[int, typer.Option("--rate", min=0, metavar="N", help="At most so many a second; 0: no limit.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the log and the record.")]


@app.command("ls")
def list_dead_letters(
    *,
    queue: Annotated[str, typer.Argument(metavar="[QUEUE]", help="Of this queue only.", show_default=False)] = "",
    exception: OfException = "",
    search: Search = "",
    limit: Limit = 100,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin behind this id.")] = 0,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List dead letters, oldest first."""
    answer = Session(store, env).call(
        "dead-letters", queue=queue, exception=exception, search=search, limit=limit, after=after
    )
    if as_json:
        print_json(answer)
        return
    letters = answer["dead_letters"]
    print_table(
        ("id", "queue", "died", "receives", "reason", "message"),
        ((d["id"], d["queue"], d["died"], d["receives"], short(d["reason"]), d["message"]) for d in letters),
        "" if letters else "dead letters",
    )
    if answer["next"] is not None:
        note(f"there are more: --after {answer['next']}")


@app.command()
def groups(
    *,
    queue: Annotated[str, typer.Argument(metavar="[QUEUE]", help="Of this queue only.", show_default=False)] = "",
    search: Search = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Count dead letters by queue and by what they died of, most first."""
    answer = Session(store, env).call("dead-letter-groups", queue=queue, search=search)
    if as_json:
        print_json(answer)
        return
    found = answer["groups"]
    print_table(
        ("letters", "queue", "died of", "first", "last", "for example"),
        ((g["count"], g["queue"], short(g["exception"]), g["first"], g["last"], short(g["example"])) for g in found),
        "" if found else "dead letters",
    )


@app.command()
def show(
    id: Annotated[int, typer.Argument(metavar="ID", help="The dead letter's id.")],
    *,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Show one dead letter: its message, and how each attempt failed."""
    letter = Session(store, env).call("dead-letter", id=id)
    if as_json:
        print_json(letter)
        return
    event = letter["event"]
    print_facts(
        (
            *((name, letter[name]) for name in ("id", "queue", "message", "died", "receives", "reason")),
            ("source", event["source"]),
            ("type", event["type"]),
            ("cause", event["cause"]),
            ("trace", event["trace"]),
        )
    )
    print("data")
    print_pretty(event["data"])
    for failure in letter["failures"]:
        print(f"receive {failure['receive']}: {failure['outcome']}: {failure['error']}")
        if failure["traceback"]:
            print(failure["traceback"].rstrip())


@app.command()
def redrive(
    *,
    ids: Ids = None,
    queue: OfQueue = "",
    exception: OfException = "",
    search: Search = "",
    rate: Rate = 0,
    edit: Annotated[
        str | None, typer.Option("--edit", metavar="JSON", help="Another message for a single one; - and @FILE work.")
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Put dead letters back at the tail of their queue."""
    data = None if edit is None else read_object(edit, "--edit")
    if data is not None and len(ids or ()) != 1:
        raise UsageError("--edit needs exactly one ID")
    parameters: dict[str, Any] = {"data": data, "reason": reason}
    _settle(Session(store, env), "redrive", _Which(ids or [], queue, exception, search, rate), parameters, as_json)


@app.command()
def discard(
    *,
    ids: Ids = None,
    queue: OfQueue = "",
    exception: OfException = "",
    search: Search = "",
    rate: Rate = 0,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove dead letters for good. Asks first."""
    which = _Which(ids or [], queue, exception, search, rate)
    which.check()
    confirm(f"Discard {which.told}?", yes=yes)
    _settle(Session(store, env), "discard", which, {"reason": reason}, as_json)


@app.command("dry-run")
def dry_run(
    id: Annotated[int, typer.Argument(metavar="ID", help="The dead letter's id.")],
    *,
    edit: Annotated[
        str | None,
        typer.Option("--edit", metavar="JSON", help="Another message; - and @FILE work.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Run the handler on a dead letter, and commit nothing of it: what would it do now?"""
    data = None if edit is None else read_object(edit, "--edit")
    answer = Session(store, env).call("dry-run", id=id, data=data)
    if as_json:
        print_json(answer)
        return
    print(f"{answer['outcome']}{': ' if answer['error'] else ''}{answer['error']}")
    if answer["traceback"]:
        print(answer["traceback"].rstrip())
    for write in answer["writes"]:
        print(f"would {'remove' if write['data'] is None else 'write'} {write['table']} {write['key']}")
        if write["data"] is not None:
            print_pretty(write["data"])
    for sent in answer["sends"]:
        print(f"would send to {sent['to']}")
        print_pretty(sent["data"])


class _Which(NamedTuple):
    """The dead letters that are meant: some by id, or those that a filter chooses."""

    ids: list[int]
    queue: str
    exception: str
    search: str
    rate: int

    @property
    def filter(self) -> dict[str, str]:
        chosen = {"queue": self.queue, "exception": self.exception, "search": self.search}
        return {name: value for name, value in chosen.items() if value}

    @property
    def told(self) -> str:
        if self.ids:
            return f"{len(self.ids)} dead letters"
        return f"all dead letters with {', '.join(f'{name} {value}' for name, value in self.filter.items())}"

    def check(self) -> None:
        if bool(self.ids) == bool(self.filter):
            raise UsageError("name either the ids of dead letters, or --queue QUEUE, --exception or --search")


def _settle(session: Session, verb: str, which: _Which, parameters: dict[str, Any], as_json: bool) -> None:
    """Slice by slice, so that a rate holds and no commit grows large."""
    which.check()
    ids, rate = which.ids, which.rate
    done: list[int] = []
    missing: list[int] = []
    size = max(1, min(SLICE, rate // SLICES_A_SECOND)) if rate else SLICE
    place: dict[str, Any] = {"after": 0, "until": 0}
    while True:
        if which.filter:
            answer = session.call(verb, **which.filter, limit=size, **place, **parameters)
            place = {"after": answer["next"], "until": answer["until"]}
            more = answer["next"] is not None
        else:
            answer = session.call(verb, ids=ids[:size], **parameters)
            ids = ids[size:]
            more = bool(ids)
        done += answer["ids"]
        missing += answer["missing"]
        if not more:
            break
        if rate:
            time.sleep(len(answer["ids"]) / rate)
    _finish(verb, done, missing, as_json)


def _finish(verb: str, done: list[int], missing: list[int], as_json: bool) -> None:
    if as_json:
        print_json({"ids": done, "missing": missing})
    else:
        print(f"{len(done)} {'redriven' if verb == 'redrive' else 'discarded'}")
    if missing:
        from headwater.errors import UnknownResource

        raise UnknownResource(
            f"no dead letters have the ids {', '.join(str(id) for id in missing)}",
            operation=verb,
            hint="`headwater dlq ls` lists them",
        )

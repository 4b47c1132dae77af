"""`headwater grants`: what each handler and endpoint may do, and the line that needs it."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import structs

from headwater.cli import exits
from headwater.cli.options import AsJson, Env
from headwater.cli.output import note, print_json, print_table
from headwater.permits import Grant


def grants(
    context: typer.Context,
    unit: Annotated[
        str, typer.Argument(metavar="[UNIT]", help='A handler\'s queue (app/queue), "app GET /path", or an app.')
    ] = "",
    *,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="MODULE", help="An app's module, as `run` takes it; may be repeated."),
    ] = None,
    env: Env = "",
    as_json: AsJson = False,
) -> None:
    """Print what the code of each handler and endpoint may do, with the line that needs each grant."""
    from headwater.cli import serve
    from headwater.errors import UnknownResource
    from headwater.grants import infer
    from headwater.graph import build_graph

    folder, config = serve.configured(serve.RunOptions(tuple(apps or ()), environment=env))
    loaded = serve.load_apps(config, folder, debug=bool(context.obj))
    if loaded is None:
        raise typer.Exit(exits.FAILED)
    found = infer(build_graph(loaded))
    if unit:
        found = {name: held for name, held in found.items() if _is_meant(unit, name)}
        if not found:
            raise UnknownResource(
                "no handler or endpoint has this name",
                operation="grants",
                resource=unit,
                hint="`headwater grants` lists all",
            )
    if as_json:
        print_json({"units": {name: [structs.asdict(grant) for grant in held] for name, held in found.items()}})
        return
    rows = [(name, g.kind, g.resource, g.verb, shown(g)) for name, held in found.items() for g in held]
    print_table(("unit", "kind", "resource", "verb", "needed at"), rows)
    for name in (name for name, held in found.items() if not held):
        note(f"{name} touches nothing")


def _is_meant(asked: str, unit: str) -> bool:
    """A unit, or all units of an app."""
    return unit == asked or unit.startswith((f"{asked}/", f"{asked} "))


def shown(grant: Grant) -> str:
    """Where it is needed, in words."""
    return f"escapes at {grant.at}" if grant.escapes else grant.at

"""`headwater migrate`: bring the schema of a PostgreSQL store up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli import exits
from headwater.cli.options import Env, Store
from headwater.cli.output import note
from headwater.cli.session import Session


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell what is missing; exit with 1 if something is.")
    ] = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Run the steps that the store's schema lacks, forward only. Servers may go on meanwhile."""
    import asyncio

    from headwater.engines import migrate_store
    from headwater.store_url import is_file_store, shown_store

    url = Session(store, env).store
    if is_file_store(url):
        note("a SQLite store has nothing to migrate: the server that opens it brings it up to date")
        return
    steps = asyncio.run(migrate_store(url, check=check))
    for step in steps:
        print(step)
    if not steps:
        note(f"{shown_store(url)} is up to date")
    elif check:
        note("these steps are missing: `headwater migrate` runs them")
        raise typer.Exit(exits.FAILED)

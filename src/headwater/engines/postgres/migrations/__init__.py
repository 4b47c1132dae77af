"""The steps from an empty schema to the present one, each a file of SQL that runs once, in order, never back.

The first line of each says `-- needs: N`: processes that know fewer than N steps can't use the store after it. A step
that older processes can live with names the N of the last one that they can't, so that old and new may run side by
side.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import NamedTuple

from headwater.engines.postgres.database import Address, Connection, Database
from headwater.errors import StoreError, StoreTooNew, UnknownResource
from headwater.ids import new_id

_NEEDS = re.compile(r"-- needs: (\d+)\n")
_FILE = re.compile(r"(\d{4})_\w+\.sql\Z")
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('headwater ' || $1, 0))"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS @migration"
    " (number integer PRIMARY KEY, name text NOT NULL, needs integer NOT NULL, at timestamptz NOT NULL DEFAULT now())"
)
_STANDING = "SELECT coalesce(max(number), 0), coalesce(max(needs), 0) FROM @migration"
_LACKS_SCHEMA = "SELECT to_regnamespace($1) IS NULL"
_EXISTS = "SELECT to_regclass($1) IS NOT NULL"


class Step(NamedTuple):
    number: int
    name: str
    needs: int
    script: str


def steps() -> list[Step]:
    found = []
    for file in files("headwater.engines.postgres.migrations").iterdir():
        if match := _FILE.match(file.name):
            script = file.read_text("utf-8")
            needs = _NEEDS.match(script)
            assert needs is not None, f"{file.name} does not say what it needs"
            found.append(Step(int(match[1]), file.name, int(needs[1]), script))
    return sorted(found)


async def migrate(database: Database) -> list[str]:
    """Run the steps that are missing, in one transaction, after those that others run now; their names."""
    schema = database.address.schema

    async def work() -> list[str]:
        async with database.transaction() as connection:
            await connection.fetch(_LOCK, schema)
            if await connection.fetchval(_LACKS_SCHEMA, schema):  # its owner need not have the right to make schemas
                await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(database.sql(_TABLE))
            present, needs = await _standing(connection, database)
            _check_not_newer(database.address, needs)
            missing = [step for step in steps() if step.number > present]
            await connection.execute(f"SET LOCAL search_path TO {schema}")
            for step in missing:
                await connection.execute(step.script)
                await connection.execute(
                    "INSERT INTO migration (number, name, needs) VALUES ($1, $2, $3)",
                    step.number,
                    step.name,
                    step.needs,
                )
            if present == 0:
                await connection.execute("INSERT INTO head VALUES (1, $1, 0)", new_id())
            return [step.name for step in missing]

    return await database.patiently("migrate", work)


async def missing_steps(database: Database) -> list[str]:
    """The names of the steps that `migrate` would run."""
    present = 0
    if (await database.fetch(_EXISTS, f"{database.address.schema}.migration"))[0][0]:
        present, needs = (await database.fetch(_STANDING))[0]
        _check_not_newer(database.address, needs)
    return [step.name for step in steps() if step.number > present]


async def check_schema(database: Database, *, create: bool) -> None:
    """Hold the store's schema against the steps that this version knows; an empty one is made when `create`.

    Raises `StoreTooNew`, and `StoreError` when steps are missing.
    """
    address = database.address
    if not (await database.fetch(_EXISTS, f"{address.schema}.migration"))[0][0]:
        if not create:
            hint = "`headwater run` makes it; --store, HEADWATER_STORE or headwater.toml say where it is"
            raise UnknownResource("there is no store here", operation="open", resource=address.shown, hint=hint)
        await migrate(database)
        return
    rows = await database.fetch(_STANDING)
    present, needs = rows[0]
    _check_not_newer(address, needs)
    if present < steps()[-1].number:
        raise StoreError(
            f"the store's schema is at step {present}, this version needs {steps()[-1].number}",
            operation="open",
            resource=address.shown,
            hint="run `headwater migrate`; processes of the last version may go on meanwhile",
        )


async def _standing(connection: Connection, database: Database) -> tuple[int, int]:
    row = await connection.fetchrow(database.sql(_STANDING))
    assert row is not None
    return int(row[0]), int(row[1])


def _check_not_newer(address: Address, needs: int) -> None:
    if needs > steps()[-1].number:
        raise StoreTooNew(
            f"the store needs a version that knows step {needs}, this one knows {steps()[-1].number}",
            operation="open",
            resource=address.shown,
            hint="upgrade headwater",
        )

"""A store's schema as text; `python -m tests.postgres.schema` writes what the steps give into `schema.txt`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headwater.engines.postgres.database import Address, Database
from headwater.engines.postgres.migrations import migrate
from tests.postgres.binaries import find_binaries
from tests.postgres.server import run_sql, start_server

GOLDEN = Path(__file__).with_name("schema.txt")
_COLUMNS = (
    "SELECT format('table %s: %s %s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),"
    " CASE WHEN a.attnotnull THEN ' not null' ELSE '' END"
    " || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')"
    " || CASE a.attidentity WHEN '' THEN '' ELSE ' identity' END)"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
    " WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum"
)
_CONSTRAINTS = (
    "SELECT format('constraint %s: %s', c.conrelid::regclass::text, pg_get_constraintdef(c.oid)) FROM pg_constraint c"
    " WHERE c.connamespace = '{schema}'::regnamespace AND c.contype <> 'n' ORDER BY c.conname"
)
_OPTIONS = (
    "SELECT format('options %s: %s', relname, reloptions) FROM pg_class"
    " WHERE relnamespace = '{schema}'::regnamespace AND reloptions IS NOT NULL ORDER BY relname"
)
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY indexname"
_SEQUENCES = (
    "SELECT format('sequence %s %s', sequencename, data_type) FROM pg_sequences"
    " WHERE schemaname = '{schema}' ORDER BY sequencename"
)
_FUNCTIONS = (
    "SELECT format('function %s: %s', p.proname, md5(replace(pg_get_functiondef(p.oid), '{schema}', '')))"
    " FROM pg_proc p WHERE p.pronamespace = '{schema}'::regnamespace ORDER BY p.proname, p.oid"
)
_QUERIES = (_COLUMNS, _CONSTRAINTS, _OPTIONS, _INDEXES, _SEQUENCES, _FUNCTIONS)


def describe(url: str, schema: str) -> str:
    """Tables, constraints, indexes and sequences in full, functions by a digest."""
    found = [row[0] for query in _QUERIES for row in run_sql(url, query.format(schema=schema))]
    return "".join(f"{line.replace(f'{schema}.', '')}\n" for line in found)


async def migrate_at(url: str) -> list[str]:
    database = Database(Address(url))
    await database.open()
    try:
        return await migrate(database)
    finally:
        await database.close()


def main() -> None:
    binaries = find_binaries()
    assert binaries is not None, "there is no PostgreSQL here"
    with start_server(binaries) as server:
        asyncio.run(migrate_at(f"{server.url}?schema=headwater"))
        GOLDEN.write_text(describe(server.url, "headwater"), "utf-8")
    print(f"{GOLDEN} is written")


if __name__ == "__main__":
    main()

"""The PostgreSQL that tests use: `HEADWATER_TEST_PG_DSN`, else one server for each process of the test run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import NoReturn
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import pytest

from tests.postgres.binaries import MISSING, Binaries, find_binaries
from tests.postgres.certificates import Certificate
from tests.postgres.server import Server, run_sql, start_server

DSN = os.environ.get("HEADWATER_TEST_PG_DSN", "")


def pytest_report_header() -> str:
    found = find_binaries()
    own = f"its own, version {found.version} of {found.folder}" if found else f"NOT TESTED: {MISSING}"
    return f"PostgreSQL: {'that of HEADWATER_TEST_PG_DSN' if DSN else own}"


def lacking(what: str) -> NoReturn:
    """Skip; continuous integration has what it takes, so that there it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgres_binaries() -> Binaries:
    return find_binaries() or lacking(MISSING)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that tests share."""
    if DSN:
        yield DSN
        return
    with start_server(request.getfixturevalue("postgres_binaries")) as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """The URL of a store of the test's own: a schema, which is not yet there and is dropped afterwards."""
    schema = f"test_{secrets.token_hex(6)}"
    yield with_schema(postgres, schema)
    drop_schema(postgres, schema)


@pytest.fixture
def start_postgres(postgres_binaries: Binaries) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own (`start_server`), which it may kill; they end with it."""
    servers: list[Server] = []

    def start(*, certificate: Certificate | None = None, **options: str) -> Server:
        servers.append(start_server(postgres_binaries, certificate=certificate, place=None, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def with_schema(url: str, schema: str) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"schema": schema}, quote_via=quote))))
    return urlunsplit(parts._replace(query=query))


def drop_schema(url: str, schema: str) -> None:
    """Fails, instead of waiting for ever, when something still uses it."""
    run_sql(url, "SET lock_timeout = '10s'", f"DROP SCHEMA IF EXISTS {schema} CASCADE")

"""The proxy, between a client and a real server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tests.postgres.machines import address_of, through
from tests.postgres.proxy import Direction, Link, Proxy
from tests.postgres.server import Server, run_sql, wait_until

BROKEN = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
Connect = Callable[[], Any]


@pytest.fixture
def proxy(postgres: str) -> Iterator[Proxy]:
    with Proxy(address_of(postgres)) as proxy:
        yield proxy


@pytest.fixture
def table(postgres: str) -> Iterator[str]:
    run_sql(postgres, "CREATE TABLE proxied (name text)")
    yield "proxied"
    run_sql(postgres, "DROP TABLE proxied")


@pytest.fixture
async def connect(proxy: Proxy, postgres: str) -> AsyncIterator[Connect]:
    clients: list[asyncpg.Connection[Any]] = []

    async def connect() -> asyncpg.Connection[Any]:
        clients.append(await asyncpg.connect(through(postgres, proxy.port), timeout=5))
        return clients[-1]

    yield connect
    for client in clients:
        client.terminate()


async def test_all_passes(connect: Connect, proxy: Proxy) -> None:
    client = await connect()
    text = "x" * 3_000_000
    assert await client.fetchval("SELECT $1 || $1", text) == text + text
    assert proxy.links == 1


async def test_a_slow_link_delays_and_carries_as_much(connect: Connect, proxy: Proxy) -> None:
    client = await connect()
    proxy.slow_down(0.3)
    begun = time.monotonic()
    assert len(await client.fetchval("SELECT repeat('x', 5000000)")) == 5_000_000
    took = time.monotonic() - begun
    assert 1.2 <= took < 15, "two round trips; 77 chunks one after the other take 23 seconds"
    proxy.slow_down(0)
    begun = time.monotonic()
    await client.fetchval("SELECT 1")
    assert time.monotonic() - begun < 0.6


def test_a_cut_is_a_reset(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"\0")
        while not proxy.links:
            time.sleep(0.001)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


async def test_after_a_cut_one_connects_again(connect: Connect, proxy: Proxy) -> None:
    client = await connect()
    proxy.cut()
    with pytest.raises(BROKEN):
        await client.fetchval("SELECT 1")
    assert await (await connect()).fetchval("SELECT 1") == 1


async def test_a_lost_reply_hides_what_has_taken_effect(
    connect: Connect, proxy: Proxy, postgres: str, table: str
) -> None:
    client = await connect()
    proxy.hold("reply")
    inserting = asyncio.create_task(client.execute(f"INSERT INTO {table} VALUES ('unheard')"))
    await asyncio.to_thread(wait_until, lambda: run_sql(postgres, f"SELECT 1 FROM {table}"), "the row is there")
    assert not inserting.done()
    proxy.cut()
    with pytest.raises(BROKEN):
        await inserting
    assert run_sql(postgres, f"SELECT name FROM {table}") == [("unheard",)]


async def test_a_partition_holds_back_what_a_cut_then_loses(
    connect: Connect, proxy: Proxy, postgres: str, table: str
) -> None:
    client, later = await connect(), await connect()
    proxy.hold()
    inserting = asyncio.create_task(client.execute(f"INSERT INTO {table} VALUES ('lost')"))
    await asyncio.wait([inserting], timeout=0.1)
    proxy.cut()
    with pytest.raises(BROKEN):
        await inserting
    wait_until(lambda: not proxy.links, "the connections are gone")
    with pytest.raises(TimeoutError):
        await asyncpg.connect(through(postgres, proxy.port), timeout=0.1)
    proxy.heal()
    with pytest.raises(BROKEN):
        await later.fetchval("SELECT 1")
    assert run_sql(postgres, f"SELECT name FROM {table}") == []


async def test_a_partition_that_heals_has_lost_nothing(
    connect: Connect, proxy: Proxy, postgres: str, table: str
) -> None:
    client = await connect()
    proxy.hold("request")
    inserting = asyncio.create_task(client.execute(f"INSERT INTO {table} VALUES ('late')"))
    await asyncio.wait([inserting], timeout=0.1)
    assert run_sql(postgres, f"SELECT name FROM {table}") == []
    proxy.heal()
    assert await inserting == "INSERT 0 1"


async def test_new_connections_are_refused_and_present_ones_go_on(connect: Connect, proxy: Proxy) -> None:
    client = await connect()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert await client.fetchval("SELECT 1") == 1
    proxy.accept()
    assert await (await connect()).fetchval("SELECT 1") == 1


async def test_one_link_is_broken_at_one_request(connect: Connect, proxy: Proxy, postgres: str, table: str) -> None:
    def lose_the_commit(link: Link, direction: Direction, data: bytes) -> None:
        if direction == "request" and b"COMMIT" in data:
            link.hold("reply")

    proxy.watch = lose_the_commit
    client, other = await connect(), await connect()
    await client.execute(f"BEGIN; INSERT INTO {table} VALUES ('unknown')")
    with pytest.raises(TimeoutError):
        await client.execute("COMMIT", timeout=0.2)
    assert await other.fetchval("SELECT 1") == 1
    assert run_sql(postgres, f"SELECT name FROM {table}") == [("unknown",)]


def test_what_the_watch_raises_is_not_lost(postgres: str) -> None:
    def fail(link: Link, direction: Direction, data: bytes) -> None:
        raise ValueError("seen")

    def use() -> None:
        with Proxy(address_of(postgres)) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
            proxy.watch = fail
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    with pytest.raises(ExceptionGroup) as failed:
        use()
    assert failed.group_contains(ValueError, match="seen")


def test_an_address_moves_to_another_server(start_postgres: Callable[..., Server], postgres: str, proxy: Proxy) -> None:
    other = start_postgres(cluster_name="other")
    proxy.target = other.address
    assert run_sql(other.url_through(proxy.port), "SHOW cluster_name") == [("other",)]


def test_a_server_that_is_gone_is_a_reset(start_postgres: Callable[..., Server]) -> None:
    server = start_postgres()
    with Proxy(server.address) as proxy:
        server.stop()
        with pytest.raises(BROKEN):
            run_sql(server.url_through(proxy.port), "SELECT 1")
        server.start()
        assert run_sql(server.url_through(proxy.port), "SELECT 1") == [(1,)]

"""Which databases a store is opened in: those that keep what they acknowledge, over TLS or a pooler as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headwater.errors import StoreError
from tests.postgres.bouncer import Bouncer, needs_pgbouncer
from tests.postgres.certificates import make_certificate
from tests.postgres.load import Load
from tests.postgres.server import Server
from tests.postgres.shop import catalog, hurry, opened

pytestmark = pytest.mark.anyio
StartPostgres = Callable[..., Server]


async def refusal(url: str) -> str:
    begin = time.monotonic()
    with pytest.raises(StoreError) as refused:
        async with opened(url):
            pass
    assert time.monotonic() - begin < 25, "at once: trying again, for 30 seconds, is no use"
    return str(refused.value)


async def test_a_database_that_may_lose_what_it_acknowledges_is_refused(start_postgres: StartPostgres) -> None:
    server = start_postgres(fsync="off")
    assert "fsync is off" in await refusal(server.url)
    assert "fsync is off" in await refusal(f"{server.url}?durability=relaxed")
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start, fsync="on")
    server.configure(full_page_writes="off")
    assert "full_page_writes is off" in await refusal(server.url)
    server.configure(full_page_writes="on")
    for value in ("off", "local"):
        server.configure(synchronous_commit=value)
        assert f"synchronous_commit is {value}" in await refusal(server.url)
        async with opened(f"{server.url}?durability=relaxed"):
            pass
    server.configure(synchronous_commit="on")
    async with opened(server.url):
        pass


async def test_tls(start_postgres: StartPostgres, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = make_certificate(tmp_path / "other")
    server = start_postgres(certificate=certificate)
    for mode in ("require", f"verify-full&sslrootcert={certificate.authority}"):
        async with opened(f"{server.url}?sslmode={mode}", install=catalog()):
            rows = server.execute("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE query <> ''")
            assert rows
            assert all(row["ssl"] for row in rows)
    assert "certificate verify failed" in await refusal(
        f"{server.url}?sslmode=verify-full&sslrootcert={stranger.authority}"
    )
    assert "no encryption" in await refusal(f"{server.url}?sslmode=disable")


@needs_pgbouncer
@pytest.mark.parametrize("listen", ["direct", "off"])
async def test_a_pooler_in_transaction_mode(
    start_postgres: StartPostgres, monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    """Two stores in one database: a statement of one must never be run as the other's."""
    hurry(monkeypatch, statement_s=5.0)
    server = start_postgres()
    with Bouncer(server, pool=3) as bouncer:
        heard = server.url if listen == "direct" else "off"
        urls = [f"{bouncer.url}?prepared=off&listen={heard}&schema={schema}" for schema in ("one", "other")]
        async with (
            opened(urls[0], install=catalog()) as one,
            opened(urls[0]) as also,
            opened(urls[1], install=catalog()) as other,
        ):
            loads = [Load([one, also]), Load([other])]
            async with loads[0].running(), loads[1].running():
                await asyncio.gather(*(load.progress(100) for load in loads))
            assert await loads[0].faults(one) == []
            assert await loads[1].faults(other) == []

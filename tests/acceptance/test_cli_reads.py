"""Every read command, with a running server and on the store that a stopped one left: the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.patience import PATIENCE_S


class Fed:
    def __init__(self, folder: Path, trace: str) -> None:
        self.folder = folder
        self.trace = trace

    def read(self, *arguments: str) -> Any:
        """The answer of a command with --json: data on standard output and nothing else anywhere."""
        ended = cli(self.folder, *arguments, "--json").ok()
        assert ended.out.count("\n") == 1
        assert ended.err == ""
        return ended.json

    def text(self, *arguments: str) -> str:
        return cli(self.folder, *arguments).ok().out


def feed(folder: Path, url: str) -> str:
    """Three orders of which one fails for good, one message that waits, two lines; the failed one's trace."""
    with httpx.Client(base_url=f"{url}/shop", timeout=PATIENCE_S) as client:
        for id, cents in (("a", 100), ("b", 250)):
            client.post("/orders", json={"id": id, "cents": cents, "customer": "ada"}).raise_for_status()
        failed = client.post("/orders", json={"id": "bad", "cents": -1}).raise_for_status()
    cli(folder, "send", "shop/parked", '{"id": "p", "cents": 1}').ok()
    for number in (2, 10):
        cli(folder, "table", "put", "shop/lines", json.dumps({"order": "a", "number": number})).ok()
    for _ in range(100):
        if cli(folder, "status", "--json").json["queues"]["dead"] == 1:
            break
    return failed.headers["headwater-trace"]


@pytest.fixture(scope="module", params=["server", "store"])
def fed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    folder = make_shop(tmp_path_factory.mktemp("reads"))
    with Serving(folder) as server:
        trace = feed(folder, server.url)
        if request.param == "store":
            assert server.stop() == 0
        yield Fed(folder, trace)
        if request.param == "server":
            assert server.stop() == 0


def test_ls(fed: Fed) -> None:
    answer = fed.read("ls")
    assert [table["name"] for table in answer["tables"]] == ["shop/lines", "shop/orders"]
    assert answer["tables"][0]["key"] == ["order", "number"]
    assert answer["topics"] == [{"name": "shop/placed"}]
    queues = {queue["name"]: queue for queue in answer["queues"]}
    assert queues["shop/bills"]["dead"] == 1
    assert queues["shop/parked"]["depth"] == 1
    assert queues["shop/bills"]["policy"]["max_receives"] == 1
    assert [(route["source"], route["target"]) for route in answer["routes"]] == [("shop/placed", "shop/bills")]
    assert "shop/parked" in fed.text("ls")


def test_status(fed: Fed, request: pytest.FixtureRequest) -> None:
    answer = fed.read("status")
    assert answer["apps"] == ["shop"]
    assert answer["queues"]["depth"] == 1
    assert answer["queues"]["dead"] == 1
    assert answer["orphans"] == ["shop/parked"]
    running = "server" in request.node.callspec.id
    assert (answer["server"] is not None) == running
    assert ("not running" in fed.text("status")) != running


def test_peek(fed: Fed) -> None:
    answer = fed.read("peek", "shop/parked")
    assert [message["event"]["data"] for message in answer["messages"]] == [{"id": "p", "cents": 1}]
    assert answer["messages"][0]["id"].endswith("/shop/parked")
    assert answer["next"] is None
    assert '{"cents":1,"id":"p"}' in fed.text("peek", "shop/parked")


def test_tail(fed: Fed) -> None:
    everything = fed.read("tail")["events"]
    assert [event["position"] for event in everything] == sorted(event["position"] for event in everything)
    orders = fed.read("tail", "shop/orders")["events"]
    assert [event["key"] for event in orders] == [["a"], ["b"]]
    assert [event["type"] for event in orders] == ["inserted", "inserted"]


def test_tail_pages_forward_without_losing_events(fed: Fed) -> None:
    seen: list[int] = []
    after, more = 0, True
    while more:
        answer = fed.read("tail", "--after", str(after), "--limit", "2")
        seen += [event["position"] for event in answer["events"]]
        after, more = answer["next"], answer["more"]
    assert seen == [event["position"] for event in fed.read("tail", "--limit", "1000")["events"]]


def test_tail_of_one_source_pages_forward(fed: Fed) -> None:
    first = fed.read("tail", "shop/placed", "--after", "0", "--limit", "2")
    rest = fed.read("tail", "shop/placed", "--after", str(first["next"]), "--limit", "2")
    assert [event["data"]["id"] for event in (*first["events"], *rest["events"])] == ["a", "b", "bad"]
    assert (first["more"], rest["more"]) == (True, False)


def test_dlq_ls_and_show(fed: Fed) -> None:
    (letter,) = fed.read("dlq", "ls")["dead_letters"]
    assert letter["queue"] == "shop/bills"
    assert letter["reason"] == "ValueError: the amount is negative"
    assert fed.read("dlq", "ls", "shop/parked")["dead_letters"] == []
    shown = fed.read("dlq", "show", str(letter["id"]))
    assert shown == letter
    assert [failure["error"] for failure in shown["failures"]] == ["ValueError: the amount is negative"]
    assert "shop.py" in fed.text("dlq", "show", str(letter["id"]))


def test_dlq_groups(fed: Fed) -> None:
    (group,) = fed.read("dlq", "groups")["groups"]
    assert (group["queue"], group["count"]) == ("shop/bills", 1)
    assert fed.read("dlq", "groups", "--search", "nothing has this")["groups"] == []
    assert "shop/bills" in fed.text("dlq", "groups", "shop/bills")


def test_map_and_ps(fed: Fed, request: pytest.FixtureRequest) -> None:
    """What runs is known while it runs."""
    serves = "server" in request.node.name
    handlers = {one["queue"]: one["handler"] for one in fed.read("map")["handlers"]}
    assert ("shop/bills" in handlers) == serves
    bills = [line for line in fed.text("map").splitlines() if " shop/bills " in line]
    assert [line.split()[0] for line in bills] == (["shop/placed"] if serves else [])
    assert (fed.read("ps")["server"] is not None) == serves
    assert fed.text("ps").startswith("process" if serves else "processes: none")


def test_schema(fed: Fed, request: pytest.FixtureRequest) -> None:
    answer = fed.read("schema", "shop/orders")
    serves = "server" in request.node.name
    assert (answer["kind"], answer["schema"] is not None) == ("table", serves)
    assert ('"cents"' in fed.text("schema", "shop/orders")) == serves


def test_apis(fed: Fed, request: pytest.FixtureRequest) -> None:
    serves = "server" in request.node.name
    assert ("POST /shop/orders" in fed.text("apis")) == serves
    assert any(one["route"] == "/orders" for one in fed.read("apis")["endpoints"]) == serves


def test_audit(fed: Fed) -> None:
    sent = fed.read("audit", "--of", "send")["actions"]
    assert [(one["operation"], one["outcome"], one["parameters"]["queue"]) for one in sent] == [
        ("send", "done", "shop/parked")
    ]
    assert len(fed.read("audit", "-n", "1")["actions"]) == 1
    assert "table-put" in fed.text("audit", "--search", "shop/lines")
    assert fed.read("audit", "--outcome", "failed")["actions"] == []


def test_table_get(fed: Fed) -> None:
    row = fed.read("table", "get", "shop/orders", "a")
    assert row["value"] == {"id": "a", "cents": 100, "customer": "ada"}
    assert row["key"] == ["a"]
    assert row["version"]
    assert json.loads(fed.text("table", "get", "shop/orders", "a")) == row["value"]


def test_table_get_by_a_numeric_sort_part(fed: Fed) -> None:
    assert fed.read("table", "get", "shop/lines", "a", "2", "--number")["key"] == ["a", 2]
    cli(fed.folder, "table", "get", "shop/lines", "a", "2").failed(4)


def test_table_query(fed: Fed) -> None:
    rows = fed.read("table", "query", "shop/orders")
    assert [row["id"] for row in rows["items"]] == ["a", "b"]
    page = fed.read("table", "query", "shop/orders", "--limit", "1", "--reverse")
    assert [row["id"] for row in page["items"]] == ["b"]
    rest = fed.read("table", "query", "shop/orders", "--limit", "1", "--reverse", "--cursor", page["cursor"])
    assert [row["id"] for row in rest["items"]] == ["a"]


def test_table_query_by_index_and_bounds(fed: Fed) -> None:
    rows = fed.read(
        "table", "query", "shop/orders", "ada", "--index", "by-customer", "--low", "200", "--high", "300", "--number"
    )
    assert [row["id"] for row in rows["items"]] == ["b"]
    lines = fed.text("table", "query", "shop/lines", "a", "--low", "3", "--high", "10", "--number")
    assert json.loads(lines)["number"] == 10


def test_table_history(fed: Fed) -> None:
    (change,) = fed.read("table", "history", "shop/orders", "a")["changes"]
    assert (change["type"], change["old"], change["data"]["cents"]) == ("inserted", None, 100)
    assert "inserted" in fed.text("table", "history", "shop/orders", "a")


def test_trace_prints_the_tree_of_a_request(fed: Fed) -> None:
    answer = fed.read("trace", fed.trace)
    (root,) = answer["roots"]
    assert root["cause"] == "POST /shop/orders"
    (message,) = root["events"][0]["messages"]
    assert (message["queue"], message["state"]) == ("shop/bills", "dead")
    assert message["failures"][0]["error"] == "ValueError: the amount is negative"
    text = fed.text("trace", fed.trace)
    assert "✗ shop/bills dead" in text
    assert "the amount is negative" in text


def test_trace_takes_ids_of_events_and_messages(fed: Fed) -> None:
    event = fed.read("tail", "shop/orders")["events"][0]
    by_trace = fed.read("trace", event["trace"])
    assert fed.read("trace", event["id"]) == by_trace
    assert fed.read("trace", event["cause"]) == by_trace
    made = by_trace["roots"][0]["events"][0]["messages"][0]["events"]
    assert [(child["source"], child["key"]) for child in made] == [("shop/orders", ["a"])]


def test_output_that_is_no_utf8_escapes_what_it_cannot_hold(fed: Fed) -> None:
    plain = cli(fed.folder, "trace", fed.trace, PYTHONIOENCODING="ascii").ok().out
    assert "\\u2717 shop/bills dead" in plain


def test_topic_subscriptions(fed: Fed) -> None:
    assert fed.read("topic", "subscriptions") == {"subscriptions": []}
    assert fed.text("topic", "subscriptions", "shop/placed") == "subscriptions: none\n"


def test_doctor(fed: Fed) -> None:
    assert fed.read("doctor") == {"sound": True, "damage": [], "unreferenced_blobs": 0}
    assert fed.text("doctor") == "the store is sound\n"

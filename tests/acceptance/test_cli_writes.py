"""Every writing command, against a running server and against a store that nobody owns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, stdin: str = "") -> Any:
        return cli(self.folder, *arguments, "--json", stdin=stdin).ok().json

    def waiting(self, queue: str) -> list[Any]:
        return [message["event"]["data"] for message in self.run("peek", queue)["messages"]]

    def bury(self, count: int) -> list[int]:
        """Dead letters of an app that is not served: made by serving it once, with orders that fail."""
        paused = {letter["id"] for letter in self.letters()}
        for n in range(count):
            self.run("publish", "shop/placed", json.dumps({"id": f"dead-{n}", "cents": -1}))
        for _ in range(100):
            ids = [letter["id"] for letter in self.letters() if letter["id"] not in paused]
            if len(ids) == count:
                return ids
        raise AssertionError("no dead letters")

    def letters(self) -> list[Any]:
        answer: list[Any] = self.run("dlq", "ls")["dead_letters"]
        return answer


@pytest.fixture(scope="module", params=["server", "store"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Dead letters are there from the start, since only a server makes them."""
    folder = make_shop(tmp_path_factory.mktemp("writes"))
    with Serving(folder) as server:
        _ = server.url
        Shop(folder).bury(4)
        cli(folder, "queue", "pause", "shop/bills").ok()
        if request.param == "store":
            assert server.stop() == 0
        yield Shop(folder)
        if request.param == "server":
            assert server.stop() == 0


def test_send_from_the_command_line_standard_input_and_a_file(shop: Shop) -> None:
    first = shop.run("send", "shop/parked", '{"id": "1", "cents": 1}')
    shop.run("send", "shop/parked", "-", stdin='{"id": "2", "cents": 2}')
    (shop.folder / "order.json").write_text('{"id": "3", "cents": 3}', "utf-8")
    shop.run("send", "shop/parked", "@order.json")
    assert [order["id"] for order in shop.waiting("shop/parked")] == ["1", "2", "3"]
    assert shop.run("trace", first["id"])["events"] == 1


def test_send_drops_a_duplicate_and_answers_the_first_id(shop: Shop) -> None:
    message = '{"id": "once", "cents": 1}'
    first = shop.run("send", "shop/letters", message, "--group", "g", "--dedup", "d1")
    again = shop.run("send", "shop/letters", message, "--group", "g", "--dedup", "d1")
    assert first == again
    assert len(shop.waiting("shop/letters")) == 1


def test_send_to_a_fifo_queue_needs_a_group(shop: Shop) -> None:
    ended = cli(shop.folder, "send", "shop/letters", '{"id": "1", "cents": 1}').failed(1)
    assert "group" in ended.err


def test_send_with_a_delay_waits(shop: Shop) -> None:
    shop.run("send", "shop/letters", '{"id": "slow", "cents": 1}', "--group", "delayed", "--delay", "1h")
    (delayed,) = [m for m in shop.run("peek", "shop/letters")["messages"] if m["group"] == "delayed"]
    assert delayed["ready"] is not None
    cli(shop.folder, "send", "shop/parked", '{"id": "1", "cents": 1}', "--delay", "soon").failed(1)


def test_publish_reaches_the_subscribed_queue_until_unsubscribed(shop: Shop) -> None:
    shop.run("queue", "purge", "shop/parked", "--yes")
    pattern = '{"cents": [{"numeric": [">", 10]}]}'
    made = shop.run("topic", "subscribe", "shop/placed", "shop/parked", "--match", pattern)
    assert shop.run("topic", "subscribe", "shop/placed", "shop/parked", "--match", pattern) == made
    (listed,) = shop.run("topic", "subscriptions", "shop/placed")["subscriptions"]
    assert (listed["id"], listed["target"]) == (made["id"], "shop/parked")
    for id, cents in (("low", 5), ("high", 50)):
        shop.run("publish", "shop/placed", json.dumps({"id": id, "cents": cents}), "--attribute", "from=test")
    assert [order["id"] for order in shop.waiting("shop/parked")] == ["high"]
    assert shop.run("topic", "unsubscribe", made["id"]) == made
    shop.run("publish", "shop/placed", '{"id": "later", "cents": 50}')
    assert [order["id"] for order in shop.waiting("shop/parked")] == ["high"]
    cli(shop.folder, "topic", "unsubscribe", made["id"]).failed(4)


def test_table_put_get_delete_with_conditions(shop: Shop) -> None:
    first = shop.run("table", "put", "shop/orders", '{"id": "x", "cents": 1}', "--if-absent")
    cli(shop.folder, "table", "put", "shop/orders", '{"id": "x", "cents": 2}', "--if-absent").failed(1)
    second = shop.run("table", "put", "shop/orders", '{"id": "x", "cents": 2}', "--if-version", first["version"])
    assert shop.run("table", "get", "shop/orders", "x")["version"] == second["version"]
    stale = ("table", "delete", "shop/orders", "x", "--if-version", first["version"])
    assert "version" in cli(shop.folder, *stale).failed(1).err
    assert shop.run("table", "delete", "shop/orders", "x", "--if-version", second["version"]) == {"key": ["x"]}
    cli(shop.folder, "table", "delete", "shop/orders", "x").failed(4)
    kinds = [change["type"] for change in shop.run("table", "history", "shop/orders", "x")["changes"]]
    assert kinds == ["removed", "modified", "inserted"]


def test_table_put_refuses_documents_that_the_table_cannot_hold(shop: Shop) -> None:
    for document, part in (
        ('{"cents": 1}', "id"),
        ('{"id": "", "cents": 1}', "0 bytes"),
        ('{"id": "x", "cents": 18446744073709551616}', "64 bits"),
        (json.dumps({"id": "x", "cents": 1, "customer": "y" * 420_000}), "bytes"),
    ):
        (shop.folder / "document.json").write_text(document, "utf-8")
        assert part in cli(shop.folder, "table", "put", "shop/orders", "@document.json").failed(1).err


def test_replay_puts_each_row_into_the_queue(shop: Shop) -> None:
    for number in (1, 2, 3):
        shop.run("table", "put", "shop/lines", json.dumps({"order": "replayed", "number": number}))
    rows = len(shop.run("table", "query", "shop/lines")["items"])
    shop.run("queue", "purge", "shop/parked", "--yes")
    assert shop.run("replay", "shop/lines", "shop/parked")["replayed"] == rows
    assert len(shop.waiting("shop/parked")) == rows


def test_pause_is_durable_and_resume_ends_it(shop: Shop) -> None:
    assert shop.run("queue", "pause", "shop/naps") == {"queue": "shop/naps", "paused": True}
    assert "shop/naps" in shop.run("status")["paused"]
    assert shop.run("queue", "resume", "shop/naps") == {"queue": "shop/naps", "paused": False}
    assert "shop/naps" not in shop.run("status")["paused"]


def test_purge_asks_and_without_a_terminal_refuses(shop: Shop) -> None:
    shop.run("queue", "purge", "shop/parked", "--yes")
    shop.run("send", "shop/parked", '{"id": "1", "cents": 1}')
    assert "--yes" in cli(shop.folder, "queue", "purge", "shop/parked", stdin="y\n").failed(2).err
    assert len(shop.waiting("shop/parked")) == 1
    assert shop.run("queue", "purge", "shop/parked", "--yes")["purged"] == 1
    assert shop.waiting("shop/parked") == []


def test_dead_letters_are_redriven_edited_and_discarded(shop: Shop) -> None:
    """The queue is paused, so that what is redriven stays visible."""
    ids = [letter["id"] for letter in shop.letters()]
    one, edited, third, fourth = ids
    shop.run("queue", "purge", "shop/bills", "--yes")
    answer = shop.run("dlq", "redrive", str(one), "--reason", "mended")
    assert answer == {"ids": [one], "missing": []}
    shop.run("dlq", "redrive", str(edited), "--edit", '{"id": "mended", "cents": 7}')
    assert [order["cents"] for order in shop.waiting("shop/bills")] == [-1, 7]
    cli(shop.folder, "dlq", "discard", str(third)).failed(2)
    shop.run("dlq", "discard", str(third), "--yes", "--reason", "a test order")
    assert [letter["id"] for letter in shop.letters()] == [fourth]
    missing = cli(shop.folder, "dlq", "redrive", str(third), "--json").failed(4)
    assert missing.json == {"ids": [], "missing": [third]}
    cli(shop.folder, "dlq", "show", str(third)).failed(4)
    assert shop.run("dlq", "redrive", "--queue", "shop/bills", "--rate", "1000")["ids"] == [fourth]
    assert shop.letters() == []


def test_redrive_needs_ids_or_a_queue_and_an_edit_one_id(shop: Shop) -> None:
    cli(shop.folder, "dlq", "redrive").failed(2)
    cli(shop.folder, "dlq", "redrive", "1", "--queue", "shop/bills").failed(2)
    cli(shop.folder, "dlq", "redrive", "--queue", "shop/bills", "--edit", "{}").failed(2)
    cli(shop.folder, "dlq", "redrive", "1", "--edit", "{").failed(2)


def test_rows_are_imported_and_exported_as_json_lines(shop: Shop) -> None:
    rows = [{"order": "imported", "number": number, "text": f"n\u009b{number}"} for number in range(450)]
    lines = [json.dumps(row) for row in rows]
    (shop.folder / "rows.jsonl").write_text("\n".join([*lines[:2], "", "[1]", *lines[2:], '{"number": 1}']), "utf-8")
    ended = cli(shop.folder, "table", "import", "shop/lines", "rows.jsonl", "--json")
    assert ended.code == 1
    assert ended.json["written"] == 450
    assert [refused["line"] for refused in ended.json["refused"]] == [4, 453]
    exported = cli(shop.folder, "table", "export", "shop/lines", "imported").ok().out.splitlines()
    assert [json.loads(line) for line in exported] == rows
    some = cli(shop.folder, "table", "export", "shop/lines", "imported", "--low", "7", "--high", "8", "--number").ok()
    assert [json.loads(line) for line in some.out.splitlines()] == rows[7:9]
    again = cli(shop.folder, "table", "import", "shop/lines", "-", "--if-absent", stdin=lines[0])
    assert (again.code, again.out) == (1, "0 written, 1 refused\n")
    cli(shop.folder, "table", "clear", "shop/lines", "imported").failed(2)
    part = ("table", "clear", "shop/lines", "imported", "--low", "3", "--high", "9", "--number", "--yes")
    assert shop.run(*part) == {"removed": 7}
    assert cli(shop.folder, *part[:4], "-y").ok().out == "shop/lines: 443 rows removed\n"
    assert shop.run("table", "query", "shop/lines", "imported")["items"] == []

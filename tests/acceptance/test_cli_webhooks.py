"""Webhooks over real sockets: subscribed by commands with and without a server, delivered by `headwater run`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from headwater import verify_webhook
from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.patience import PATIENCE_S

SECRET = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"
PERMISSION = '[default.webhooks]\nallow = ["127.0.0.0/8"]\nhttp = true\n'


class Endpoint:
    """A server in a thread that accepts everything and keeps it by path."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        received = self.received

        class Accept(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append((self.path, dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Accept)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_address[1]}{path}"

    def wait_for(self, count: int) -> list[tuple[str, dict[str, str], bytes]]:
        end = time.monotonic() + PATIENCE_S
        while len(self.received) < count:
            assert time.monotonic() < end, self.received
            time.sleep(0.02)
        return self.received

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.close()


def publish(folder: Path, id: str) -> None:
    cli(folder, "publish", "shop/placed", json.dumps({"id": id, "cents": 1})).ok()


def test_urls_are_subscribed_with_and_without_a_server(tmp_path: Path, endpoint: Endpoint) -> None:
    folder = make_shop(tmp_path / "shop")
    with (folder / "headwater.toml").open("a") as settings:
        settings.write(PERMISSION)
    (folder / "secret").write_text(SECRET + "\n")
    with Serving(folder) as server:
        _ = server.url
        assert server.stop() == 0
    given = ("topic", "subscribe", "shop/placed", endpoint.url("/given"), "--secret-file", "secret")
    (first,) = cli(folder, *given).ok().out.split()
    publish(folder, "a")
    with Serving(folder) as server:
        _ = server.url
        endpoint.wait_for(1)
        assert cli(folder, *given, "--json").ok().json == {"id": first}
        second, made = cli(folder, "topic", "subscribe", "shop/placed", endpoint.url("/made")).ok().out.split()
        publish(folder, "b")
        received = endpoint.wait_for(3)
        assert sorted(path for path, _, _ in received) == ["/given", "/given", "/made"]
        for path, headers, body in received:
            assert verify_webhook(headers, body, SECRET if path == "/given" else made)
            assert json.loads(body)["data"]["cents"] == 1
        shown = cli(folder, "topic", "subscriptions", "--json").ok().json["subscriptions"]
        assert {s["id"]: s["url"] for s in shown} == {first: endpoint.url("/given"), second: endpoint.url("/made")}
        cli(folder, "topic", "unsubscribe", second).ok()
        publish(folder, "c")
        endpoint.wait_for(4)
        assert server.stop() == 0
        assert "Y2FuYXJ5" not in server.stderr
        assert made not in server.stderr
    assert [path for path, _, _ in endpoint.received].count("/made") == 1
    assert (folder / ".headwater/secret.key").stat().st_mode & 0o777 == 0o600
    for file in (folder / ".headwater").rglob("*"):
        assert file.is_dir() or not any(secret in file.read_bytes() for secret in (b"Y2FuYXJ5", made[6:].encode()))


def test_a_name_of_this_machine_is_not_reached_unless_allowed(tmp_path: Path, endpoint: Endpoint) -> None:
    folder = make_shop(tmp_path / "shop")
    with (folder / "headwater.toml").open("a") as settings:
        settings.write("[default.webhooks]\nhttp = true\n")
    with Serving(folder) as server:
        _ = server.url
        for literal in (endpoint.url("/in"), endpoint.url("/in", "2130706433"), endpoint.url("/in", "[::1]")):
            error = cli(folder, "topic", "subscribe", "shop/placed", literal).failed(1).err
            assert "may not go" in error
        cli(folder, "topic", "subscribe", "shop/placed", endpoint.url("/in", "localhost")).ok()
        publish(folder, "a")
        (queue,) = (q["name"] for q in cli(folder, "ls", "--json").ok().json["queues"] if "webhook" in q["name"])
        end = time.monotonic() + PATIENCE_S
        while not (failures := cli(folder, "peek", queue, "--json").ok().json["messages"][0]["failures"]):
            assert time.monotonic() < end
        assert "may not go" in failures[0]["error"]
        assert server.stop() == 0
    assert endpoint.received == []


def test_a_secret_file_that_cannot_be_read_is_a_wrong_command_line(tmp_path: Path) -> None:
    folder = make_shop(tmp_path / "shop")
    cli(folder, "topic", "subscribe", "shop/placed", "https://a.example/", "--secret-file", "nothing").failed(2)

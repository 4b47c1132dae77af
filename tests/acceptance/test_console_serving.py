"""The console as processes serve it: where, to whom, until when, over a store with and without a server."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import HEADWATER, Running, Serving, cli, make_depot, make_shop
from tests.http.certificates import make_certificate
from tests.patience import PATIENCE_S

PAGE = {"Accept": "text/html"}


def console_of(serving: Running) -> str:
    return serving.wait_for(r"console +(https?://\S+)")[-1]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_where_it_is_served(tmp_path: Path, taken: int) -> None:
    folder = make_shop(tmp_path)
    with Serving(folder) as server:
        server.url  # noqa: B018
        first = console_of(server)
        assert first.startswith("http://127.0.0.1:8")
        other = make_shop(tmp_path / "other")
        with Serving(other) as beside:
            beside.url  # noqa: B018
            assert console_of(beside) != first
            assert httpx.get(f"{console_of(beside)}/queues").status_code == 200
            assert beside.stop() == 0
        assert server.stop() == 0
    with Serving(folder, HEADWATER_CONSOLE_ADDRESS="") as server:
        server.url  # noqa: B018
        assert "console" not in server.stderr
        assert server.stop() == 0
    refused = cli(folder, "run", HEADWATER_CONSOLE_ADDRESS=f"127.0.0.1:{taken}").failed(1)
    assert f"127.0.0.1:{taken}" in refused.err
    assert "console.address" in refused.err


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nowhere"])
def test_an_address_that_is_not_safe_or_no_address_is_refused(tmp_path: Path, address: str) -> None:
    ended = cli(make_shop(tmp_path), "run", HEADWATER_CONSOLE_ADDRESS=address).failed(1)
    assert "console" in ended.err


def test_over_tls_with_tokens_until_the_server_drains(tmp_path: Path) -> None:
    folder = make_shop(tmp_path)
    cert, key = make_certificate(tmp_path)
    settings = '\n[default.console]\naddress = "127.0.0.1:0"\ntokens = { "env:OPS_TOKEN" = "operator" }\n'
    with (folder / "headwater.toml").open("a") as file:
        file.write(f'tls_cert = "{cert}"\ntls_key = "{key}"\n{settings}')
    with Serving(folder, OPS_TOKEN="a token for operators") as server:
        server.url  # noqa: B018
        address = console_of(server)
        assert address.startswith("https://")
        with httpx.Client(base_url=address, verify=ssl.create_default_context(cafile=cert)) as http:
            sent = http.get("/queues", headers=PAGE)
            assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?back=/queues")
            assert "max-age" in sent.headers["strict-transport-security"]
            for path in ("/queues", "/stream", "/tables/shop/orders/export", "/objects?bucket=a&key=b"):
                assert http.get(path).status_code == 401, path
            signed_in = http.post("/sign-in", data={"token": "a token for operators"})
            assert "; secure" in signed_in.headers["set-cookie"].lower()
            with http.stream("GET", "/stream") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: marks"
                server.process.send_signal(signal.SIGTERM)
                list(lines)
        assert server.process.wait(PATIENCE_S) == 0


def test_over_a_store_with_and_without_a_server(tmp_path: Path) -> None:
    folder = make_depot(tmp_path)
    with Serving(folder, HEADWATER_CONSOLE_ADDRESS="") as server:
        server.url  # noqa: B018
        with Running(folder, *HEADWATER, "console", "--address", "127.0.0.1:0") as console:
            address = console.wait_for(r"headwater console (http://\S+)")[-1]
            check(address, "first")
            assert server.stop() == 0
            check(address, "second")
            assert console.stop(signal.SIGINT) == 0
    assert "first" in cli(folder, "bucket", "ls", "depot/files").ok().out


def check(address: str, key: str) -> None:
    """Pages, an object in and out, and who did it."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as http:
        page = http.get("/buckets/depot/files")
        assert page.status_code == 200
        token = page.text.partition('<meta name="csrf" content="')[2].partition('"')[0]
        assert http.get("/queues/depot/nothing", headers=PAGE).status_code == 404
        place = {"bucket": "depot/files", "key": key}
        stored = http.put("/objects", params=place, content=b"bytes", headers={"X-CSRF": token})
        assert (stored.status_code, stored.json()["key"]) == (200, key)
        assert http.get("/objects", params=place).content == b"bytes"
        assert http.get("/objects", params={**place, "key": "none"}).status_code == 404
        (last, *_) = http.post("/ask/audit", json={}, headers={"X-CSRF": token}).json()["actions"]
        assert (last["operation"], last["by"]) == ("put-object", "console: local")


def test_without_a_store_there_is_no_console(tmp_path: Path) -> None:
    ended = cli(tmp_path, "console", "--address", "127.0.0.1:0").failed(4)
    assert "there is no store" in ended.err
    assert list(tmp_path.iterdir()) == []

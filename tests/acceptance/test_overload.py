"""A served application at its limits: deadlines, shedding, health, drain and TLS, through the command line."""

from __future__ import annotations

import ssl
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.http.test_limits_front import certificate
from tests.patience import PATIENCE_S

__all__ = ["certificate"]

CALLING_APP = """
from pydantic import BaseModel
from headwater import App, Event

app = App("caller")
shop = app.service("shop")
told = app.table("told", dict, key="id")
asks = app.queue("asks", dict)

@app.on(asks)
async def ask(event: Event[dict]) -> None:
    answer = await shop.client.get(f"/orders/{event.data['id']}")
    await told.put({"id": event.data["id"], "status": answer.status_code, "url": str(answer.url)})

@app.http.get("/broken")
async def broken() -> None:
    raise RuntimeError("the secret reason")
"""


def configured(folder: Path, *lines: str) -> Path:
    make_shop(folder)
    (folder / "caller.py").write_text(CALLING_APP, "utf-8")
    text = ["[default]", 'apps = ["shop", "caller"]', "port = 0", 'drain = "100s"', *lines, ""]
    (folder / "headwater.toml").write_text("\n".join(text), "utf-8")
    return folder


def wait_until(path: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


class Background(threading.Thread):
    """A POST whose endpoint naps; `answer` when it has come."""

    def __init__(self, url: str, id: str, nap: float) -> None:
        super().__init__()
        self.url = f"{url}/shop/orders?nap={nap}"
        self.id = id
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self.answer = httpx.post(self.url, json={"id": self.id, "cents": 1}, timeout=PATIENCE_S)


def test_a_full_server_sheds_and_stays_healthy_and_loses_nothing(tmp_path: Path) -> None:
    folder = configured(tmp_path / "full", "[default.limits]", "requests = 2")
    with Serving(folder) as server:
        url = server.url
        running = [Background(url, id, 600) for id in ("one", "two")]
        for id in ("one", "two"):
            wait_until(folder / f"requesting-{id}")
        shed = httpx.post(f"{url}/shop/orders", json={"id": "three", "cents": 1})
        assert shed.status_code == 503
        assert shed.headers["retry-after"] == "1"
        assert shed.json()["error"] == "Overloaded"
        assert [httpx.get(f"{url}{path}").status_code for path in ("/live", "/ready")] == [200, 200]
        (folder / "wake").touch()
        for request in running:
            request.join(PATIENCE_S)
            assert request.answer is not None
            assert request.answer.status_code == 202
        assert httpx.post(f"{url}/shop/orders", json={"id": "four", "cents": 1}).status_code == 202
        assert server.stop() == 0
    events = cli(folder, "tail", "shop/placed", "--json").json["events"]
    assert {event["data"]["id"] for event in events} == {"one", "two", "four"}


def test_a_request_beyond_its_deadline_is_504_without_effect_here(tmp_path: Path) -> None:
    folder = configured(tmp_path / "late", "[default.limits]", 'request_timeout = "2s"')
    with Serving(folder) as server:
        answer = httpx.post(f"{server.url}/shop/orders?nap=600", json={"id": "late", "cents": 1}, timeout=PATIENCE_S)
        assert answer.status_code == 504
        assert answer.json()["error"] == "RequestExpired"
        assert httpx.post(f"{server.url}/shop/orders", json={"id": "soon", "cents": 1}).status_code == 202
        assert server.stop() == 0
        assert "Traceback" not in server.stderr
    events = cli(folder, "tail", "shop/placed", "--json").json["events"]
    assert [event["data"]["id"] for event in events] == ["soon"]


def test_a_server_that_drains_says_so(tmp_path: Path) -> None:
    folder = configured(tmp_path / "drain")
    with Serving(folder) as server:
        url = server.url
        assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
        cli(folder, "send", "shop/naps", '{"id": "first", "cents": 60000}').ok()
        wait_until(folder / "napping-first")
        server.process.terminate()
        server.wait_for("stopping")
        answer = httpx.get(f"{url}/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, "the server stops")
        assert httpx.get(f"{url}/live").status_code == 200
        (folder / "wake").touch()
        assert server.process.wait(PATIENCE_S) == 0


def test_an_endpoint_that_raises_is_a_problem_without_its_reason(tmp_path: Path) -> None:
    with Serving(configured(tmp_path / "broken")) as server:
        answer = httpx.get(f"{server.url}/caller/broken")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"]
        assert "secret" not in answer.text
        assert server.stop() == 0
        assert "the secret reason" in server.stderr


def test_tls_serves_and_apps_reach_each_other(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    folder = configured(tmp_path / "tls")
    context = ssl.create_default_context(cafile=str(cert))
    with Serving(folder, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with httpx.Client(verify=context, base_url=server.url) as client:
            assert client.post("/shop/orders", json={"id": "a", "cents": 1}).status_code == 202
            assert "strict-transport-security" in client.get("/live").headers
        cli(folder, "send", "caller/asks", '{"id": "a"}').ok()
        end = time.monotonic() + PATIENCE_S
        while (found := cli(folder, "table", "get", "caller/told", "a", "--json")).code and time.monotonic() < end:
            time.sleep(0.05)
        row: Any = found.json["value"]
        assert row["status"] == 200
        assert row["url"].startswith(f"{server.url}/shop/orders")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['tls_cert = "cert.pem"'], "tls_key"),
        (['tls_cert = "gone.pem"', 'tls_key = "gone.key"'], "gone.pem"),
        (['proxies = ["10.0.0.1/8"]'], "proxies"),
        (['proxies = ["*"]'], "proxies"),
        (["[default.limits]", "requests = 0"], "requests"),
        (["[default.limits]", 'body_timeout = "soon"'], "body_timeout"),
        (["[default.limits]", 'header_timeout = "0s"'], "header_timeout"),
        (["[default.limits]", "bodies = 1"], "bodies"),
        (["[default.cors]", 'origins = ["shop.example"]'], "origins"),
        (["[default.cors]", 'origins = ["*"]', "credentials = true"], "credentials"),
    ],
)
def test_a_wrong_setting_is_refused_at_start(tmp_path: Path, lines: list[str], said: str) -> None:
    ended = cli(configured(tmp_path / "wrong", *lines), "run").failed(1)
    assert said in ended.err
    assert not (tmp_path / "wrong" / ".headwater").exists()

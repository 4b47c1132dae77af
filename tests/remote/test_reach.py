"""What a job in a worker process can reach of the server: loads, presigned URLs, webhooks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli
from tests.patience import PATIENCE_S

APP = Path(__file__).with_name("reach_app.py")
SETTINGS = '[default]\napps = ["reach"]\nport = 0\ndrain = "5s"\npublic_url = "https://reach.example"\n'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("reach")
    (folder / "reach.py").write_text(APP.read_text("utf-8"), "utf-8")
    (folder / "headwater.toml").write_text(SETTINGS, "utf-8")
    with Serving(folder) as server:
        server.wait_for("worker runs")
        yield server
        assert server.stop() == 0, server.stderr


def rows(server: Serving) -> dict[str, Any]:
    lines = cli(server.folder, "table", "query", "reach/found", "--limit", "1000").ok().out.splitlines()
    return {row["id"]: row.get("answer") for row in map(json.loads, lines)}


def ask(server: Serving, id: str, do: str, **todo: Any) -> Any:
    """What a job answers."""
    cli(server.folder, "send", "reach/jobs", json.dumps({"id": id, "do": do, **todo})).ok()
    end = time.monotonic() + PATIENCE_S
    while id not in (found := rows(server)):
        assert time.monotonic() < end, server.stderr
        time.sleep(0.05)
    return found[id]


def test_a_load_is_seen_as_a_whole_and_makes_events(served: Serving) -> None:
    first = ask(served, "first", "load", first=0, last=40, bytes=100_000)
    assert first == {"inserted": 40, "unchanged": 0, "vanished": 0}
    second = ask(served, "second", "load", first=1, last=42, bytes=100_000)
    assert second == {"inserted": 2, "unchanged": 39, "vanished": 1}
    end = time.monotonic() + PATIENCE_S
    while len(events := {id for id in rows(served) if " " in id}) < 43:
        assert time.monotonic() < end, events
        time.sleep(0.05)
    assert events == {*(f"inserted {n:05}" for n in range(42)), "removed 00000"}


def test_a_presigned_url_is_the_servers(served: Serving) -> None:
    put, get = (url.replace("https://reach.example", served.url) for url in ask(served, "presign", "presign"))
    assert put.startswith(f"{served.url}/reach/files/a%2Fb.txt?expires=")
    assert httpx.put(put, content=b"text", timeout=PATIENCE_S).status_code in (200, 201)
    assert httpx.get(get, timeout=PATIENCE_S).content == b"text"
    assert httpx.get(put, timeout=PATIENCE_S).status_code == 403


def test_a_webhook_is_subscribed_and_ended(served: Serving) -> None:
    made = ask(served, "subscribe", "subscribe", url="https://hooks.example/news")
    assert made["secret"].startswith("whsec_")
    (shown,) = cli(served.folder, "topic", "subscriptions", "--json").ok().json["subscriptions"]
    assert (shown["id"], shown["url"]) == (made["id"], "https://hooks.example/news")
    assert ask(served, "unsubscribe", "unsubscribe", subscription=made["id"]) is True
    assert ask(served, "again", "unsubscribe", subscription=made["id"]) is False
    assert cli(served.folder, "topic", "subscriptions", "--json").ok().json["subscriptions"] == []

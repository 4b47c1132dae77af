"""Metrics and alarms of a real server: the listener for Prometheus, and the commands."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.ports import free_port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shop(tmp_path)


def add_setting(folder: Path, line: str) -> None:
    with (folder / "headwater.toml").open("a") as file:
        file.write(line + "\n")


def test_prometheus_has_a_listener_of_its_own_and_commands_tell_the_same(folder: Path) -> None:
    port = free_port()
    add_setting(folder, f'metrics = "127.0.0.1:{port}"')
    with Serving(folder) as server:
        for _ in range(3):
            httpx.get(f"{server.url}/shop/orders/none")
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert httpx.get(f"http://127.0.0.1:{port}/shop").status_code == 404
        names = {family.name for family in text_string_to_metric_families(text)}
        assert {"headwater_queue_depth", "headwater_http_requests", "headwater_handler_duration_seconds"} <= names
        assert 'headwater_http_request_duration_seconds_count{app="shop",method="GET",route="/orders/{id}"} 3.0' in text
        assert "headwater_queue_depth" in cli(folder, "metrics", "--prometheus").ok().out
        assert server.stop() == 0
    kept = {
        one["series"]: one["points"] for one in cli(folder, "metrics", "http_requests", "--json").ok().json["series"]
    }
    (points,) = kept.values()
    assert sum(point["value"] for point in points) == 3
    assert "3" in cli(folder, "metrics", *kept).ok().out
    assert cli(folder, "alarm", "ls").ok().out == "alarms: none\n"
    cli(folder, "alarm", "clear", "webhook-gone", "shop/hook").failed(4)


def test_a_taken_address_is_refused(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        add_setting(folder, f'metrics = "127.0.0.1:{taken.getsockname()[1]}"')
        assert "cannot listen" in cli(folder, "run").failed(1).err

"""How a server ends: signals while requests and handlers run, and a store that fails."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop, socket_of
from tests.patience import PATIENCE_S

LONG_S = 600
"""A nap, in seconds, that no patience outlasts."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whose server waits at its stop for as long as a test does."""
    return with_drain(make_shop(tmp_path / "stop"), "100s")


def with_drain(folder: Path, drain: str) -> Path:
    (folder / "headwater.toml").write_text(f'[default]\napps = ["shop"]\nport = 0\ndrain = "{drain}"\n', "utf-8")
    return folder


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def nap(folder: Path, id: str, cents: int, queue: str = "shop/naps") -> None:
    """A message whose handler runs for so many hundredths of a second."""
    cli(folder, "send", queue, f'{{"id": "{id}", "cents": {cents}}}').ok()


def test_sigterm_finishes_handlers_and_requests_and_exits_0(folder: Path) -> None:
    with Serving(folder) as server:
        url = server.url
        for id in ("first", "second", "third"):
            nap(folder, id, 100)
        wait_until((folder / "napping-first").exists)
        wait_until((folder / "napping-second").exists)
        answers: list[int] = []
        request = threading.Thread(
            target=lambda: answers.append(
                httpx.post(
                    f"{url}/shop/orders?nap=1.5", json={"id": "late", "cents": 5}, timeout=PATIENCE_S
                ).status_code
            )
        )
        request.start()
        wait_until((folder / "requesting-late").exists)
        assert server.stop() == 0
        request.join(PATIENCE_S)
        assert "Traceback" not in server.stderr
    assert answers == [202]
    done = {row["id"] for row in cli(folder, "table", "query", "shop/orders", "--json").json["items"]}
    assert {"first", "second"} <= done
    waiting = cli(folder, "status", "--json").json["queues"]["depth"]
    assert waiting == 5 - 1 - len(done), "each message is done, or waits still"


def test_a_handler_beyond_the_deadline_is_cut_off_and_its_message_kept(folder: Path) -> None:
    with Serving(with_drain(folder, "1s")) as server:
        _ = server.url
        nap(folder, "endless", LONG_S * 100)
        wait_until((folder / "napping-endless").exists)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began > 0.5
    (message,) = cli(folder, "peek", "shop/naps", "--json").json["messages"]
    assert message["event"]["data"]["id"] == "endless"


def test_a_request_beyond_the_deadline_is_cut_off_without_effect(folder: Path) -> None:
    with Serving(with_drain(folder, "1s")) as server:
        url = server.url
        ended: list[httpx.Response] = []
        order = {"id": "cut", "cents": 5}
        request = threading.Thread(
            target=lambda: ended.append(httpx.post(f"{url}/shop/orders?nap={LONG_S}", json=order, timeout=PATIENCE_S))
        )
        request.start()
        wait_until((folder / "requesting-cut").exists)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began > 0.5
        request.join(PATIENCE_S)
        assert "Traceback" not in server.stderr
    assert ended[0].status_code == 503
    assert ended[0].json()["error"] == "Stopping"
    assert cli(folder, "tail", "shop/placed", "--json").json["events"] == []


def test_a_thread_beyond_the_deadline_does_not_hold_the_process(folder: Path) -> None:
    with Serving(with_drain(folder, "1s")) as server:
        _ = server.url
        nap(folder, "stuck", LONG_S * 100, "shop/blocks")
        wait_until((folder / "blocking-stuck").exists)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began > 0.5
    assert len(cli(folder, "peek", "shop/blocks", "--json").json["messages"]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(folder: Path, number: signal.Signals) -> None:
    with Serving(folder) as server:
        _ = server.url
        nap(folder, "long", LONG_S * 100)
        wait_until((folder / "napping-long").exists)
        server.process.send_signal(number)
        server.wait_for("stopping")
        began = time.monotonic()
        assert server.stop(number) == 130
        assert time.monotonic() - began < 50
    (message,) = cli(folder, "peek", "shop/naps", "--json").json["messages"]
    assert message["event"]["data"]["id"] == "long"


def test_sigint_drains_too_and_leaves_no_socket(folder: Path) -> None:
    with Serving(folder) as server:
        _ = server.url
        assert server.stop(signal.SIGINT) == 0
    assert not socket_of(folder).exists()
    assert cli(folder, "status", "--json").json["server"] is None


def test_a_killed_server_is_replaced_by_the_next_one(folder: Path) -> None:
    with Serving(folder) as server:
        _ = server.url
        assert server.stop(signal.SIGKILL) == -9
    assert socket_of(folder).exists()
    assert cli(folder, "status", "--json").json["server"] is None
    with Serving(folder) as server:
        _ = server.url
        assert cli(folder, "status", "--json").json["server"]["pid"] == server.process.pid
        assert server.stop() == 0


def test_a_store_that_fails_ends_the_server_with_3_and_a_new_one_recovers(folder: Path) -> None:
    with Serving(folder) as server:
        url = server.url
        cli(folder, "send", "shop/parked", '{"id": "kept", "cents": 1}').ok()
        fail_writes(server.process.pid, folder / ".headwater" / "store.db-wal")
        answer = httpx.post(f"{url}/shop/orders", json={"id": "x", "cents": 5}, timeout=PATIENCE_S)
        assert answer.status_code == 503
        assert server.process.wait(PATIENCE_S) == 3
        assert "the store failed; start again to recover" in server.stderr
    with Serving(folder) as server:
        _ = server.url
        (message,) = cli(folder, "peek", "shop/parked", "--json").json["messages"]
        assert message["event"]["data"]["id"] == "kept"
        assert server.stop() == 0


def fail_writes(pid: int, wal: Path) -> None:
    """Let the process write no file beyond the present size of the WAL: EFBIG, an I/O error to the store."""
    size = wal.stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))

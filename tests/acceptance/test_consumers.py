"""Consumers over real connections: the worker in Node.js, long polls of a server that stops, and a killed server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headwater.http.keys import digest_of, make_id, make_key
from tests.acceptance.cli_processes import Serving, clean_environment, cli
from tests.docs.pages import DOCS, blocks
from tests.patience import PATIENCE_S

NODE = shutil.which("node")
SETTINGS = '[default]\napps = ["desk"]\nport = 0\ndrain = "5s"\n'


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the app of the guide."""
    declared = next(block.code for block in blocks(DOCS / "consumers.md") if "app.open(" in block.code)
    (tmp_path / "desk.py").write_text(declared, "utf-8")
    return tmp_path


@pytest.fixture
def key(desk: Path) -> str:
    """A declared API key that may send and work."""
    id = make_id()
    key = make_key("default", id)
    declared = f'id = "{id}"\ndigest = "{digest_of(key)}"\nroles = ["notes.work", "notes.write"]\n'
    (desk / "headwater.toml").write_text(f"{SETTINGS}\n[default.keys.counter]\n{declared}", "utf-8")
    return key


@pytest.fixture
def server(desk: Path, key: str) -> Iterator[Serving]:
    with Serving(desk) as serving:
        yield serving


class Calls:
    """What a consumer asks of a server."""

    def __init__(self, server: Serving, key: str) -> None:
        self.url = f"{server.url}/desk"
        self._headers = {"x-api-key": key}

    def post(self, path: str, body: Any) -> Any:
        answer = httpx.post(f"{self.url}{path}", json=body, headers=self._headers, timeout=PATIENCE_S)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def counts(self) -> dict[str, int]:
        answer = httpx.get(f"{self.url}/counts", headers=self._headers, timeout=PATIENCE_S)
        return {item["id"]: item["words"] for item in answer.json()["items"]}


class Poll:
    """A receive on a socket of its own, as bytes."""

    def __init__(self, server: Serving, key: str, wait: float = 20) -> None:
        place = urlsplit(server.url)
        body = json.dumps({"wait": wait})
        head = f"POST /desk/notes/receive HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Type: application/json"
        self.socket = socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S)
        self.socket.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def answer(self) -> tuple[int, Any]:
        """Status and body."""
        with self.socket, self.socket.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return status, json.loads(stream.read(length))

    def waits(self) -> bool:
        """Whether nothing is answered yet."""
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_S)


def test_a_long_poll_is_answered_by_the_message_and_ends_when_the_server_drains(server: Serving, key: str) -> None:
    calls = Calls(server, key)
    first, second = Poll(server, key), Poll(server, key)
    calls.post("/notes", {"id": "n1"})
    answered = first if _answered(first, second) is first else second
    waiting = second if answered is first else first
    status, body = answered.answer()
    assert (status, [each["event"]["data"]["id"] for each in body["deliveries"]]) == (200, ["n1"])
    assert waiting.waits()
    began = time.monotonic()
    ending = threading.Thread(target=server.stop)
    ending.start()
    assert waiting.answer() == (200, {"deliveries": []})
    assert time.monotonic() - began < 15
    ending.join(PATIENCE_S)
    assert server.process.returncode == 0


def _answered(*polls: Poll) -> Poll:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for poll in polls:
            if not poll.waits():
                return poll
        time.sleep(0.005)
    raise AssertionError("no poll was answered")


def test_a_client_that_is_gone_gets_nothing(server: Serving, key: str) -> None:
    calls = Calls(server, key)
    calls.post("/notes/receive", {"wait": 0})
    gone = Poll(server, key)
    gone.socket.close()
    calls.post("/notes", {"id": "n1"})
    deliveries = calls.post("/notes/receive", {"wait": 20})["deliveries"]
    assert [(each["event"]["data"]["id"], each["receives"]) for each in deliveries] == [("n1", 1)]


def test_a_killed_server_delivers_again_and_refuses_the_late_result(desk: Path, key: str) -> None:
    with Serving(desk) as server:
        calls = Calls(server, key)
        calls.post("/notes", {"id": "n1"})
        (held,) = calls.post("/notes/receive", {})["deliveries"]
        server.process.kill()
        server.process.wait(PATIENCE_S)
    with Serving(desk) as server:
        calls = Calls(server, key)
        late = calls.post("/notes/results", {"results": [{"receipt": held["receipt"], "outcome": "ack"}]})
        assert [item["status"] for item in late["results"]] == [409]
        (again,) = calls.post("/notes/receive", {})["deliveries"]
        assert again["idempotency_key"] == held["idempotency_key"]
        done = calls.post("/notes/results", {"results": [{"receipt": again["receipt"], "outcome": "ack"}]})
        assert done == {"results": [{"status": 200}]}


def test_the_worker_is_short() -> None:
    assert len((DOCS / "samples/worker.mjs").read_text("utf-8").splitlines()) < 60


@pytest.mark.needs("node", package="nodejs")
def test_the_worker_in_node_works_through_a_queue(server: Serving, key: str) -> None:
    assert NODE is not None
    calls = Calls(server, key)
    calls.post("/notes", [{"id": f"n{n}", "text": "word " * n} for n in range(25)])
    environment = clean_environment(
        QUEUE_URL=f"{calls.url}/notes", COUNTS_URL=f"{calls.url}/counts", API_KEY=key, VISIBILITY_S="30"
    )
    worker = subprocess.Popen([NODE, DOCS / "samples/worker.mjs"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + PATIENCE_S
        while len(counts := calls.counts()) < 24:
            assert time.monotonic() < end, counts
            assert worker.poll() is None
            time.sleep(0.05)
        calls.post("/notes", {"id": "late", "text": "while it waits"})
        while "late" not in calls.counts():
            assert time.monotonic() < end
            time.sleep(0.02)
        server.wait_for("a message is a dead letter.*the note has no text")
        worker.terminate()
        assert worker.wait(PATIENCE_S) == 0
    finally:
        if worker.poll() is None:
            worker.kill()
        _, errors = worker.communicate()
    assert errors == ""
    assert calls.counts() == {**{f"n{n}": n for n in range(1, 25)}, "late": 3}
    (letter,) = cli(server.folder, "dlq", "ls", "desk/notes", "--json").ok().json["dead_letters"]
    assert "the note has no text" in letter["reason"]
    assert cli(server.folder, "peek", "desk/notes", "--json").ok().json["messages"] == []

"""Logs of a real server: each line says what wrote it. And the spans that the same requests leave."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from headwater.tracing import span_of
from tests.acceptance.cli_processes import Serving, cli, make_noisy
from tests.patience import PATIENCE_S

GOOD, BAD, BROKEN = (f"0af7651916cd43dd8448eb211c80319{n}" for n in "abc")
CALLER = "b7ad6b7169203331"


class Noise:
    def __init__(self, server: Serving) -> None:
        self.folder = server.folder
        self.text = server.stderr
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def line(self, event: str, trace: str = GOOD) -> dict[str, Any]:
        (found,) = [line for line in self.lines if line["event"] == event and line.get("trace") == trace]
        return found


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noise]:
    folder = make_noisy(tmp_path_factory.mktemp("noise"))
    with Serving(folder, HEADWATER_LOG="json", HEADWATER_TRACE_SAMPLE="0") as server:
        with httpx.Client(base_url=f"{server.url}/noisy", timeout=PATIENCE_S) as client:
            for trace, id in ((GOOD, "good"), (BAD, "bad")):
                client.post(f"/jobs/{id}", headers={"traceparent": f"00-{trace}-{CALLER}-01"}).raise_for_status()
            broken = client.get("/broken/secret-id", headers={"traceparent": f"00-{BROKEN}-{CALLER}-00"})
            assert broken.status_code == 500
        server.wait_for("a message is a dead letter")
        server.wait_for("in an attempt", 2)
        server.wait_for("in a thread", 2)
        assert server.stop() == 0
        yield Noise(server)


def test_lines_of_a_request_name_it(noise: Noise) -> None:
    line = noise.line("in a request")
    assert (line["app"], line["method"], line["path"]) == ("noisy", "POST", "/jobs/{id}")
    assert (line["own"], line["level"]) == (1, "info")
    assert len(line["span"]) == 16
    plain = noise.line("in a request, plainly")
    assert {name: plain[name] for name in ("app", "method", "path", "trace", "span", "logger")} == {
        **{name: line[name] for name in ("app", "method", "path", "trace", "span")},
        "logger": "noisy.plain",
    }


@pytest.mark.parametrize(
    ("event", "handler", "queue"),
    [
        ("in a handler", "work", "jobs"),
        ("in a step", "work", "jobs"),
        ("in a handler's task, plainly", "work", "jobs"),
        ("in a thread", "work-in-thread", "threads"),
        ("in an attempt", "work-in-batch", "batches"),
    ],
)
def test_lines_of_a_handler_name_it_and_its_message(noise: Noise, event: str, handler: str, queue: str) -> None:
    line = noise.line(event)
    assert (line["app"], line["handler"], line["queue"]) == ("noisy", handler, f"noisy/{queue}")
    assert line["message"].endswith(f"/noisy/{queue}")
    assert len(line["span"]) == 16
    assert "method" not in line


def test_failed_attempts_and_dead_letters_are_lines(noise: Noise) -> None:
    failed, dead = noise.line("an attempt failed", BAD), noise.line("a message is a dead letter", BAD)
    assert (failed["level"], failed["receives"], failed["max_receives"]) == ("warning", 1, 2)
    assert (dead["level"], dead["receives"], dead["max_receives"]) == ("error", 2, 2)
    assert failed["error"] == dead["error"] == "ValueError: it is bad"
    assert 0 < failed["retry_in_s"] < 1
    for line in (failed, dead):
        assert (line["app"], line["handler"], line["queue"]) == ("noisy", "work", "noisy/jobs")
        assert line["message"].endswith("/noisy/jobs")


def test_a_request_that_failed_is_a_line_with_its_trace(noise: Noise) -> None:
    line = noise.line("Exception in ASGI application\n", BROKEN)
    assert (line["app"], line["method"], line["path"]) == ("noisy", "GET", "/broken/{id}")
    assert line["exception"]
    assert "secret-id" not in json.dumps(line)


def test_all_of_the_log_is_json_once_the_server_runs(noise: Noise) -> None:
    after = noise.text.partition("acknowledged\n")[2].splitlines()
    assert after
    assert all(line.startswith("{") for line in after)


def test_the_trace_is_printed_with_its_spans_and_their_durations(noise: Noise) -> None:
    text = cli(noise.folder, "trace", BAD).ok().out
    assert re.match(rf"trace {BAD}, 3 events, \d spans\n", text)
    assert re.search(r"\n  request POST /jobs/\{id\} 202  [\d.]+ ms\n", text)
    assert re.search(r"attempt work receive 1  [\d.]+ ms, failed\n│ +step inside  [\d.]+ ms\n", text)
    assert re.search(r"attempt work receive 2  [\d.]+ ms, failed\n", text)
    assert re.search(r"attempt work-in-thread receive 1  [\d.]+ ms\n", text)


def test_a_failed_request_of_a_trace_that_is_not_sampled_is_printed(noise: Noise) -> None:
    text = cli(noise.folder, "trace", BROKEN).ok().out
    assert re.fullmatch(
        rf"trace {BROKEN}, 0 events, 1 spans\n"
        r"request GET /broken/\{id\} 500  [\d.]+ ms, failed: RuntimeError: it broke\n",
        text,
    )


def test_the_span_of_a_line_is_the_span_of_the_trace(noise: Noise) -> None:
    answer = cli(noise.folder, "trace", GOOD, "--json").ok().json
    spans = {span["id"]: span for span in answer["spans"]}
    line = noise.line("in a handler")
    assert spans[line["span"]]["of"] == line["message"]
    assert spans[noise.line("in a step")["span"]]["parent"] == line["span"]
    request = spans[noise.line("in a request")["span"]]
    assert request["parent"] == CALLER
    (root,) = answer["roots"]
    assert {span_of(event["id"]) for event in root["events"]} == {request["id"]}

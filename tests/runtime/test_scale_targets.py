"""Where wanted numbers go: a real program, and an endpoint that checks the signature."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headwater import DeclarationError, HeadwaterError, verify_webhook
from headwater.clock import SystemClock
from headwater.config import Config
from headwater.errors import Unauthenticated
from headwater.http.addresses import EgressRules
from headwater.http.outbound import Outbound
from headwater.runtime import scale_targets
from headwater.runtime.autoscaler import Nowhere
from headwater.runtime.rules import scale_rules
from headwater.runtime.scale_targets import Command, ScaleRules, ScaleWebhook, make_target
from tests.patience import PATIENCE_S
from tests.runtime.partner import SECRET
from tests.runtime.samples import refusal

SCRIPT = """
import pathlib, sys
folder, *given = sys.argv[1:]
with (pathlib.Path(folder) / "told").open("a") as file:
    print(*given, sep="|", file=file)
"""


def script(source: str, *arguments: str) -> Command:
    return Command([sys.executable, "-c", source, *arguments])


async def test_a_command_gets_queue_and_number_as_arguments_and_no_shell(tmp_path: Path) -> None:
    command = script(SCRIPT, str(tmp_path), "{queue}", "--replicas={wanted}", "$(touch no); `x`")
    await command.set("gallery/renders", 3)
    await command.set("gallery/renders", 0)
    lines = (tmp_path / "told").read_text().splitlines()
    assert lines == [f"gallery/renders|--replicas={n}|$(touch no); `x`" for n in (3, 0)]
    assert command.running("gallery/renders") is None


async def test_a_command_that_fails_says_what_it_wrote() -> None:
    error = await refusal(script("import sys; sys.exit('no such deployment')").set("a/b", 1), HeadwaterError)
    assert "it ended with 1: no such deployment" in str(error)
    error = await refusal(Command(["/nowhere/program"]).set("a/b", 1), HeadwaterError)
    assert "it cannot be run" in str(error)


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_targets, "COMMAND_S", 1.0)
    hanging = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""
    async with asyncio.timeout(PATIENCE_S):
        error = await refusal(script(hanging, str(tmp_path / "pid")).set("a/b", 1), HeadwaterError)
    assert "no end within 1 s" in str(error)
    await ended(int((tmp_path / "pid").read_text()))


async def ended(pid: int) -> None:
    """Until the process is gone, or left for init to bury."""
    stat = Path(f"/proc/{pid}/stat")
    async with asyncio.timeout(PATIENCE_S):
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Endpoint(ThreadingHTTPServer):
    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.status = status
        self.requests: list[tuple[dict[str, str], bytes]] = []


class Answering(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((dict(self.headers.items()), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def endpoint(status: int = 204) -> Iterator[tuple[Endpoint, str]]:
    with Endpoint(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}/scale"
        finally:
            server.shutdown()
            thread.join()


LOCAL = EgressRules(allow=("127.0.0.0/8",), http=True)


async def test_a_webhook_is_signed() -> None:
    outbound = Outbound(LOCAL)
    with endpoint() as (server, url):
        target = ScaleWebhook(url, SecretStr(SECRET), outbound, SystemClock())
        await target.set("gallery/renders", 3)
        await target.set("gallery/renders", 4)
    await outbound.close()
    told = [json.loads(body) for _, body in server.requests]
    assert told == [{"queue": "gallery/renders", "wanted": number} for number in (3, 4)]
    ids = {verify_webhook(headers, body, SECRET) for headers, body in server.requests}
    assert len(ids) == 2
    with pytest.raises(Unauthenticated):
        verify_webhook(server.requests[0][0], server.requests[1][1], SECRET)


async def test_a_webhook_that_does_not_accept_is_a_failure() -> None:
    outbound = Outbound(LOCAL)
    with endpoint(503) as (_, url):
        target = ScaleWebhook(url, SecretStr(SECRET), outbound, SystemClock())
        error = await refusal(target.set("a/b", 1), HeadwaterError)
    await outbound.close()
    assert "answered 503" in str(error)
    assert "/scale" not in str(error)


def test_a_webhook_goes_where_webhooks_may_go_only() -> None:
    rules = ScaleRules(webhook="http://127.0.0.1/scale", secret=SecretStr(SECRET))
    with pytest.raises(DeclarationError, match="https"):
        make_target(rules, Outbound(), SystemClock(), None)


def test_the_settings_choose_the_target() -> None:
    outbound, clock = Outbound(LOCAL), SystemClock()
    local = Command(["local"])
    assert make_target(ScaleRules(), outbound, clock, local) is local
    assert isinstance(make_target(ScaleRules(), outbound, clock, None), Nowhere)
    command = scale_rules(Config(scale_command=("kubectl", "{wanted}")), {})
    assert isinstance(make_target(command, outbound, clock, local), Command)
    hooked = Config(scale_webhook="https://scale.example", scale_secret="env:SCALE_SECRET")
    rules = scale_rules(hooked, {"SCALE_SECRET": SECRET})
    assert isinstance(make_target(rules, outbound, clock, local), ScaleWebhook)
    assert SECRET not in repr(rules)
    with pytest.raises(DeclarationError, match="SCALE_SECRET is not set"):
        scale_rules(hooked, {})
    with pytest.raises(DeclarationError, match="base64"):
        scale_rules(hooked, {"SCALE_SECRET": "not base64!"})
    with pytest.raises(ValueError, match="not both"):
        Config(scale_webhook="https://scale.example", scale_secret="x", scale_command=("x",))
    with pytest.raises(ValueError, match="together"):
        Config(scale_webhook="https://scale.example")

"""`headwater run --reload`: each edit serves the new code, a broken one is survived."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop

APP = """
from headwater import App

app = App("shop")


@app.http.get("/answer")
async def answer() -> str:
    return "{answer}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".hidden").mkdir()
    made = make_shop(tmp_path / ".hidden" / "reload")
    (made / "shop.py").write_text(APP.format(answer="one"), "utf-8")
    return made


def answered(server: Serving, starts: int) -> str:
    """What the app says after it was started so often."""
    url = server.wait_for(r"headwater serves (\S+) \(pid", starts)[-1]
    text: str = httpx.get(f"{url}/shop/answer").json()
    return text


def test_an_edit_is_served_and_a_broken_one_survived(folder: Path) -> None:
    with Serving(folder, "--reload") as server:
        server.wait_for("watching")
        assert answered(server, 1) == "one"
        (folder / "shop.py").write_text(APP.format(answer="two"), "utf-8")
        assert answered(server, 2) == "two"
        (folder / "shop.py").write_text("def broken(:\n", "utf-8")
        server.wait_for("error: the app cannot be imported")
        (folder / "notes.txt").write_text("not watched", "utf-8")
        (folder / "shop.py").write_text(APP.format(answer="four"), "utf-8")
        assert answered(server, 3) == "four"
        assert "notes.txt" not in server.stderr
        child = cli(folder, "status", "--json").json["server"]["pid"]
        assert child != server.process.pid
        assert server.stop() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_ctrl_c_ends_watcher_and_child(folder: Path) -> None:
    with Serving(folder, "--reload") as server:
        server.wait_for("watching")
        assert answered(server, 1) == "one"
        assert server.stop(signal.SIGINT) == 0
    assert cli(folder, "status", "--json").json["server"] is None

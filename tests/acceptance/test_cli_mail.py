"""Mail of a real server process: the development mailbox, and a process that dies after its mail was accepted."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.acceptance.cli_processes import Serving, cli
from tests.patience import PATIENCE_S
from tests.runtime.mail_server import PASSWORD, USER, MailServer

APP = """
from headwater import App, email

app = App("shop")
news = app.topic("news")
news.to(email("ops@example.org", subject="Order {id}"))
"""
PUBLISH = ("publish", "shop/news", '{"id": "<o1>"}')


def make_folder(folder: Path, settings: str = "") -> Path:
    (folder / "mailing.py").write_text(APP, "utf-8")
    text = f'[default]\napps = ["mailing"]\nport = 0\n{settings}\n[production]\n'
    (folder / "headwater.toml").write_text(text, "utf-8")
    return folder


def mails(folder: Path, state: str) -> list[dict[str, Any]]:
    """The mails that have come to this state; waits for one."""
    end = time.monotonic() + PATIENCE_S
    while not (found := cli(folder, "mail", "ls", "--state", state, "--json").ok().json["mails"]):
        assert time.monotonic() < end, cli(folder, "mail", "ls").out
        time.sleep(0.05)
    return list(found)


def test_without_a_server_for_it_mail_is_in_the_development_mailbox(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with Serving(folder, "--env", "production") as server:
        server.wait_for("mail is held, no server for it is set")
        assert cli(folder, "mail", "ls").ok().out == "mails: none\n"
        cli(folder, *PUBLISH).ok()
        (mail,) = mails(folder, "held")
        assert server.stop() == 0
    assert (mail["to"], mail["subject"]) == ("ops@example.org", "Order <o1>")
    listed = cli(folder, "mail", "ls", "--to", "ops@example.org").ok().out
    assert "Order <o1>" in listed
    shown = cli(folder, "mail", "show", mail["id"]).ok().out
    assert '"id": "<o1>"' in shown
    assert "held" in shown
    html = cli(folder, "mail", "show", mail["id"], "--html").ok().out
    assert html.startswith("<!doctype html>")
    assert "Order &lt;o1&gt;" in html
    whole = cli(folder, "mail", "show", mail["id"], "--json").ok().json
    assert whole["html"] == html
    assert cli(folder, "trace", whole["events"][0]).ok().out
    cli(folder, "mail", "show", "none").failed(4)
    with Serving(folder) as server:
        assert server.url
        assert server.stop() == 0
        assert "mail is held" not in server.stderr


async def test_a_process_that_dies_after_the_mail_was_accepted_sends_the_same_again(tmp_path: Path) -> None:
    async with MailServer(login=True) as smtp:
        folder = make_folder(
            tmp_path,
            f'[default.smtp]\nhost = "127.0.0.1"\nport = {smtp.port}\nsecurity = "none"\nsender = "app@example.org"\n'
            f'username = "{USER}"\npassword = "env:SMTP_PASSWORD"',
        )
        refused = await asyncio.to_thread(cli, folder, "run")
        assert "the variable SMTP_PASSWORD is not set" in refused.failed(1).err
        with Serving(folder, SMTP_PASSWORD=PASSWORD) as server:

            def kill(address: str) -> str:
                server.process.kill()
                return "250 taken"

            smtp.on_data = kill
            await asyncio.to_thread(lambda: server.url)
            await asyncio.to_thread(cli, folder, *PUBLISH)
            await asyncio.to_thread(server.process.wait, PATIENCE_S)
        smtp.on_data = lambda address: "250 taken"
        with Serving(folder, SMTP_PASSWORD=PASSWORD) as server:
            (mail,) = await asyncio.to_thread(mails, folder, "sent")
            assert await asyncio.to_thread(server.stop) == 0
            assert PASSWORD not in server.stderr
        assert [message["Message-ID"] for _, message in smtp.mails] == [f"<{mail['id']}@example.org>"] * 2
        first, again = (message.as_bytes() for _, message in smtp.mails)
        assert first == again

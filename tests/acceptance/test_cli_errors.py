"""What the CLI says when it cannot do what it was told: two lines on standard error, and the documented exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cli_processes import HEADWATER, Serving, clean_environment, cli, make_shop, socket_of
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Serving]]:
    folder = make_shop(tmp_path_factory.mktemp("errors"))
    with Serving(folder) as server:
        _ = server.url
        yield folder, server
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["send", "shop/parked", '{"id": '], 2, "is no JSON"),
        (["send", "shop/parked", "[1]"], 2, "is no JSON object"),
        (["send", "shop/parked", "@missing.json"], 2, "cannot read missing.json"),
        (["send", "shop/nothing", "{}"], 4, "no queue of this name"),
        (["send", "shop/parked", '{"cents": 1}'], 1, "id: Field required"),
        (["publish", "shop/nothing", "{}"], 4, "no topic of this name"),
        (["publish", "shop/placed", '{"id": "1", "cents": "many"}'], 1, "cents"),
        (["peek", "shop/nothing"], 4, "no queue of this name"),
        (["peek", "shop/parked", "--limit", "0"], 2, "--limit"),
        (["table", "get", "shop/nothing", "1"], 4, "no table of this name"),
        (["table", "get", "shop/orders", "absent"], 4, "no row of this key"),
        (["table", "get", "shop/orders", "a", "b"], 1, "1 part(s)"),
        (["table", "put", "shop/orders", '{"id": "1", "cents": "many"}'], 1, "cents"),
        (["table", "query", "shop/orders", "--index", "nothing"], 1, "no index"),
        (["table", "query", "shop/orders", "--cursor", "xxxx"], 1, "cursor"),
        (["table", "query", "shop/lines", "a", "--low", "x", "--high", "y", "--number"], 2, "no whole number"),
        (["topic", "subscribe", "shop/placed", "shop/nothing"], 4, "no queue of this name"),
        (["topic", "subscribe", "shop/placed", "shop/parked", "--match", '{"a": [{"x": 1}]}'], 1, "match"),
        (["topic", "unsubscribe", "nothing"], 4, "no subscription"),
        (["replay", "shop/orders", "shop/nothing"], 4, "no queue of this name"),
        (["queue", "pause", "shop/nothing"], 4, "no queue of this name"),
        (["dlq", "show", "99"], 4, "no dead letter"),
        (["dlq", "redrive", "99"], 4, "99"),
        (["dlq", "ls", "shop/nothing"], 4, "no queue of this name"),
        (["trace", "nothing"], 4, "no event, message or trace"),
        (["nothing"], 2, "nothing"),
        (["ls", "--nothing"], 2, "--nothing"),
        (["ls", "--env", "nowhere"], 1, "[nowhere]"),
        (["ls", "--store", "oracle:x"], 1, "no engine"),
    ],
)
def test_a_refused_command_says_why(shop: tuple[Path, Serving], arguments: list[str], code: int, said: str) -> None:
    ended = cli(shop[0], *arguments).failed(code)
    assert said in ended.err
    assert arguments[:2] == ["dlq", "redrive"] or ended.out == ""


def test_no_command_prints_the_help(tmp_path: Path) -> None:
    ended = cli(tmp_path)
    assert ended.code == 2
    assert "Usage: headwater" in ended.out


def test_reads_and_writes_without_a_store_make_none(tmp_path: Path) -> None:
    for arguments in (["ls"], ["send", "shop/parked", "{}"], ["doctor"]):
        assert "there is no store" in cli(tmp_path, *arguments).failed(4).err
    assert list(tmp_path.iterdir()) == []


def test_a_store_owned_by_a_process_without_a_socket_is_read_but_not_written(shop: tuple[Path, Serving]) -> None:
    folder, server = shop
    socket = socket_of(folder)
    hidden = socket.rename(folder / ".headwater" / "hidden")
    try:
        assert cli(folder, "status", "--json").ok().json["server"] is None
        ended = cli(folder, "send", "shop/parked", '{"id": "1", "cents": 1}').failed(1)
        assert f"process {server.process.pid} owns the store" in ended.err
    finally:
        hidden.rename(socket)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    folder = make_shop(tmp_path / "stopped")
    with Serving(folder) as server:
        _ = server.url
        cli(folder, "send", "shop/parked", '{"id": "1", "cents": 1}').ok()
        assert server.stop() == 0
    return folder


def edit_store(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / ".headwater" / "store.db")
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_store_of_a_newer_format_is_refused(stopped: Path) -> None:
    edit_store(stopped, "UPDATE head SET format = 99")
    for arguments in (["ls"], ["send", "shop/parked", "{}"], ["run"]):
        ended = cli(stopped, *arguments).failed(3)
        assert "format 99" in ended.err
        assert "hint: upgrade headwater" in ended.err


def test_doctor_names_damage_and_exits_3(stopped: Path) -> None:
    edit_store(stopped, "UPDATE event SET crc = crc + 1")
    ended = cli(stopped, "doctor")
    assert ended.code == 3
    assert "checksum" in ended.out
    assert "restore a backup" in ended.err
    assert cli(stopped, "doctor", "--json").json["sound"] is False
    cli(stopped, "peek", "shop/parked").failed(3)


def test_doctor_explains_lost_commits_and_accepts_them_when_told(stopped: Path) -> None:
    edit_store(stopped, "UPDATE head SET commit_no = commit_no - 1")
    ended = cli(stopped, "doctor")
    assert ended.code == 3
    assert "acknowledged commits are missing" in ended.out
    cli(stopped, "run").failed(3)
    assert cli(stopped, "doctor", "--accept").ok().out == "the store is sound\n"
    cli(stopped, "ls").ok()


def test_doctor_does_not_accept_under_a_running_server(shop: tuple[Path, Serving]) -> None:
    assert "owns the store" in cli(shop[0], "doctor", "--accept").failed(1).err


def test_a_server_that_dies_before_it_answers_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    folder = make_shop(tmp_path / "dying")
    with Serving(folder) as server:
        _ = server.url
        server.process.send_signal(signal.SIGSTOP)
        command = [*HEADWATER, "send", "shop/parked", '{"id": "1", "cents": 1}']
        waiting = subprocess.Popen(command, cwd=folder, env=clean_environment(), stderr=subprocess.PIPE, text=True)
        try:
            wait_until_connected(waiting.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(1)
            server.process.kill()
            _, said = waiting.communicate(timeout=PATIENCE_S)
        finally:
            waiting.kill()
            waiting.wait()
    assert waiting.returncode == 3
    assert "not known" in said


def wait_until_connected(pid: int) -> None:
    """Until it has a socket: what it has to say is sent at once."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):  # it closes one meanwhile
            if any(str(link.readlink()).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir()):
                return
        time.sleep(0.01)
    raise AssertionError("it does not connect")


def test_ctrl_c_ends_with_130(shop: tuple[Path, Serving]) -> None:
    following = subprocess.Popen(
        [*HEADWATER, "tail", "--follow", "--json"],
        cwd=shop[0],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        sent = cli(shop[0], "send", "shop/parked", '{"id": "seen", "cents": 1}', "--json").json
        assert following.stdout is not None
        seen = [json.loads(line) for line in iter_until(following, sent["id"])]
        assert seen[-1]["data"]["id"] == "seen"
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=PATIENCE_S)
    finally:
        following.kill()
        following.wait()
    assert (following.returncode, said) == (130, "error: interrupted\n")


def iter_until(process: subprocess.Popen[str], id: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if id in line:
            break
    return lines


def test_a_closed_pipe_ends_quietly(shop: tuple[Path, Serving]) -> None:
    cli(shop[0], "send", "shop/parked", '{"id": "first", "cents": 1}').ok()
    following = subprocess.Popen(
        [*HEADWATER, "tail", "--follow"],
        cwd=shop[0],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert following.stderr is not None
    try:
        following.stdout.readline()
        following.stdout.close()
        cli(shop[0], "send", "shop/parked", '{"id": "second", "cents": 1}').ok()
        assert following.wait(PATIENCE_S) == 141
        assert following.stderr.read() == ""
    finally:
        following.kill()
        following.wait()
        following.stderr.close()


def on_a_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    parent, child = pty.openpty()
    try:
        kept = {name: value for name, value in clean_environment().items() if name != "NO_COLOR"}
        command = [*HEADWATER, *arguments]
        variables = {**kept, "TERM": "xterm", **environment}
        done = subprocess.run(command, cwd=folder, env=variables, stdout=child, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0
        return os.read(parent, 65536).decode()
    finally:
        os.close(parent)
        os.close(child)


def test_a_terminal_is_sent_no_control_characters_of_messages(shop: tuple[Path, Serving]) -> None:
    cli(shop[0], "send", "shop/parked", json.dumps({"id": "\x1b[31mred\x9b", "cents": 1})).ok()
    grouped = ("--group", "\x1b[31mred\x9b")
    cli(shop[0], "send", "shop/letters", '{"id": "1", "cents": 1}', *grouped).ok()
    for arguments in (["peek", "shop/parked"], ["tail", "shop/parked"], ["peek", "shop/letters"]):
        shown = on_a_terminal(shop[0], *arguments)
        assert "[31m" in shown.replace("\r\n", "")
        assert "\x1b[31m" not in shown
        assert "\x9b" not in shown


def test_no_color_makes_a_terminal_plain(shop: tuple[Path, Serving]) -> None:
    assert "\x1b[" in on_a_terminal(shop[0], "ls")
    assert "\x1b[" not in on_a_terminal(shop[0], "ls", NO_COLOR="1")

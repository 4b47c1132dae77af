"""`headwater bucket`, as processes: through a running server, and on a store of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cli_processes import HEADWATER, Serving, clean_environment, cli, make_depot, run_cli
from tests.patience import PATIENCE_S

MIB = 1024 * 1024


@pytest.fixture(params=["served", "alone"])
def depot(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder whose store a server owns, or nobody."""
    folder = make_depot(tmp_path)
    with Serving(folder) as server:
        assert server.url
        if request.param == "served":
            yield folder
            return
        server.stop()
    yield folder


def test_a_file_goes_in_and_comes_out(depot: Path) -> None:
    (depot / "a.csv").write_bytes(b"1;2\n")
    put = cli(depot, "bucket", "put", "depot/files", "a.csv", "--meta", "colour=blue", "--json").ok().json
    assert put["sha256"] == hashlib.sha256(b"1;2\n").hexdigest()
    assert (put["key"], put["size"], put["content_type"]) == ("a.csv", 4, "text/csv")
    assert put["metadata"] == {"colour": "blue"}
    out = depot / "out"
    out.mkdir()
    cli(out, "bucket", "get", "depot/files", "a.csv", "--store", f"sqlite:{depot}/.headwater").ok()
    assert [path.name for path in out.iterdir()] == ["a.csv"]
    assert (out / "a.csv").read_bytes() == b"1;2\n"
    assert cli(depot, "bucket", "put", "depot/files", "a.csv", "deep/b.csv").ok().out.strip()
    listed = cli(depot, "bucket", "ls", "depot/files", "--json").ok().json
    assert [item["key"] for item in listed["items"]] == ["a.csv", "deep/b.csv"]
    level = cli(depot, "bucket", "ls", "depot/files", "--delimiter", "/").ok().out
    assert re.findall(r"deep/\S*|a\.csv", level) == ["a.csv", "deep/"]
    assert "deep/b.csv" in cli(depot, "bucket", "ls", "depot/files", "deep/").ok().out
    assert "removed" in cli(depot, "bucket", "rm", "depot/files", "a.csv").ok().out
    cli(depot, "bucket", "rm", "depot/files", "a.csv").failed(4)
    cli(depot, "bucket", "get", "depot/files", "a.csv", "-").failed(4)


def test_streams_go_through_standard_input_and_output(depot: Path) -> None:
    content = os.urandom(3 * MIB + 17)
    put = run_cli(depot, "bucket", "put", "depot/files", "-", "streamed", stdin=content)
    assert put.returncode == 0, put.stderr
    got = run_cli(depot, "bucket", "get", "depot/files", "streamed", "-")
    assert got.returncode == 0, got.stderr
    assert got.stdout == content
    cli(depot, "bucket", "put", "depot/files", "-").failed(2)


def test_older_versions_are_listed_and_read(depot: Path) -> None:
    for content in (b"first", b"second"):
        assert run_cli(depot, "bucket", "put", "depot/kept", "-", "a", stdin=content).returncode == 0
    listed = cli(depot, "bucket", "ls", "depot/kept", "--versions", "a", "--json").ok().json
    (old,) = [item["version"] for item in listed["items"]]
    assert old in cli(depot, "bucket", "ls", "depot/kept", "--versions", "a").ok().out
    got = run_cli(depot, "bucket", "get", "depot/kept", "a", "-", "--version", old)
    assert got.stdout == b"first"
    assert run_cli(depot, "bucket", "get", "depot/kept", "a", "-").stdout == b"second"
    cli(depot, "bucket", "get", "depot/kept", "a", "-", "--version", "0" * 16).failed(4)
    cli(depot, "bucket", "ls", "depot/kept", "a", "--versions", "a").failed(2)
    cli(depot, "bucket", "ls", "depot/files", "--versions", "a").failed(1)


def test_the_bucket_s_limit_holds(depot: Path) -> None:
    refused = run_cli(depot, "bucket", "put", "depot/small", "-", "a", stdin=bytes(1001))
    assert refused.returncode == 1
    assert b"1000" in refused.stderr
    assert run_cli(depot, "bucket", "put", "depot/small", "-", "a", stdin=bytes(1000)).returncode == 0


def test_a_bucket_s_rows_are_reached_through_the_bucket_only(depot: Path) -> None:
    assert "headwater bucket" in cli(depot, "table", "get", "depot/kept", "a").failed(1).err


def test_another_store_s_objects_are_refused_without_a_server_too(tmp_path: Path) -> None:
    one, two = make_depot(tmp_path / "one"), make_depot(tmp_path / "two")
    for folder in (one, two):
        with Serving(folder) as server:
            assert server.url
            assert run_cli(folder, "bucket", "put", "depot/files", "-", "a", stdin=folder.name.encode()).returncode == 0
    environment = {**clean_environment(), "HEADWATER_OBJECTS": str(two / ".headwater" / "objects")}
    for arguments in (("get", "depot/files", "a", "-"), ("put", "depot/files", "depot.py")):
        refused = subprocess.run(
            [*HEADWATER, "bucket", *arguments],
            cwd=one,
            env=environment,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert refused.returncode == 1
        assert b"another store" in refused.stderr
    assert run_cli(one, "bucket", "get", "depot/files", "a", "-").stdout == b"one"


def test_conditions_and_checksums(depot: Path) -> None:
    (depot / "a").write_bytes(b"1")
    etag = cli(depot, "bucket", "put", "depot/files", "a", "--if-absent").ok().out.strip()
    assert "exists" in cli(depot, "bucket", "put", "depot/files", "a", "--if-absent").failed(1).err
    cli(depot, "bucket", "put", "depot/files", "a", "--if-match", "other").failed(1)
    cli(depot, "bucket", "put", "depot/files", "a", "--sha256", "0" * 64).failed(1)
    cli(depot, "bucket", "rm", "depot/files", "a", "--if-match", "other").failed(1)
    new = cli(depot, "bucket", "put", "depot/files", "a", "--if-match", etag).ok().out.strip()
    cli(depot, "bucket", "rm", "depot/files", "a", "--if-match", new).ok()


def test_keys_are_data(depot: Path) -> None:
    (depot / "content").write_bytes(b"x")
    for key in ("../x", "%2F", "\x1b[31mred a\u0301"):
        cli(depot, "bucket", "put", "depot/files", "content", "--", key).ok()
        assert run_cli(depot, "bucket", "get", "depot/files", "--", key, "-").stdout == b"x"
        assert [item["key"] for item in cli(depot, "bucket", "ls", "depot/files", "--json").ok().json["items"]] == [key]
        assert "\x1b" not in cli(depot, "bucket", "ls", "depot/files").ok().out
        assert "\x1b" not in cli(depot, "bucket", "rm", "depot/files", "--", key).ok().out


def test_a_download_replaces_nothing_and_leaves_no_half(depot: Path) -> None:
    (depot / "a").write_bytes(b"old")
    (depot / "new").write_bytes(b"new")
    cli(depot, "bucket", "put", "depot/files", "new", "a").ok()
    assert "--force" in cli(depot, "bucket", "get", "depot/files", "a").failed(2).err
    assert (depot / "a").read_bytes() == b"old"
    cli(depot, "bucket", "get", "depot/files", "a", "--force").ok()
    assert (depot / "a").read_bytes() == b"new"
    cli(depot, "bucket", "get", "depot/files", "missing").failed(4)
    (blob,) = [p for p in (depot / ".headwater" / "objects").glob("??/*") if p.read_bytes() == b"new"]
    blob.write_bytes(b"nem")
    damaged = cli(depot, "bucket", "get", "depot/files", "a", "fresh").failed(1)
    assert "not the object's" in damaged.err
    blob.write_bytes(b"ne")
    assert cli(depot, "bucket", "get", "depot/files", "a", "fresh").code in (1, 3)
    assert not (depot / "fresh").exists()
    assert not list(depot.glob(".fresh*"))


ERRORS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("put", "depot/files", "nothing"), 2),
    (("put", "depot/files", "."), 2),
    (("put", "depot/nothing", "depot.py"), 4),
    (("put", "depot/seen", "depot.py"), 4),
    (("put", "depot/files.gone", "depot.py"), 4),
    (("put", "depot/files", "depot.py", "--meta", "x"), 2),
    (("put", "depot/files", "depot.py", "--content-type", "a\nb"), 1),
    (("put", "depot/files", "depot.py", "k" * 1025), 1),
    (("get", "depot/nothing", "a"), 4),
    (("get", "depot/files", "a", "-", "--json"), 2),
    (("get", "depot/files", "a/.."), 2),
    (("ls", "depot/nothing"), 4),
    (("ls", "depot/files", "--cursor", "x"), 1),
    (("rm", "depot/nothing", "a"), 4),
)


def test_errors_have_their_codes(depot: Path) -> None:
    for arguments, code in ERRORS:
        cli(depot, "bucket", *arguments).failed(code)


def test_without_a_store_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for arguments in (("put", "x/y", "a"), ("get", "x/y", "a", "b"), ("ls", "x/y")):
        cli(tmp_path, "bucket", *arguments).failed(4)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_presigned_urls_of_a_running_server(tmp_path: Path) -> None:
    folder = make_depot(tmp_path)
    with Serving(folder) as server:
        assert server.url
        url = cli(folder, "bucket", "presign", "depot/small", "put", "a/b", "--size", "3", "--once").ok().out.strip()
        assert url.startswith(f"{server.url}/depot/small/a%2Fb?")
        assert httpx.put(url, content=b"1234").status_code == 413
        assert httpx.put(url, content=b"123").status_code == 201
        assert httpx.put(url, content=b"123").status_code == 403
        get = cli(folder, "bucket", "presign", "depot/small", "GET", "a/b", "--expires", "1h", "--json").ok().json
        assert httpx.get(get["url"]).content == b"123"
        assert "not exposed" in cli(folder, "bucket", "presign", "depot/hidden", "GET", "a").failed(1).err
        cli(folder, "bucket", "presign", "depot/files", "DELETE", "a").failed(1)
        cli(folder, "bucket", "presign", "depot/files", "GET", "a", "--expires", "30d").failed(1)
        too_large = run_cli(folder, "bucket", "put", "depot/small", "-", "k", stdin=b"x" * 1001)
        assert too_large.returncode == 1
        assert b"1000 bytes" in too_large.stderr
        (folder / "large").write_bytes(b"x" * 5 * MIB)
        assert "1000 bytes" in cli(folder, "bucket", "put", "depot/small", "large").failed(1).err
    assert "headwater run" in cli(folder, "bucket", "presign", "depot/files", "GET", "a").failed(1).err


def test_what_the_command_put_without_a_server_is_handled_by_the_next(tmp_path: Path) -> None:
    folder = make_depot(tmp_path)
    with Serving(folder) as server:
        assert server.url
        server.stop()
    (folder / "a").write_bytes(b"x")
    cli(folder, "bucket", "put", "depot/files", "a").ok()
    with Serving(folder) as server:
        assert server.url
        assert until_seen(folder, "a")["size"] == 1


def test_a_dropped_file_becomes_an_object(tmp_path: Path) -> None:
    folder = make_depot(tmp_path)
    with Serving(folder) as server:
        assert server.url
        (folder / "drop" / "in.csv").write_bytes(b"1;2")
        assert until_seen(folder, "dropped/in.csv")["size"] == 3


def until_seen(folder: Path, key: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while (found := cli(folder, "table", "get", "depot/seen", key, "--json")).code:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found.json["value"]


def test_a_terminal_gets_a_progress_bar_and_a_pipe_none(depot: Path) -> None:
    (depot / "large").write_bytes(os.urandom(20 * MIB))
    shown = on_terminal(depot, "bucket", "put", "depot/files", "large")
    assert b"MB" in shown
    assert b"MB" in on_terminal(depot, "bucket", "get", "depot/files", "large", "copy")
    assert (depot / "copy").read_bytes() == (depot / "large").read_bytes()
    assert "MB" not in cli(depot, "bucket", "put", "depot/files", "large").ok().err


def on_terminal(folder: Path, *arguments: str) -> bytes:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "100"}
    with contextlib.closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        process = subprocess.Popen(
            [*HEADWATER, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while piece := screen.read(4096):
                shown += piece
        assert process.wait(PATIENCE_S) == 0, shown
    return shown

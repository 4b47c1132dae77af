"""Objects over real sockets of a real server: large ones in constant memory, cut-off ones, and a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, make_depot
from tests.patience import PATIENCE_S

MIB = 1024 * 1024
LARGE = 100
"""Megabytes of a large object."""
SPARE_KB = 32 * 1024
"""How much the server's memory may grow meanwhile: buffers, threads, and what the allocator keeps."""
OBJECTS = Path(".headwater") / "objects"
BLOCK = os.urandom(MIB)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with Serving(make_depot(tmp_path)) as server:
        assert server.url
        yield server


def peak_kb(server: Serving) -> int:
    """The most memory that the server's process ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text("utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def blobs(folder: Path) -> list[Path]:
    """Whole blobs and those that are being written."""
    return [path for path in folder.glob("*/*") if len(path.parent.name) == 2 or path.parent.name == "tmp"]


def unfinished(server: Serving) -> list[Path]:
    return [path for path in blobs(server.folder / OBJECTS) if path.parent.name == "tmp"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def large() -> Iterator[bytes]:
    for _ in range(LARGE):
        yield BLOCK


def test_a_large_object_takes_no_memory(server: Serving) -> None:
    """In and out, chunked and with its length told, also by a client that reads slowly."""
    digest = hashlib.sha256(b"".join(large())).hexdigest()
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as web:
        web.put("/depot/files/warm", content=BLOCK * 2)
        assert len(web.get("/depot/files/warm").content) == 2 * MIB
        before = peak_kb(server)
        chunked = web.put("/depot/files/large", content=large())
        assert chunked.status_code == 201
        assert chunked.json()["sha256"] == digest
        told = web.put("/depot/files/large", content=large(), headers={"Content-Length": str(LARGE * MIB)})
        assert told.status_code == 200
        found = hashlib.sha256()
        with web.stream("GET", "/depot/files/large") as response:
            for n, chunk in enumerate(response.iter_bytes(MIB)):
                found.update(chunk)
                if n == 3:
                    time.sleep(0.5)
        assert found.hexdigest() == digest
        part = web.get("/depot/files/large", headers={"Range": f"bytes={99 * MIB}-{99 * MIB + 9}"})
        assert (part.status_code, part.content) == (206, BLOCK[:10])
        assert web.put("/depot/files/over", content=(BLOCK for _ in range(257))).status_code == 413
    grown = peak_kb(server) - before
    assert grown < SPARE_KB, f"{grown} kB"


def connect(server: Serving) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), PATIENCE_S)


@pytest.mark.parametrize("head", ["Content-Length: 20971520\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("reset", [True, False])
def test_an_upload_that_is_cut_off_leaves_nothing(server: Serving, head: str, reset: bool) -> None:
    """Whether the client ends the connection or vanishes; a chunked body has no end then, not an early one."""
    with connect(server) as wire:
        wire.sendall(f"PUT /depot/files/cut HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        for _ in range(5):
            wire.sendall(b"100000\r\n" + BLOCK + b"\r\n" if "chunked" in head else BLOCK)
        until(lambda: any(path.stat().st_size > 3 * MIB for path in unfinished(server)))
        if reset:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    until(lambda: not blobs(server.folder / OBJECTS))
    assert httpx.get(f"{server.url}/depot/files/cut").status_code == 404
    assert "Traceback" not in server.stderr


def test_a_client_that_leaves_during_a_download_is_noticed(server: Serving) -> None:
    httpx.put(f"{server.url}/depot/files/large", content=large(), timeout=PATIENCE_S)
    before = read_bytes(server)
    with connect(server) as wire:
        wire.sendall(b"GET /depot/files/large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: open_blobs(server) == 1)
    until(lambda: open_blobs(server) == 0)
    assert read_bytes(server) - before < LARGE * MIB // 2
    assert "Traceback" not in server.stderr


def read_bytes(server: Serving) -> int:
    """How many bytes the server's process has read, files and sockets together."""
    counts = Path(f"/proc/{server.process.pid}/io").read_text("utf-8")
    return int(re.findall(r"rchar: (\d+)", counts)[0])


def open_blobs(server: Serving) -> int:
    found = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "/objects/" in os.readlink(link)
    return found


def test_an_upload_with_expect_is_refused_before_it_is_sent(server: Serving) -> None:
    with connect(server) as wire:
        head = "PUT /depot/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        wire.sendall(head.encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 413")


def test_the_server_stops_in_the_middle_of_an_upload(server: Serving) -> None:
    with connect(server) as wire:
        wire.sendall(b"PUT /depot/files/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 20971520\r\n\r\n" + BLOCK * 2)
        until(lambda: bool(unfinished(server)))
        server.process.kill()
        server.process.wait(PATIENCE_S)
    assert unfinished(server)
    with Serving(server.folder) as again:
        assert httpx.get(f"{again.url}/depot/files/cut").status_code == 404
        assert blobs(server.folder / OBJECTS) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", [20 * MIB, None])
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, small_disk: Path, size: int | None) -> None:
    with Serving(make_depot(tmp_path / "depot"), HEADWATER_OBJECTS=str(small_disk / "objects")) as server:
        length = {} if size is None else {"Content-Length": str(size)}
        full = httpx.put(
            f"{server.url}/depot/files/a", content=(BLOCK for _ in range(20)), headers=length, timeout=PATIENCE_S
        )
        assert full.status_code == 507
        assert full.headers["content-type"] == "application/problem+json"
        assert full.json()["error"] == "StoreFull"
        assert str(small_disk) not in full.text
        assert blobs(small_disk / "objects") == []
        assert httpx.get(f"{server.url}/depot/files/a").status_code == 404
        assert httpx.put(f"{server.url}/depot/files/a", content=BLOCK).status_code == 201
        assert httpx.get(f"{server.url}/depot/files/a").content == BLOCK

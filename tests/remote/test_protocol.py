"""Greetings, frames and errors: what a connection is ended for, and what comes over it unchanged."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater.catalog import Catalog
from headwater.engine import AlreadyClaimed
from headwater.engines.remote import wire
from headwater.engines.remote.engine import RemoteEngine
from headwater.engines.remote.owner import GREETING_S
from headwater.errors import DeclarationError, InvalidValue, StoreError, StoreFull, TooLarge, UnknownResource
from headwater.unit import Claim, new_commit
from tests.conformance.workbench import write
from tests.patience import PATIENCE_S
from tests.remote.conftest import QUEUE, TABLE, Shared

pytestmark = pytest.mark.anyio


def path_of(store: Shared) -> Path:
    return store.engine._path


class Raw:
    """A client that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, store: Shared, hello: object = wire.Hello(wire.VERSION, 1)) -> Raw:
        raw = cls(*await asyncio.open_unix_connection(str(path_of(store))))
        if hello is not None:
            raw.send(msgspec.msgpack.encode(hello))
        return raw

    def send(self, body: bytes, length: int | None = None) -> None:
        self.writer.write((len(body) if length is None else length).to_bytes(4, "big") + body)

    async def frame(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            return msgspec.msgpack.decode(await self.reader.readexactly(length))

    async def is_ended(self) -> bool:
        """Whether the owner ends the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        self.writer.close()
        return True


async def test_the_owner_tells_its_version_and_catalog(store: Shared) -> None:
    raw = await Raw.to(store)
    welcome = await raw.frame()
    assert (welcome["headwater"], list(welcome["catalog"]["queues"])) == (wire.VERSION, [QUEUE])
    raw.writer.close()


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([15, 1, "shop/rows"]),
        msgspec.msgpack.encode([14, "one"]),
        b"\xa2\xff\xff",
        b"",
    ],
    ids=["no-msgpack", "unknown-request", "field-missing", "wrong-type", "no-utf-8", "empty"],
)
async def test_a_frame_that_makes_no_sense_ends_its_connection_alone(store: Shared, body: bytes) -> None:
    for greeted in (True, False):
        raw = await Raw.to(store) if greeted else await Raw.to(store, hello=None)
        raw.send(body)
        assert await raw.is_ended()
    await store.put(TABLE, "row", {"id": "row"})
    assert await store.read(TABLE, "row") == {"id": "row"}, "others go on"


async def test_a_frame_beyond_the_cap_ends_the_connection_before_it_is_read(store: Shared) -> None:
    raw = await Raw.to(store)
    raw.send(b"x", length=wire.MAX_FRAME + 1)
    assert await raw.is_ended()


async def test_who_never_greets_is_cut_off(store: Shared) -> None:
    raw = await Raw.to(store, hello=None)
    await store.barrier()
    assert len(store.engine.owner.connections) == 2
    store.clock.advance(GREETING_S)
    assert await raw.is_ended()


async def test_frames_in_pieces_are_put_together(store: Shared) -> None:
    raw = await Raw.to(store)
    await raw.frame()
    body = msgspec.msgpack.encode(wire.Now(7))
    for byte in len(body).to_bytes(4, "big") + body:
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
        await asyncio.sleep(0)
    assert (await raw.frame())[:2] == [7, await store.owned.now_ms()]
    raw.writer.close()


async def test_a_worker_of_another_version_is_refused(store: Shared) -> None:
    raw = await Raw.to(store, {"headwater": wire.VERSION + 1, "pid": 1, "new": "field"})
    assert (await raw.frame())["headwater"] == wire.VERSION
    assert await raw.is_ended()


async def test_a_server_of_another_version_is_refused(store: Shared) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        body = msgspec.msgpack.encode({"headwater": wire.VERSION + 1})
        writer.write(len(body).to_bytes(4, "big") + body)
        await writer.drain()
        writer.close()

    path = path_of(store).with_name("other")
    server = await asyncio.start_unix_server(answer, str(path))
    engine = RemoteEngine(path, clock=store.clock)
    with pytest.raises(DeclarationError, match="speaks version"):
        await asyncio.wait_for(engine.open(), PATIENCE_S)
    await engine.close()
    server.close()


async def test_a_catalog_that_does_not_fit_ends_open(store: Shared) -> None:
    def check(catalog: Catalog) -> None:
        raise DeclarationError(f"not with {list(catalog.tables)}")

    engine = RemoteEngine(path_of(store), clock=store.clock, check=check)
    with pytest.raises(DeclarationError, match="shop/rows"):
        await engine.open()
    await engine.close()


OTHER_USER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(10)
s.connect(sys.argv[1])
try:
    s.sendall(bytes.fromhex(sys.argv[2]))
    print("answered" if s.recv(1) else "ended")
except (BrokenPipeError, ConnectionResetError):
    print("ended")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused(store: Shared) -> None:
    """Even where the file permissions would let it in."""
    path = path_of(store)
    path.chmod(0o777)
    path.parent.chmod(0o755)
    hello = msgspec.msgpack.encode(wire.Hello(wire.VERSION, 1))
    frame = (len(hello).to_bytes(4, "big") + hello).hex()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", OTHER_USER, str(path), frame], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


async def test_a_socket_of_another_user_is_not_trusted(store: Shared) -> None:
    engine = RemoteEngine(path_of(store), clock=store.clock)
    engine._trusted = {12345}
    with pytest.raises(StoreError, match="another user"):
        await engine.open()
    await engine.close()


async def test_errors_arrive_as_they_were_raised(store: Shared) -> None:
    await store.claim("scope", "id", 60, b"its result")
    with pytest.raises(AlreadyClaimed) as taken:
        await store.claim("scope", "id", 60, b"another")
    assert (taken.value.result, taken.value.resource) == (b"its result", "scope")
    with pytest.raises(UnknownResource) as unknown:
        await store.engine.read("shop/nothing", ("x", ""))
    assert (unknown.value.resource, bool(unknown.value.hint)) == ("shop/nothing", True)


def test_every_error_keeps_its_kind_and_fields() -> None:
    invalid = InvalidValue("wrong", operation="put", resource="t", hint="mend it")
    invalid.errors = [{"type": "missing", "loc": ["a"], "msg": "m"}]
    for error in (invalid, StoreFull("no room"), TooLarge("big", resource="t")):
        told = wire.error_of(msgspec.msgpack.decode(wire.encode(wire.refusal_of(error)), type=wire.Refusal))
        assert (type(told), str(told), told.retryable) == (type(error), str(error), error.retryable)
        assert list(getattr(told, "errors", ())) == list(getattr(error, "errors", ()))
    foreign = wire.error_of(wire.refusal_of(ZeroDivisionError("oops")))
    assert (type(foreign), "oops" in str(foreign)) == (StoreError, True)
    assert type(wire.error_of(wire.Refusal(kind="Retry", message="no error of ours"))) is StoreError


async def test_what_is_larger_than_a_frame_is_refused_on_either_side(
    store: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(TABLE, "row", {"id": "row", "text": "x" * 20_000})
    monkeypatch.setattr(wire, "MAX_FRAME", 10_000)
    with pytest.raises(TooLarge):
        await asyncio.wait_for(store.engine.read(TABLE, ("row", "")), PATIENCE_S)
    commit = new_commit()
    write(commit, TABLE, "other", {"id": "other", "text": "x" * 20_000})
    with pytest.raises(TooLarge):
        await store.engine.commit(commit)
    commit = new_commit()
    commit.claims.append(Claim("a", "b", 1))
    await asyncio.wait_for(store.engine.commit(commit), PATIENCE_S)


async def test_more_messages_than_fit_a_frame_come_in_several(store: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.send(QUEUE, *("x" * 1_000 for _ in range(16)))
    monkeypatch.setattr(wire, "MAX_FRAME", 10_000)
    first = await asyncio.wait_for(store.engine.receive(QUEUE, 16), PATIENCE_S)
    assert 1 < len(first) < 16
    rest = await store.take(QUEUE, 16 - len(first))
    assert sorted(d.position for d in first + rest) == sorted({d.position for d in first + rest})
    assert {delivery.receives for delivery in first + rest} == {1}

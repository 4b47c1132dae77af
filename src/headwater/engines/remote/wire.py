"""What passes between a worker and the store's owner: frames, greetings, requests, answers, and errors as data."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from headwater import errors
from headwater.catalog import Catalog, RouteSpec
from headwater.engine import AlreadyClaimed, Counted, Differences, Document, Features, Missing, Query
from headwater.errors import HeadwaterError, InvalidValue, StoreError, TooLarge
from headwater.events import Key
from headwater.unit import Commit

VERSION = 2
"""Of the requests, the answers, and the types in them. Both sides have the same, or part."""
MAX_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Hello(msgspec.Struct, frozen=True):
    """A worker's first frame; later versions may only add fields."""

    headwater: int
    pid: int


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's first frame. Of another version, `headwater` alone means something."""

    headwater: int
    features: Features | None = None
    catalog: Catalog | None = None
    address: str = ""
    public_url: str = ""
    presigning: bytes = b""


class Cancel(msgspec.Struct, tag=1, array_like=True, gc=False):
    """Give up a waiting `Receive`, which is answered all the same: with what it had got, or nothing."""

    number: int


class Report(msgspec.Struct, tag=2, array_like=True):
    counted: Counted


class EndStaging(msgspec.Struct, tag=3, array_like=True):
    load: int


class Abandon(msgspec.Struct, tag=4, array_like=True):
    load: int


class Hold(msgspec.Struct, tag=5, array_like=True):
    """All blobs that the worker may still commit, in place of those it named before."""

    blobs: list[str]


class Submit(msgspec.Struct, tag=10, array_like=True, gc=False):
    number: int
    commit: Commit


class Receive(msgspec.Struct, tag=11, array_like=True):
    number: int
    queue: str
    limit: int
    grouped: bool


class Extend(msgspec.Struct, tag=12, array_like=True):
    number: int
    fences: list[int]


class Release(msgspec.Struct, tag=13, array_like=True):
    number: int
    fences: list[int]


class Now(msgspec.Struct, tag=14, array_like=True):
    number: int


class Read(msgspec.Struct, tag=15, array_like=True):
    number: int
    table: str
    key: Key


class Select(msgspec.Struct, tag=16, array_like=True):
    number: int
    query: Query


class History(msgspec.Struct, tag=17, array_like=True):
    number: int
    table: str
    key: Key
    limit: int


class Claimed(msgspec.Struct, tag=18, array_like=True):
    number: int
    scope: str
    id: str


class GetCatalog(msgspec.Struct, tag=19, array_like=True):
    number: int


class GetStats(msgspec.Struct, tag=20, array_like=True):
    number: int


class Subscribe(msgspec.Struct, tag=21, array_like=True):
    number: int
    route: RouteSpec


class Unsubscribe(msgspec.Struct, tag=22, array_like=True):
    number: int
    id: str


class Replay(msgspec.Struct, tag=23, array_like=True):
    number: int
    table: str
    queue: str


class SubscribeUrl(msgspec.Struct, tag=28, array_like=True):
    """Answered with the subscription's id, and the secret that was made for it, or ""."""

    number: int
    route: RouteSpec
    url: str
    secret: str | None


class BeginLoad(msgspec.Struct, tag=24, array_like=True):
    number: int
    table: str
    scope: str


class Stage(msgspec.Struct, tag=25, array_like=True):
    number: int
    load: int
    documents: list[Document]


class Finish(msgspec.Struct, tag=26, array_like=True):
    number: int
    load: int
    missing: Missing
    grace_ms: int
    max_removed: float


class Stands(msgspec.Struct, tag=27, array_like=True):
    number: int
    table: str
    scope: str


class Staged(msgspec.Struct, frozen=True):
    """The answer to `Stage` and `Finish`: how many rows are staged by now, and what the request found."""

    staged: int
    differences: Differences = Differences()
    vanished: int = 0


Loading = BeginLoad | Stage | Finish | Stands
Notice = Cancel | Report | EndStaging | Abandon | Hold
Request = (
    Submit
    | Receive
    | Extend
    | Release
    | Now
    | Read
    | Select
    | History
    | Claimed
    | GetCatalog
    | GetStats
    | Subscribe
    | Unsubscribe
    | SubscribeUrl
    | Replay
    | Loading
)


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as data. `result` is that of a claim that is taken."""

    kind: str
    message: str
    operation: str = ""
    resource: str = ""
    hint: str = ""
    result: bytes = b""
    errors: list[dict[str, Any]] = []


class Answer(msgspec.Struct, array_like=True, gc=False):
    """To the request of this number: its result, or why there is none."""

    number: int
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    refusal: Refusal | None = None


encode = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(Notice | Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def refusal_of(error: BaseException) -> Refusal:
    if not isinstance(error, HeadwaterError):
        return Refusal(kind=StoreError.__name__, message=repr(error))
    return Refusal(
        kind=type(error).__name__,
        message=error.message,
        operation=error.operation,
        resource=error.resource,
        hint=error.hint,
        result=error.result if isinstance(error, AlreadyClaimed) else b"",
        errors=[dict(one) for one in error.errors] if isinstance(error, InvalidValue) else [],
    )


def error_of(refusal: Refusal) -> HeadwaterError:
    """The error that the owner's engine raised; one of an unknown kind is a `StoreError`."""
    if refusal.kind == AlreadyClaimed.__name__:
        taken = AlreadyClaimed(refusal.resource, "", refusal.result)
        taken.message = refusal.message
        return taken
    kind = getattr(errors, refusal.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, HeadwaterError)):
        kind = StoreError
    error = kind.__new__(kind)
    HeadwaterError.__init__(
        error, refusal.message, operation=refusal.operation, resource=refusal.resource, hint=refusal.hint
    )
    if isinstance(error, InvalidValue):
        error.errors = refusal.errors
    return error


class Frames:
    """The frames of a stream, from its pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The frames that are whole now; raises `TooLarge` as soon as one says that it will be."""
        buffer = self._buffer
        buffer += piece
        at = 0
        try:
            while len(buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, at)
                if length > MAX_FRAME:
                    raise TooLarge(f"a frame of {length} bytes, {MAX_FRAME} are allowed", operation="receive frame")
                end = at + _LENGTH.size + length
                if end > len(buffer):
                    return
                frame = bytes(memoryview(buffer)[at + _LENGTH.size : end])
                at = end
                yield frame
        finally:
            del buffer[:at]


class Sender:
    """Writes frames to a transport, those of one turn of the event loop together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def send(self, body: bytes) -> None:
        """Raises `TooLarge`, and nothing is sent."""
        if len(body) > MAX_FRAME:
            raise TooLarge(f"a message of {len(body)} bytes, {MAX_FRAME} are allowed", operation="send frame")
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting += (_LENGTH.pack(len(body)), body)

    def flush(self) -> None:
        if self._waiting and not self._transport.is_closing():
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()


def peer_of(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """(process, user) at the other end, as the kernel knows them; (0, -1) where it does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, -1
    size = struct.calcsize("3i")
    told = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, user, _ = struct.unpack("3i", told)
    return pid, user

"""What is stored of tracked operations, and how their messages look."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from headwater.codec import Codec, codec_for, encode_json
from headwater.errors import InvalidValue

Q = TypeVar("Q")
State = Literal["requested", "started", "pending", "completed", "failed", "cancelled", "in_doubt"]
STATES: tuple[State, ...] = ("requested", "started", "pending", "completed", "failed", "cancelled", "in_doubt")
Call = Literal["start", "poll", "cancel"]
"""What is asked of the third party."""


class Tracked(msgspec.Struct, Generic[Q], frozen=True, kw_only=True):
    """The record of one operation. Times are milliseconds since the epoch, 0 for what has not happened.

    `standing` is "open" or "overdue" while the operation is open, and empty when it has ended. `detail` says why an
    operation is in doubt, has failed or was cancelled. `cancel_requested_ms`: it is no longer wanted, and still open
    because the third party knows of it; `cancel_refused`: the third party would not stop it. The fields from
    `attempts` on are as of the last transition; `Operation.get` has the present ones.
    """

    subject: str
    id: str
    request: Q
    state: State = "requested"
    standing: Literal["open", "overdue", ""] = "open"
    external_id: str = ""
    requested_ms: int
    deadline_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    overdue_ms: int = 0
    cancel_requested_ms: int = 0
    cancel_refused: bool = False
    detail: str = ""
    attempts: int = 0
    polls: int = 0
    polled_ms: int = 0
    next_ms: int | None = None
    last_status: int = 0
    last_answer: str = ""
    last_error: str = ""

    @property
    def idempotency_key(self) -> str:
        """Hand it to the third party with each start: it is the same for all starts of this operation."""
        return self.id

    @property
    def overdue(self) -> bool:
        """Whether it was not done in time, whatever became of it since."""
        return self.overdue_ms > 0

    @property
    def open(self) -> bool:
        return self.standing != ""


STATISTICS = ("attempts", "polls", "polled_ms", "next_ms", "last_status", "last_answer", "last_error")


class Progress(msgspec.Struct, kw_only=True):
    """Where an open operation stands. `next_ms` None: no message waits (a call was begun, or a person is needed).

    `may_run`: a start was begun, so that the third party may know of the operation. `failures` in a row set
    the back-off. `swept_ms`: the sweep by hand that last had it called. `stopping`:
    the third party has accepted to stop it. `rejoined`: it was requested again
    after the third party may have been asked to stop it.
    """

    subject: str
    id: str
    standing: Literal["open", "overdue"] = "open"
    token: int = 0
    may_run: bool = False
    failures: int = 0
    contract: str = ""
    swept_ms: int = 0
    stopping: bool = False
    rejoined: bool = False
    attempts: int = 0
    polls: int = 0
    polled_ms: int = 0
    next_ms: int | None = None
    last_status: int = 0
    last_answer: str = ""
    last_error: str = ""


class ContractChange(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of answer that does not fit what was agreed, while open operations have last been answered so.

    `id` names the kind: the same status, or the same errors at the same places. `subject`, `operation_id`, `status`,
    `answer` and `headers` are those of the operation that was the first to meet it; `affected` counts the open ones.
    """

    id: str
    operation: str = ""
    call: str = ""
    problem: str = ""
    subject: str = ""
    operation_id: str = ""
    status: int = 0
    answer: str = ""
    headers: dict[str, str] = {}
    seen_ms: int = 0
    affected: int = 0


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A message: the operation's next call is due. `paced`: its turn at the third party is now."""

    subject: str
    id: str
    token: int
    paced: bool = False


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """A message: the operation is overdue if it is still open."""

    subject: str
    id: str


def with_statistics(tracked: Tracked[Q], progress: Progress) -> Tracked[Q]:
    """The record with the figures of its progress."""
    return msgspec.structs.replace(tracked, **{name: getattr(progress, name) for name in STATISTICS})


_records = msgspec.json.Decoder(Tracked[msgspec.Raw])


def decode_raw(body: bytes) -> Tracked[msgspec.Raw]:
    """A stored record, its request left as it is."""
    try:
        return _records.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidValue(f"not a record of an operation: {error}") from error


def tracked_codec(request: type[Q]) -> Codec[Tracked[Q]]:
    """The codec of records whose request has this model."""
    requests = codec_for(request)

    def encode(value: Tracked[Q]) -> bytes:
        return encode_json(msgspec.structs.replace(value, request=msgspec.Raw(requests.encode(value.request))))

    def decode(body: bytes) -> Tracked[Q]:
        raw: Any = decode_raw(body)
        return msgspec.structs.replace(raw, request=requests.decode(bytes(raw.request)))

    return Codec(Tracked, encode, decode)

"""The one hierarchy of errors.

Every error says what was tried (`operation`), on what (`resource`), how to mend it (`hint`) and whether the
same call may succeed when repeated (`retryable`). `STATUS` maps each class to the status that the HTTP edge
answers with; a class without a row of its own uses its nearest base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class HeadwaterError(Exception):
    """Base of all errors raised by Headwater."""

    retryable = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, operation: str = "", resource: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.resource = resource
        self.hint = hint

    def __str__(self) -> str:
        where = " ".join(part for part in (self.operation, self.resource) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class DeclarationError(HeadwaterError):
    """An app, resource, route, pattern or setting is declared wrongly; raised before anything runs."""


class UnknownResource(HeadwaterError):
    """A name that no declared or stored resource has."""


class InvalidValue(HeadwaterError):
    """A document, message, key or cursor that its declaration does not allow.

    `errors` has the kind, place and message (`type`, `loc`, `msg`) of each invalid value, where that is known.
    """

    errors: Sequence[Mapping[str, Any]] = ()


class TooManyRejected(InvalidValue):
    """More rows of a file do not fit their model than allowed; the file is refused as a whole."""


class TooLarge(InvalidValue):
    """A document, message, body or unit of work beyond its limit."""


class ConditionFailed(HeadwaterError):
    """A condition of a write is false for the present state; nothing was written."""


class AlreadyExists(ConditionFailed):
    """A row is to be created and its key is taken; nothing was written."""


class Conflict(HeadwaterError):
    """What a unit read has changed before its commit, or two units raced; nothing was written.

    Handlers and requests are re-run in place before anyone sees this error.
    """

    retryable = True


class LoadRefused(HeadwaterError):
    """A load that would remove more of its dataset than it may; nothing of it is seen, the alarm topic tells of it."""


class LeaseLost(HeadwaterError):
    """The delivery's lease has passed to another attempt; this attempt's commit was refused."""


class IdempotencyMismatch(HeadwaterError):
    """An idempotency key was used before with a different request."""


class InProgress(HeadwaterError):
    """A request with the same idempotency key is still running."""

    retryable = True


class QueueFull(HeadwaterError):
    """A direct send to a queue that is at its maximum depth; nothing was sent."""

    retryable = True
    retry_after_s = 1.0


class Unauthenticated(HeadwaterError):
    """A request without valid credentials. Says no more than the caller may know."""


class Forbidden(HeadwaterError):
    """An authenticated caller without the role or usage plan that the endpoint requires."""


class Throttled(HeadwaterError):
    """Beyond the rate or quota of a usage plan; `retry_after_s` tells when the next request is let in.

    `limits` are the RateLimit headers of the answer.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float, resource: str = "", hint: str = "") -> None:
        super().__init__(message, operation="request", resource=resource, hint=hint)
        self.retry_after_s = retry_after_s
        self.limits: list[tuple[bytes, bytes]] = []


class Unavailable(HeadwaterError):
    """Something that the request needs cannot be reached now; nothing was done."""

    retryable = True
    retry_after_s = 1.0


class InvalidRequest(InvalidValue):
    """Bytes that are no valid HTTP/1.1 request, or one that another server on the way may read differently."""


class HeadersTooLarge(TooLarge):
    """The head of a request is beyond its limit."""


class Overloaded(Unavailable):
    """The server runs as many requests as it may; nothing was done."""


class TimedOut(HeadwaterError):
    """The request's body came too slowly (408), or its deadline passed (504, see `RequestExpired`)."""

    retryable = True


class RequestExpired(TimedOut):
    """The request ran longer than the server allows; whether it had an effect is not known."""


class UnsupportedMedia(InvalidValue):
    """A content type or content encoding that the endpoint does not read."""


class NotGranted(HeadwaterError):
    """A handler or endpoint called what it has no grant for: its code was not seen to, or `uses` leaves it out."""


class Unsupported(HeadwaterError):
    """What the store's engine does not have (`Features`)."""


class UnitClosed(HeadwaterError):
    """A write from code that outlived its unit of work (background task, generator, spawned task)."""


class StoreError(HeadwaterError):
    """The store cannot do what was asked."""


class StoreLocked(StoreError):
    """Another process owns the store."""


class StoreFull(StoreError):
    """No room on the disk; nothing was written, reads go on."""

    retryable = True


class StoreDamaged(StoreError):
    """The store's bytes are not what was written; it is stopped and never read past."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of Headwater."""


class CommitUnknown(StoreError):
    """The outcome of a commit is not known (an I/O error, a lost connection); the store is recovered first."""

    retryable = True


class Stopping(HeadwaterError):
    """The server drains and takes no new work."""

    retryable = True
    retry_after_s = 1.0


class Retry(Exception):
    """Raised by a handler: deliver again after `after` (default: the queue's back-off). Counts as a receive."""

    def __init__(self, after: float | str | None = None, reason: str = "retry requested") -> None:
        super().__init__(reason)
        self.after = after


class Undeliverable(Exception):
    """Raised by a handler: no retry can help; the message is a dead letter at once, with this reason."""


class Discard(Exception):
    """Raised by a handler: acknowledge without effect; the reason is recorded on the delivery."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


STATUS: dict[type[HeadwaterError], int] = {
    HeadwaterError: 500,
    UnknownResource: 404,
    InvalidValue: 422,
    TooLarge: 413,
    UnsupportedMedia: 415,
    InvalidRequest: 400,
    HeadersTooLarge: 431,
    Unauthenticated: 401,
    Forbidden: 403,
    Throttled: 429,
    Unavailable: 503,
    TimedOut: 408,
    RequestExpired: 504,
    ConditionFailed: 412,
    AlreadyExists: 409,
    Conflict: 409,
    LoadRefused: 409,
    LeaseLost: 409,
    IdempotencyMismatch: 422,
    InProgress: 409,
    QueueFull: 429,
    StoreFull: 507,
    Unsupported: 501,
    StoreError: 503,
    Stopping: 503,
}


def status_of(error: HeadwaterError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)

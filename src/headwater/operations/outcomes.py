"""What became of one call to the third party. Pure: from an answer or an error to an `Outcome`."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from headwater.errors import InvalidValue
from headwater.operations.tracked import Call
from headwater.retry_after import asked_wait_s

if TYPE_CHECKING:
    import httpx

A = TypeVar("A")
Verdict = Literal["pending", "completed", "failed", "cancelled"]
Kind = Literal[
    "started",
    "pending",
    "completed",
    "failed",
    "cancelled",
    "stopping",
    "refused",
    "busy",
    "unreachable",
    "changed",
    "postponed",
]
SHOWN = 2_000
"""How much of an answer is kept."""
KEPT_HEADERS = ("content-type", "content-length", "date", "location", "retry-after", "server", "x-request-id")
"""All others may hold secrets, and are not kept."""
_INDEX = re.compile(r"\[\d+\]")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`unsure`: whether the call had an effect at the third party is not known."""

    kind: Kind
    status: int = 0
    answer: str = ""
    headers: dict[str, str] = {}
    error: str = ""
    external_id: str = ""
    fingerprint: str = ""
    wait_s: float = 0.0
    unsure: bool = False


class Reader(Generic[A]):
    """Reads the answers of one kind of operation."""

    def __init__(self, answer: type[A]) -> None:
        self._decode: Callable[[bytes], A] = _strict(answer)
        self.judge: Callable[[A], Verdict] | None = None
        self.find_id: Callable[[httpx.Response], str] = id_of

    def read(self, call: Call, response: httpx.Response, now_s: float) -> Outcome:
        """Judge an answer."""
        status = response.status_code
        seen: dict[str, Any] = {"status": status, "answer": _shown(response)}
        if status == 429 or (status == 503 and "retry-after" in response.headers):
            wait_s = asked_wait_s(response.headers.get("retry-after", ""), now_s)
            error = f"answered {status}" + (f", to be asked again after {wait_s:g} s" if wait_s else "")
            return Outcome(kind="busy", wait_s=wait_s or 0.0, error=error, unsure=status == 503, **seen)
        if status >= 500:
            return Outcome(kind="unreachable", error=f"answered {status}", unsure=True, **seen)
        if 200 <= status < 300:
            return self._accepted(call, response, seen)
        if call == "cancel":
            return Outcome(kind="refused", error=f"refused to cancel: {status}", **seen)
        return _changed(call, f"unexpected status {status}", str(status), response, seen)

    def _accepted(self, call: Call, response: httpx.Response, seen: dict[str, Any]) -> Outcome:
        if call == "cancel" and not response.content:
            return Outcome(kind="cancelled", **seen)
        if call == "start":
            try:
                found = self.find_id(response)
            except Exception as error:
                text = f"the answer to the start has no id: {type(error).__name__}: {error}"
                return _changed(call, text, type(error).__name__, response, seen, unsure=True)
            return Outcome(kind="started", external_id=found, **seen)
        assert self.judge is not None
        try:
            verdict = self.judge(self._decode(response.content))
        except _Mismatch as error:
            return _changed(call, error.problem, error.kind, response, seen)
        except Exception as error:
            return _changed(call, f"on_answer raised {_said(error)}", f"raised {type(error).__name__}", response, seen)
        if verdict not in get_args(Verdict):
            return _changed(call, f"on_answer returned {verdict!r}", "verdict", response, seen)
        return Outcome(kind="stopping" if call == "cancel" and verdict == "pending" else verdict, **seen)


def read_error(call: Call, error: Exception) -> Outcome:
    """Judge a call that had no answer: an error of the connection, or of the code that makes the call."""
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Outcome(kind="unreachable", error=_said(error))
    if isinstance(error, httpx.TransportError | TimeoutError | OSError):
        return Outcome(kind="unreachable", error=_said(error), unsure=True)
    problem = f"on_{call} raised {_said(error)}{_place_of(error)}"
    return Outcome(
        kind="changed", error=problem, fingerprint=_fingerprint(call, f"raised {type(error).__name__}"), unsure=True
    )


def id_of(response: httpx.Response) -> str:
    """The third party's id, where nothing else is declared: the member "id" of the JSON answer."""
    document = response.json()
    found = document.get("id") if isinstance(document, dict) else None
    if not isinstance(found, str | int) or isinstance(found, bool) or found == "":
        raise InvalidValue('there is no member "id"')
    return str(found)


class _Mismatch(Exception):
    """The answer does not fit its model. `kind` is the same for the same errors at the same places."""

    def __init__(self, problem: str, kind: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.kind = kind


def _strict(model: type[A]) -> Callable[[bytes], A]:
    if issubclass(model, BaseModel):
        adapter: TypeAdapter[A] = TypeAdapter(model)

        def validate(body: bytes) -> A:
            try:
                return adapter.validate_json(body, strict=True)
            except ValidationError as error:
                raise _pydantic_mismatch(error) from error

        return validate
    decoder = msgspec.json.Decoder(model)

    def decode(body: bytes) -> A:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            text = str(error) if isinstance(error, msgspec.ValidationError) else "not JSON"
            raise _Mismatch(text, _INDEX.sub("[]", re.sub(r"'[^']*'", "", text))) from error

    return decode


def _pydantic_mismatch(error: ValidationError) -> _Mismatch:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = {(_place(one["loc"]), one["type"]) for one in found}
    problem = "; ".join(f"{_place(one['loc']) or 'answer'}: {one['msg']}" for one in found[:5])
    return _Mismatch(problem, repr(sorted(places)))


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join("[]" if isinstance(part, int) else part for part in location)


def _changed(
    call: Call, problem: str, kind: str, response: httpx.Response, seen: dict[str, Any], *, unsure: bool = False
) -> Outcome:
    headers = {name: response.headers[name][:200] for name in KEPT_HEADERS if name in response.headers}
    return Outcome(
        kind="changed", error=problem, fingerprint=_fingerprint(call, kind), headers=headers, unsure=unsure, **seen
    )


def _fingerprint(call: str, kind: str) -> str:
    return f"{call}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"


def _shown(response: httpx.Response) -> str:
    return response.content[: 4 * SHOWN].decode("utf-8", "replace")[:SHOWN]


def _place_of(error: Exception) -> str:
    """Where it was raised, for whoever has to mend it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _said(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__

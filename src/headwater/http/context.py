"""What is known of a request while it runs: kept in the ASGI scope, where routers, mounts and dependencies see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from headwater.errors import DeclarationError, HeadwaterError
from headwater.events import Caller
from headwater.ids import new_id

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.http.keys import Key
    from headwater.work import UnitOfWork

KEY = "headwater"


class RequestContext:
    """One request. `headers` are added to its response, whatever its status; `answered` when that has begun.

    It outlives re-runs after conflicts: who calls is found out once, and metered once.
    """

    __slots__ = (
        "__weakref__",
        "_trace",
        "answered",
        "app",
        "caller",
        "headers",
        "kept",
        "key",
        "metered",
        "status",
        "unit",
        "when_claimed",
    )

    def __init__(self, app: App[Any], trace: str) -> None:
        self.app = app
        self._trace = trace
        self.answered = False
        self.status = 0
        """Of the answer, when it has begun."""
        self.caller: Caller | None = None
        self.unit: UnitOfWork | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.key: Key | None = None
        self.metered: set[tuple[str, str]] = set()
        self.kept: Any = None
        """What an endpoint made of the body: with it the request can run again although the body is gone."""
        self.when_claimed: dict[str, HeadwaterError] = {}
        """What to answer when a claim of a scope turns out to be taken."""

    @property
    def request_id(self) -> str:
        """The trace that the request continues or begins."""
        if not self._trace:
            self._trace = new_id() if self.unit is None else self.unit.trace
        return self._trace

    def attach(self, unit: UnitOfWork) -> None:
        """The unit of the run that begins."""
        self.unit = unit
        if self.caller is not None:
            unit.call_for(self.caller)

    def identify(self, caller: Caller) -> None:
        """From here on what the request's unit emits carries this caller."""
        self.caller = caller
        if self.unit is not None and not self.unit.closed:
            self.unit.call_for(caller)


def context_of(scope: Scope) -> RequestContext:
    """The context of a request; raises `DeclarationError` outside of an app's endpoints."""
    found = scope.get(KEY)
    if not isinstance(found, RequestContext):
        raise DeclarationError(
            "the request did not come through an app's endpoints",
            operation="request",
            hint="declare endpoints on app.http, or include or mount them there",
        )
    return found

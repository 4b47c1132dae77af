"""What an endpoint requires of its callers: `require("data.read")`, `require(plan="subscriber")`, `anyone()`.

@app.http.get("/report")
async def report(caller: Annotated[Caller, require("data.read")]) -> Report: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from fastapi.params import Depends
from starlette.requests import Request
from starlette.types import Scope

from headwater.errors import DeclarationError
from headwater.events import Caller
from headwater.http.context import context_of


class Auth(Depends):
    """A requirement: a FastAPI dependency whose value is the `Caller`; also given to `expose` and `ingest`."""

    def __init__(self, roles: frozenset[str], plans: frozenset[str], throttle: str, *, open: bool) -> None:
        super().__init__(dependency=_dependency(self), use_cache=True)
        for name, value in {"roles": roles, "plans": plans, "throttle": throttle, "open": open}.items():
            object.__setattr__(self, name, value)

    roles: frozenset[str]
    plans: frozenset[str]
    throttle: str
    open: bool

    async def admit(self, scope: Scope) -> Caller:
        """Let the request in or raise `Unauthenticated`, `Forbidden` or `Throttled`; metered once a request."""
        context = context_of(scope)
        return await context.app.binding.access.admit(scope, context, self)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def _dependency(auth: Auth) -> Callable[[Request], Awaitable[Caller]]:
    async def admitted(request: Request) -> Caller:
        return await auth.admit(request.scope)

    admitted.__auth__ = auth  # type: ignore[attr-defined]
    return admitted


def require(*roles: str, plan: str | Collection[str] = "", throttle: str = "") -> Auth:
    """Callers with all of these roles, by a token or an API key.

    With `plan`, a name or several, only those with an API key of one of these usage plans.

    A key's requests are metered under its plan in any case. `throttle` names a usage plan that meters each other
    caller (a token's subject). Without roles and plan every authenticated caller is let in. The dependency's value
    is the `Caller`. Answers 401, 403 and 429.
    """
    for role in roles:
        if not role or " " in role:
            raise DeclarationError(f"{role!r} is no role", operation="require", hint="roles are words")
    plans = frozenset({plan} - {""} if isinstance(plan, str) else plan)
    if "" in plans or not (plans or isinstance(plan, str)):
        raise DeclarationError(f"plan={plan!r} names no usage plan", operation="require", hint="leave it out")
    return Auth(frozenset(roles), plans, throttle, open=False)


def anyone(*, throttle: str = "") -> Auth:
    """Open to all, credentials or none; `throttle` names a usage plan that meters each client address."""
    return Auth(frozenset(), frozenset(), throttle, open=True)

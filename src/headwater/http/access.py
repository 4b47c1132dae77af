"""Access: who calls, and whether the endpoint lets them in.

Credentials are a bearer token or an API key, never both. Nothing is authenticated before an endpoint (or an
idempotency key) asks for it; the answer to an endpoint is kept for the request, over its re-runs.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from starlette.types import Scope

from headwater.clock import Clock
from headwater.errors import Forbidden, Throttled, Unauthenticated
from headwater.events import Caller
from headwater.http.context import RequestContext
from headwater.http.credentials import refused
from headwater.http.issuers import Issuer, KeySpec
from headwater.http.jwks import Fetch
from headwater.http.keys import Key, KeyRing, Rows
from headwater.http.metering import Meter, UsageStore
from headwater.http.tokens import TokenVerifier
from headwater.quota import Plan

if TYPE_CHECKING:
    from headwater.http.require import Auth

NOBODY = Caller(subject="")
"""Who calls an endpoint that is open to anyone without credentials."""


class AccessRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is declared: issuers, usage plans and keys by name; `secrets` are those of development issuers."""

    environment: str = "default"
    issuers: Mapping[str, Issuer] = {}
    plans: Mapping[str, Plan] = {}
    keys: Mapping[str, KeySpec] = {}
    secrets: Mapping[str, bytes] = {}


class Access:
    """Authenticates, authorises and meters the requests of one server."""

    def __init__(
        self,
        rules: AccessRules,
        clock: Clock,
        *,
        keys: Rows,
        usage: UsageStore,
        fetch: Fetch | None = None,
        shared: bool = False,
    ) -> None:
        self.rules = rules
        self.meter = Meter(rules.plans, usage, clock, shared=shared)
        self.keys = KeyRing(keys, rules.keys, rules.environment, clock)
        self._tokens = TokenVerifier(rules.issuers, clock, rules.secrets, fetch)

    async def admit(self, scope: Scope, context: RequestContext, auth: Auth) -> Caller:
        """Let a request in under a requirement, once metered; raises what `Auth.admit` names."""
        if auth.open:
            if auth.throttle:
                await self._charge(context, f"address:{client_address(scope)}", auth.throttle)
            return context.caller or NOBODY
        caller, key = await self.identify(scope, context)
        if auth.plans and (key is None or key.plan not in auth.plans):
            named = " or ".join(repr(plan) for plan in sorted(auth.plans))
            raise Forbidden(f"this needs an API key of the usage plan {named}", operation="request")
        if not auth.roles <= caller.roles:
            missing = ", ".join(sorted(auth.roles - caller.roles))
            raise Forbidden(f"the caller lacks the role {missing}", operation="request")
        if key is not None:
            if key.plan:
                await self._charge(context, f"key:{key.id}", key.plan, always_counted=True)
        elif auth.throttle:
            await self._charge(context, f"token:{quote(caller.tenant)}:{caller.subject}", auth.throttle)
        return caller

    async def identify(self, scope: Scope, context: RequestContext) -> tuple[Caller, Key | None]:
        """Who sends the request: found out once. Raises `Unauthenticated`, `Unavailable`."""
        if context.caller is None:
            caller, context.key = await self._authenticate(scope)
            context.identify(caller)
        assert context.caller is not None
        return context.caller, context.key

    async def verify(self, token: str) -> Caller:
        """The caller of a bearer token. Raises `Unauthenticated`, `Unavailable`."""
        return await self._tokens.verify(token)

    async def _authenticate(self, scope: Scope) -> tuple[Caller, Key | None]:
        token, text = _credentials(scope)
        if text is None:
            return await self._tokens.verify(token), None
        key = await self.keys.verify(text)
        return key.caller, key

    async def _charge(self, context: RequestContext, who: str, plan: str, *, always_counted: bool = False) -> None:
        if (who, plan) in context.metered:
            return
        context.metered.add((who, plan))
        try:
            context.headers += await self.meter.charge(who, plan, always_counted=always_counted)
        except Throttled as error:
            context.headers += error.limits
            raise

    async def name_caller(self, scope: Scope) -> str:
        """To whom an idempotency key belongs: the authenticated caller, else whoever sends the same credentials.

        The endpoint does not learn of the caller: it may be open to anyone. Raises `Unavailable`.
        """
        try:
            caller, _ = await self._authenticate(scope)
            name = f"{caller.method}\0{caller.tenant}\0{caller.subject}"
        except Unauthenticated:
            sent = [value for name, value in scope["headers"] if name in (b"authorization", b"x-api-key")]
            name = f"\0{b''.join(sent).decode('latin-1')}"
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    async def close(self) -> None:
        await self._tokens.close()


def _credentials(scope: Scope) -> tuple[str, str | None]:
    """(token, API key): exactly one of them is sent."""
    tokens: list[bytes] = []
    keys: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            tokens.append(value)
        elif name == b"x-api-key":
            keys.append(value)
    if len(tokens) + len(keys) != 1:
        raise refused("send one credential" if tokens or keys else "the request has no credentials")
    if keys:
        return "", keys[0].decode("latin-1")
    scheme, _, token = tokens[0].decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise refused("the Authorization header has no bearer token")
    return token.strip(), None


def client_address(scope: Scope) -> str:
    """The client's address; of an IPv6 client the network (/64), which is what one client commonly has."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)

"""Who may use the console: everybody on this machine, or who signs in.

On a loopback address nobody has to sign in, and everyone is an operator; requests of web pages elsewhere are refused
by the Host and Origin they carry. On any other address, under any further name, and when there are tokens, one signs
in: with a token of the settings, or with a JWT of an issuer that the apps trust; its roles say whether one may act. A
session is a signed cookie that pages of other sites can't make the browser send. The key that signs is this process's.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal
from urllib.parse import quote, unquote

import msgspec

from headwater.clock import Clock, SystemClock
from headwater.errors import DeclarationError, Forbidden, Unauthenticated

Role = Literal["viewer", "operator"]
COOKIE = "headwater-console"
SESSION_S = 12 * 3600
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY = ("0.0.0.0", "::")


class Verified(msgspec.Struct, frozen=True):
    """What a JWT says; `ends_s` is when it expires."""

    subject: str
    roles: frozenset[str]
    ends_s: int


Verify = Callable[[str], Awaitable[Verified]]
"""Raises `Unauthenticated`."""


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` maps secret tokens to roles; `hosts` are further names under which the console is reached."""

    host: str = "127.0.0.1"
    port: int = 0
    hosts: tuple[str, ...] = ()
    tokens: Mapping[str, Role] = {}


class Visitor(msgspec.Struct, frozen=True):
    """Who asks. `csrf` is what forms of his pages carry."""

    name: str
    role: Role
    csrf: str

    @property
    def may_act(self) -> bool:
        return self.role == "operator"

    def check_may_act(self, operation: str) -> None:
        if not self.may_act:
            raise Forbidden("viewers may look only", operation=operation, hint="sign in as an operator")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    if host in _LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Raises `DeclarationError` when the address is open to others and nobody could sign in."""

    def __init__(self, settings: ConsoleSettings, verify: Verify | None = None, clock: Clock | None = None) -> None:
        self.settings = settings
        self._verify = verify
        self._clock = clock or SystemClock()
        self._secret = secrets.token_bytes(32)
        self._signed_out: dict[str, int] = {}
        self.open = is_loopback(settings.host) and not settings.tokens and not settings.hosts
        if not self.open and not settings.tokens and verify is None:
            raise DeclarationError(
                "the console would be open to everybody who reaches this address",
                operation="start",
                resource=f"{settings.host}:{settings.port}",
                hint="give it tokens or an issuer, or serve it on 127.0.0.1 without further names",
            )

    def check_host(self, host: str) -> None:
        """Refuse names that a foreign page could have pointed here (DNS rebinding)."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in _LOCAL or name in {known.lower() for known in (self.settings.host, *self.settings.hosts)}:
            return
        if self.settings.host in _ANY and _is_address(name):  # rebinding takes a name
            return
        raise Forbidden(
            f"the console isn't known under the name {name!r}",
            operation="console",
            hint="add it to console.hosts in headwater.toml",
        )

    def visitor(self, cookie: str | None) -> Visitor | None:
        """Who the cookie stands for; None must sign in."""
        if self.open:
            return Visitor("local", "operator", self._sign("local", "csrf"))
        name, role, ends, mark = (*(cookie or "").split("|"), "", "", "", "")[:4]
        if not hmac.compare_digest(mark.encode(), self._sign(name, role, ends).encode()) or mark in self._signed_out:
            return None
        if int(ends) < self._now_s() or role not in ("viewer", "operator"):
            return None
        return Visitor(unquote(name), "operator" if role == "operator" else "viewer", self._sign(name, ends, "csrf"))

    async def sign_in(self, token: str) -> str:
        """The cookie of a session. Raises `Unauthenticated`, `Forbidden`."""
        for known, role in self.settings.tokens.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return self._session(f"token {hashlib.sha256(known.encode()).hexdigest()[:6]}", role)
        if self._verify is None:
            raise Unauthenticated("the token is not known", operation="sign in")
        try:
            verified = await self._verify(token)
        except Unauthenticated as error:
            raise Unauthenticated("the token is not valid", operation="sign in") from error
        for role in ("operator", "viewer"):
            if f"console.{role}" in verified.roles:
                return self._session(verified.subject, role, verified.ends_s)
        raise Forbidden("the token has no role for the console", hint="it takes console.viewer or console.operator")

    def sign_out(self, cookie: str) -> None:
        """End a session before its time, whoever has its cookie."""
        _, _, ends, mark = (*cookie.split("|"), "", "", "", "")[:4]
        now_s = self._now_s()
        self._signed_out = {known: until for known, until in self._signed_out.items() if until >= now_s}
        if self.visitor(cookie) is not None and not self.open:
            self._signed_out[mark] = int(ends)

    def _session(self, subject: str, role: str, until_s: int | None = None) -> str:
        """The subject quoted: it may have any character, a cookie may not."""
        name, ends_s = quote(subject, safe=""), self._now_s() + SESSION_S
        ends = str(ends_s if until_s is None else min(ends_s, until_s))
        return "|".join((name, role, ends, self._sign(name, role, ends)))

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1000

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()

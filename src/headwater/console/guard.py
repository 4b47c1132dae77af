"""Who may use the console: everybody on this machine, or who signs in.

On a loopback address nobody has to sign in, and everyone is an operator; requests of web pages elsewhere are refused
by the Host and Origin they carry. On any other address one signs in with a token of the settings, or with a JWT of the
issuer that the apps trust; its roles say whether one may act. A session is a signed cookie that pages of other sites
can't make the browser send.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import msgspec

from headwater.errors import DeclarationError, Forbidden, HeadwaterError, Unauthenticated

Role = Literal["viewer", "operator"]
COOKIE = "headwater-console"
SESSION_S = 12 * 3600
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
Verify = Callable[[str], Awaitable[tuple[str, frozenset[str]]]]
"""From a JWT to (subject, roles); raises `Unauthenticated`."""


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` maps secret tokens to roles; `hosts` are further names under which the console is reached."""

    host: str = "127.0.0.1"
    port: int = 0
    hosts: tuple[str, ...] = ()
    tokens: Mapping[str, Role] = {}
    secure: bool = False


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


def is_loopback(host: str) -> bool:
    if host in _LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Raises `DeclarationError` when the address is open to others and nobody could sign in."""

    def __init__(self, settings: ConsoleSettings, verify: Verify | None = None) -> None:
        self.settings = settings
        self._verify = verify
        self._secret = secrets.token_bytes(32)
        self.open = is_loopback(settings.host) and not settings.tokens
        if not self.open and not settings.tokens and verify is None:
            raise DeclarationError(
                "the console would be open to everybody who reaches this address",
                operation="start",
                resource=f"{settings.host}:{settings.port}",
                hint="give it console.token or an issuer, or serve it on 127.0.0.1",
            )

    def check_host(self, host: str) -> None:
        """Refuse names that a foreign page could have pointed here (DNS rebinding)."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        known = {self.settings.host, *self.settings.hosts} - {"0.0.0.0", "::"}
        if name in known or (name in _LOCAL and is_loopback(self.settings.host)) or name in _LOCAL:
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
        if not hmac.compare_digest(mark, self._sign(name, role, ends)) or not ends.isdigit():
            return None
        if int(ends) < time.time() or role not in ("viewer", "operator"):
            return None
        return Visitor(name, "operator" if role == "operator" else "viewer", self._sign(name, ends, "csrf"))

    async def sign_in(self, token: str) -> str:
        """The cookie of a session. Raises `Unauthenticated`, `Forbidden`."""
        for known, role in self.settings.tokens.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return self._session(f"token {hashlib.sha256(known.encode()).hexdigest()[:6]}", role)
        if self._verify is None:
            raise Unauthenticated("the token is not known", operation="sign in")
        try:
            subject, roles = await self._verify(token)
        except HeadwaterError as error:
            raise Unauthenticated("the token is not valid", operation="sign in") from error
        for role in ("operator", "viewer"):
            if f"console.{role}" in roles:
                return self._session(subject, role)
        raise Forbidden("the token has no role for the console", hint="it takes console.viewer or console.operator")

    def _session(self, name: str, role: str) -> str:
        name = name.replace("|", "_")
        ends = str(int(time.time()) + SESSION_S)
        return "|".join((name, role, ends, self._sign(name, role, ends)))

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()

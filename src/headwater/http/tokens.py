"""Bearer tokens (JWT, RFC 7519): verified against the declared issuers, read into a `Caller`.

A token is judged in this order: its size, its form, its issuer (`iss`, which picks the declaration), its algorithm
(one of the issuer's own family: nothing in the token chooses how it is verified), its key (by `kid`, out of the
issuer's own keys: `jku`, `x5u`, `jwk` and `x5c` are never looked at), its signature, its claims. What fails answers
401 and says little. A verified token is remembered for a minute at most, never beyond its expiry: a key that its issuer
has taken back is soon refused for tokens that were seen before, too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from jwt.exceptions import ExpiredSignatureError, ImmatureSignatureError, InvalidTokenError

from headwater.clock import Clock
from headwater.durations import to_ms
from headwater.errors import DeclarationError
from headwater.events import Caller
from headwater.http.credentials import refused
from headwater.http.issuers import FAMILIES, Issuer
from headwater.http.jwks import Fetch, KeySet

MAX_TOKEN = 16 * 1024
MAX_KID = 256
MAX_SUBJECT = 512
"""In bytes of UTF-8: a subject can be part of a key."""
MAX_REMEMBERED = 20_000
REMEMBERED_MS = 60_000
MAX_TIME = 1e11
"""The latest `exp` and `nbf`, in seconds: the year 5138. Beyond it a time is an attack on the arithmetic."""
SECRET_BYTES = 32
DEVELOPMENT_ISSUER, DEVELOPMENT_AUDIENCE = "headwater-development", "headwater"
_REQUIRED = {"require": ["exp", "iss", "aud"], "verify_iat": False}


class TokenVerifier:
    """Verifies tokens of some issuers. `secrets_of` maps a development issuer's name to its secret."""

    def __init__(
        self, issuers: Mapping[str, Issuer], clock: Clock, secrets_of: Mapping[str, bytes], fetch: Fetch | None = None
    ) -> None:
        self._clock = clock
        self._trusted: dict[str, _Trusted] = {}
        self._remembered: dict[str, tuple[Caller, int]] = {}
        for name, issuer in issuers.items():
            trusted = _Trusted(issuer, clock, secrets_of.get(name, issuer.secret.encode()), fetch)
            if trusted.iss in self._trusted:
                raise DeclarationError(
                    f"two issuers have the name {trusted.iss!r}", operation="configure", resource=f"issuers.{name}"
                )
            self._trusted[trusted.iss] = trusted

    async def verify(self, token: str) -> Caller:
        """The caller that the token stands for; raises `Unauthenticated`, or `Unavailable` without the keys."""
        found = self._remembered.get(token)
        if found is not None and self._clock.wall_ms() < found[1]:
            return found[0]
        if len(token) > MAX_TOKEN:
            raise refused("the token is too long")
        try:
            caller, until_ms = await self._verify(token)
        except ExpiredSignatureError as error:
            raise refused("the token has expired") from error
        except ImmatureSignatureError as error:
            raise refused("the token is not valid yet") from error
        except (InvalidTokenError, ValueError, TypeError, RecursionError) as error:
            raise refused("the token is not valid") from error
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[token] = caller, until_ms
        return caller

    async def _verify(self, token: str) -> tuple[Caller, int]:
        parsed = jwt.decode_complete(token, options={"verify_signature": False})
        header, iss = parsed["header"], parsed["payload"].get("iss")
        trusted = self._trusted.get(iss) if isinstance(iss, str) else None
        if trusted is None or header.get("alg") not in trusted.issuer.accepted or "crit" in header:
            raise InvalidTokenError
        kid = header.get("kid")
        if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
            raise InvalidTokenError
        claims = await trusted.decode(token, header["alg"], kid, now_s=self._clock.wall_ms() / 1000)
        expires_ms = int(claims["exp"] * 1000) + trusted.leeway_ms
        return trusted.caller(claims), min(expires_ms, self._clock.wall_ms() + REMEMBERED_MS)

    async def close(self) -> None:
        for trusted in self._trusted.values():
            await trusted.close()


class _Trusted:
    """One declared issuer with its keys."""

    def __init__(self, issuer: Issuer, clock: Clock, secret: bytes, fetch: Fetch | None) -> None:
        self.issuer = issuer
        self.iss = issuer.issuer or DEVELOPMENT_ISSUER
        self.audience = issuer.audience or DEVELOPMENT_AUDIENCE
        self.leeway_ms = to_ms(issuer.leeway)
        family = next(name for name, known in FAMILIES.items() if issuer.accepted[0] in known)
        self._keys = KeySet(issuer.jwks, family, clock, fetch) if issuer.jwks else None
        self._key: Any = secret or issuer.key

    async def decode(self, token: str, algorithm: str, kid: str | None, *, now_s: float) -> dict[str, Any]:
        key = self._key if self._keys is None else await self._keys.key(kid, algorithm)
        if key is None:
            raise InvalidTokenError
        options: Any = {**_REQUIRED, "verify_exp": False, "verify_nbf": False}
        claims = jwt.decode(
            token, key, algorithms=[algorithm], audience=self.audience, issuer=self.iss, options=options
        )
        self._check_times(claims, now_s)
        return claims

    def _check_times(self, claims: dict[str, Any], now_s: float) -> None:
        """`exp` and `nbf` by the server's clock port."""
        leeway_s = self.leeway_ms / 1000
        expires, begins = claims["exp"], claims.get("nbf", 0)
        if not (_is_time(expires) and _is_time(begins)):
            raise InvalidTokenError
        if expires + leeway_s <= now_s:
            raise ExpiredSignatureError
        if begins - leeway_s > now_s:
            raise ImmatureSignatureError

    def caller(self, claims: dict[str, Any]) -> Caller:
        subject, tenant = _at(claims, self.issuer.subject), _at(claims, self.issuer.tenant)
        if not isinstance(subject, str) or not 0 < len(subject.encode()) <= MAX_SUBJECT:
            raise InvalidTokenError
        roles = {role for claim in self.issuer.role_claims for role in _words(_at(claims, claim))}
        named = tenant if isinstance(tenant, str) and len(tenant.encode()) <= MAX_SUBJECT else ""
        return Caller(subject, frozenset(roles), named, "token")

    async def close(self) -> None:
        if self._keys is not None:
            await self._keys.close()


def _is_time(value: Any) -> bool:
    """Neither bool nor NaN, and small enough to calculate with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_TIME


def _at(claims: Any, path: str) -> Any:
    """The claim of this name, or, when there is none, at this path of names."""
    if not path or not isinstance(claims, dict):
        return None
    if path in claims:
        return claims[path]
    first, separator, rest = path.partition(".")
    return _at(claims.get(first), rest) if separator else None


def _words(roles: Any) -> list[str]:
    if isinstance(roles, str):
        return roles.split()
    return [role for role in roles if isinstance(role, str)] if isinstance(roles, list) else []


def development_secret(path: Path) -> bytes:
    """The secret of a development issuer, made when it is first needed; only this user can read it.

    It is complete before it has its name: of two processes that make one at the same time both use the same.
    Raises `DeclarationError` when the file has no secret.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as draft:
            draft.write(secrets.token_hex(SECRET_BYTES).encode())
            draft.flush()
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, path)
    found = path.read_bytes()
    if len(found) < SECRET_BYTES:
        raise DeclarationError("the file has no secret", operation="configure", resource=str(path), hint="remove it")
    return found


def mint(claims: Mapping[str, Any], secret: bytes, issuer: Issuer, *, now_s: float, valid_s: float) -> str:
    """A token of a development issuer."""
    full = {
        "iss": issuer.issuer or DEVELOPMENT_ISSUER,
        "aud": issuer.audience or DEVELOPMENT_AUDIENCE,
        "iat": int(now_s),
        "exp": int(now_s + valid_s),
        **claims,
    }
    return jwt.encode(full, secret, algorithm=issuer.accepted[0])
